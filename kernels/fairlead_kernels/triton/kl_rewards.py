"""`kl_rewards` in triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fairlead_kernels.kl_rewards import ESTIMATORS
from fairlead_kernels.triton.exponential import exp_minus_line

__all__ = ["GIVEN", "estimator_of", "kl_rewards", "penalised", "tile"]

GIVEN = tl.constexpr(0)
"""The estimator's number where the divergence is given."""

_ELEMENTS = 1024


def tile(cols: int) -> tuple[int, int]:
    """Rows and columns of a program's tile: powers of two."""
    block = min(triton.next_power_of_2(cols), _ELEMENTS)
    return _ELEMENTS // block, block


def estimator_of(estimator: str, kl: Tensor | None) -> int:
    """The estimator's number: 1, 2, 3, or 0 where the divergence is given."""
    return 0 if kl is not None else ESTIMATORS.index(estimator) + 1


@triton.jit  # type: ignore[untyped-decorator]
def penalised(  # type: ignore[no-untyped-def]
    logprobs,
    ref_logprobs,
    given_kl,
    token_scores,
    at,
    inside,
    beta,
    estimator: tl.constexpr,
    has_token_scores: tl.constexpr,
):
    """The divergence and the reward, without the row's score, of the positions inside."""
    if estimator == GIVEN:
        kl = tl.load(given_kl + at, mask=inside, other=0.0)
    else:
        ours = tl.load(logprobs + at, mask=inside, other=0.0)
        log_ratio = ours - tl.load(ref_logprobs + at, mask=inside, other=0.0)
        if estimator == 1:
            kl = log_ratio
        elif estimator == 2:
            kl = 0.5 * (log_ratio * log_ratio)
        else:
            kl = exp_minus_line(-log_ratio)
    reward = 0.0 - beta * kl
    if has_token_scores:
        reward += tl.load(token_scores + at, mask=inside, other=0.0)
    return kl, reward


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    logprobs,
    ref_logprobs,
    scores,
    mask,
    given_kl,
    token_scores,
    rewards,
    kl_out,
    rows,
    cols,
    beta,
    estimator: tl.constexpr,
    has_token_scores: tl.constexpr,
    rows_block: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * rows_block + tl.arange(0, rows_block)
    score = tl.load(scores + row, mask=row < rows, other=0.0)
    seen = tl.zeros([rows_block], tl.int32)
    steps = tl.cdiv(cols, block)
    # From the end, so that the first position inside that comes up is the row's last.
    for step in range(0, steps):
        t = (steps - 1 - step) * block + tl.arange(0, block)
        at = row[:, None] * cols + t[None, :]
        there = (row < rows)[:, None] & (t < cols)[None, :]
        inside = tl.load(mask + at, mask=there, other=0) != 0
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
        last = tl.max(tl.where(inside, t[None, :], -1), axis=1)
        scored = inside & (t[None, :] == last[:, None]) & (seen == 0)[:, None]
        reward += tl.where(scored, score[:, None], 0.0)
        seen = tl.maximum(seen, (last >= 0).to(tl.int32))
        tl.store(kl_out + at, kl, mask=there)
        tl.store(rewards + at, reward, mask=there)


def kl_rewards(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    response_mask: Tensor,
    beta: float,
    estimator: str,
    kl: Tensor | None,
    token_scores: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As `fairlead_kernels.kl_rewards`, whose checks have run."""
    rows, cols = logprobs.shape
    rewards, used = torch.empty_like(logprobs), torch.empty_like(logprobs)
    if logprobs.numel() == 0:
        return rewards, used
    rows_block, block = tile(cols)
    _kernel[(triton.cdiv(rows, rows_block),)](
        logprobs,
        ref_logprobs,
        scores,
        response_mask.view(torch.uint8),
        logprobs if kl is None else kl,
        logprobs if token_scores is None else token_scores,
        rewards,
        used,
        rows,
        cols,
        float(beta),
        estimator_of(estimator, kl),
        token_scores is not None,
        rows_block,
        block,
    )
    return rewards, used
