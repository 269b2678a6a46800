"""`kl_gae_whiten` in triton, in two launches."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fairlead_kernels.kl_gae_whiten import EPS, OPERATION
from fairlead_kernels.triton.gae import advantages_of
from fairlead_kernels.triton.kl_rewards import estimator_of, penalised, tile
from fairlead_kernels.triton.whiten import whiten_by_parts

__all__ = ["kl_gae_whiten"]


@triton.jit
def _joined(x, inside, count, mean, squares):  # type: ignore[no-untyped-def]
    """The moments of rows of which a tile, float64 [rows, positions], has now been seen as well."""
    n = tl.sum(inside.to(tl.float64), axis=1)
    near = tl.sum(tl.where(inside, x, 0.0), axis=1) / tl.maximum(n, 1.0)
    away = tl.where(inside, x - near[:, None], 0.0)
    apart = near - mean
    both = tl.maximum(count + n, 1.0)
    more = tl.sum(away * away, axis=1) + apart * apart * (count * n / both)
    # A tile without positions must not bring in 0 * inf.
    mean = tl.where(n > 0.0, mean + apart * (n / both), mean)
    return count + n, mean, squares + tl.where(n > 0.0, more, 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    logprobs,
    ref_logprobs,
    scores,
    values,
    mask,
    given_kl,
    token_scores,
    rewards,
    kl_out,
    advantages,
    returns,
    parts,
    rows,
    cols,
    beta,
    gamma,
    gamma_lambda,
    estimator: tl.constexpr,
    has_token_scores: tl.constexpr,
    rows_block: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * rows_block + tl.arange(0, rows_block)
    score = tl.load(scores + row, mask=row < rows, other=0.0)
    carry = tl.zeros([rows_block], tl.float32)
    count = tl.zeros([rows_block], tl.float64)
    mean = tl.zeros([rows_block], tl.float64)
    squares = tl.zeros([rows_block], tl.float64)
    steps = tl.cdiv(cols, block)
    for step in range(0, steps):
        start = (steps - 1 - step) * block
        t = start + tl.arange(0, block)
        at = row[:, None] * cols + t[None, :]
        there = (row < rows)[:, None] & (t < cols)[None, :]
        followed = there & (t + 1 < cols)[None, :]
        inside = tl.load(mask + at, mask=there, other=0) != 0
        goes_on = tl.load(mask + at + 1, mask=followed, other=0) != 0
        kl, reward = penalised(
            logprobs,
            ref_logprobs,
            given_kl,
            token_scores,
            at,
            inside,
            beta,
            estimator,
            has_token_scores,
        )
        # The mask is a prefix: the row's last position is where it does not go on.
        reward += tl.where(inside & (goes_on == 0), score[:, None], 0.0)
        tl.store(kl_out + at, kl, mask=there)
        tl.store(rewards + at, reward, mask=there)
        value = tl.load(values + at, mask=inside, other=0.0)
        after = tl.load(values + at + 1, mask=goes_on, other=0.0)
        result = advantages_of(reward + gamma * after - value, gamma_lambda, carry)
        carry = tl.sum(tl.where((t == start)[None, :], result, 0.0), axis=1)
        tl.store(advantages + at, tl.where(inside, result, 0.0), mask=there)
        tl.store(returns + at, tl.where(inside, result + value, 0.0), mask=there)
        count, mean, squares = _joined(result.to(tl.float64), inside, count, mean, squares)
    tl.store(parts + row * 3, count, mask=row < rows)
    tl.store(parts + row * 3 + 1, mean, mask=row < rows)
    tl.store(parts + row * 3 + 2, squares, mask=row < rows)


def kl_gae_whiten(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    values: Tensor,
    response_mask: Tensor,
    beta: float,
    gamma: float,
    lam: float,
    estimator: str,
    kl: Tensor | None,
    token_scores: Tensor | None,
) -> Tensor:
    """As `fairlead_kernels.kl_gae_whiten`, whose checks have run; its results are one tensor."""
    rows, cols = logprobs.shape
    results: Tensor = OPERATION.results(logprobs)
    if results.numel() == 0:
        return results
    rewards, used, advantages, returns = results.unbind()
    parts = torch.empty(rows, 3, dtype=torch.float64, device=logprobs.device)
    mask = response_mask.view(torch.uint8)
    rows_block, block = tile(cols)
    _kernel[(triton.cdiv(rows, rows_block),)](
        logprobs,
        ref_logprobs,
        scores,
        values,
        mask,
        logprobs if kl is None else kl,
        logprobs if token_scores is None else token_scores,
        rewards,
        used,
        advantages,
        returns,
        parts,
        rows,
        cols,
        float(beta),
        float(gamma),
        float(gamma * lam),
        estimator_of(estimator, kl),
        token_scores is not None,
        rows_block,
        block,
    )
    whiten_by_parts(advantages, mask, advantages, parts, True, EPS)
    return results
