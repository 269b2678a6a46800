"""The gate for the sampler: its draws, and the log-probabilities and entropies that go with them.

A draw is right where inverting the float64 cumulative distribution gives the same token. Weights
are float32, so that a target within rounding of a token's edge may fall to either side: such draws
are let through and counted. So is a token that lies within rounding of the edge of top-p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead_kernels.bench.judge import (
    Judge,
    Verdict,
    difference,
    exact_properties,
    largest,
    measure_error,
)
from fairlead_kernels.bench.workload import Function, Inputs, Workload

__all__ = ["EDGE", "judge_draws"]

EDGE = 2.0**-21
"""How near, as a share of the total, a target is within rounding of an edge: 4 float32 ulp of 1."""


@dataclass(frozen=True)
class _Law:
    """A float64 distribution that may be the one drawn from; two are, at the edge of top-p.

    Attributes:
        logprobs: `[B, V]`, -inf where a token is cut off.
        running: `[B, V]`, the cumulative distribution in token order.
        entropy: `[B]`.
    """

    logprobs: Tensor
    running: Tensor
    entropy: Tensor


def _kept(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Which tokens are left: top-k first, top-p of what that left; equal logits stay together."""
    least = torch.full_like(logits[:, :1], -math.inf)
    if 0 < top_k < logits.shape[1]:
        least = logits.topk(top_k).values[:, -1:]
    kept = logits >= least
    if top_p < 1:
        ordered = logits.masked_fill(~kept, -math.inf).sort(dim=1, descending=True).values
        probabilities = ordered.softmax(dim=1)
        before = probabilities.cumsum(dim=1) - probabilities
        count = (before < top_p).sum(dim=1, keepdim=True).clamp(min=1)
        kept &= logits >= ordered.gather(1, count - 1)
    return kept & (logits > -math.inf)


def _law(logits: Tensor, top_k: int, top_p: float) -> _Law:
    logprobs = logits.masked_fill(~_kept(logits, top_k, top_p), -math.inf).log_softmax(dim=1)
    probabilities = logprobs.exp()
    entropy = -(probabilities * logprobs.masked_fill(probabilities == 0, 0.0)).sum(dim=1)
    return _Law(logprobs, probabilities.cumsum(dim=1), entropy)


def _fits(law: _Law, token: Tensor, u: Tensor, slack: float) -> Tensor:
    """Whether each target lies in its token's part of the cumulative distribution."""
    at = token.unsqueeze(1)
    high = law.running.gather(1, at).squeeze(1)
    share = law.logprobs.gather(1, at).squeeze(1).exp()
    target = u * law.running[:, -1]
    return (high - share - slack <= target) & (target <= high + slack) & (share > 0)


def judge_draws(workload: Workload, inputs: Inputs) -> Judge:
    """Tokens by float64 inversion; log-probability and entropy by the error rule."""
    kwargs = inputs.kwargs
    logits, u = kwargs["logits"], kwargs["u"]
    top_k, top_p = int(kwargs.get("top_k", 0)), float(kwargs.get("top_p", 1.0))
    wide = logits.double()
    near = (top_p,) if top_p >= 1 else (top_p, top_p - EDGE, top_p + EDGE)
    laws = [_law(wide, top_k, min(p, 1.0)) for p in near]
    # Plain torch's own float32 numbers under the first of them, the distribution as it is said.
    narrow = logits.float().masked_fill(laws[0].logprobs == -math.inf, -math.inf)
    plain = narrow.log_softmax(dim=1)
    plain_terms = plain.exp() * plain.masked_fill(plain == -math.inf, 0.0)
    plain_entropy = largest(difference(-plain_terms.sum(dim=1), laws[0].entropy))

    def judge(function: Function) -> Verdict:
        outputs = workload.call(function, inputs)
        token = outputs["token"]
        if token.shape != u.shape or token.dtype != torch.int64:
            found = f"{list(token.shape)} {token.dtype}"
            return Verdict((f"token must be int64 {list(u.shape)}, not {found}",), math.nan, 0.0)
        if bool(((token < 0) | (token >= logits.shape[1])).any()):
            return Verdict(("a token is not in [0, V)",), math.nan, 0.0)
        fits = torch.stack([_fits(law, token, u, EDGE) for law in laws])
        wrong = int((~fits.any(dim=0)).sum())
        strict = torch.stack([_fits(laws[0], token, u, 0.0)])
        near_edge = int((~strict.any(dim=0)).sum()) - wrong
        problems = []
        if wrong:
            problems.append(f"{wrong:,} of {len(token):,} draws are not those of the sampler")
        # Each row under the law that its draw fits: the first, where it fits several.
        which = fits.to(torch.uint8).argmax(dim=0)
        rows = torch.arange(len(token), device=token.device)
        exact = {
            "logprob": torch.stack([law.logprobs[rows, token] for law in laws])[which, rows],
            "entropy": torch.stack([law.entropy for law in laws])[which, rows],
        }
        plain_logprob = largest(difference(plain[rows, token], laws[0].logprobs[rows, token]))
        plain_errors = {"logprob": plain_logprob, "entropy": plain_entropy}
        errors = {}
        for name, right in exact.items():
            errors[name], problem = measure_error(name, outputs[name], plain_errors[name], right)
            problems += [problem] if problem else []
        if not problems:
            problems += exact_properties(workload, inputs, function, outputs)
        remark = f"{near_edge:,} draws within rounding of an edge" if near_edge > 0 else ""
        worst = max(row[0] for row in errors.values())
        return Verdict(tuple(problems), worst, max(plain_errors.values()), errors, remark)

    return judge
