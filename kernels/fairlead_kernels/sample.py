"""The pinned sampler: one given uniform number a row, the same token in every implementation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fairlead_kernels import triton
from fairlead_kernels._checks import (
    FLOATS,
    shape_error,
    temperature_at_least,
    tensors,
    values_can_be_read,
)
from fairlead_kernels._torch_op import TorchOp
from fairlead_kernels.dispatch import registry
from fairlead_kernels.token_logprobs import log_probabilities

__all__ = ["CHUNK", "OPERATION", "sample"]

CHUNK = 1024


def sample(
    logits: Tensor,
    u: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws one token a row by inverting the cumulative distribution at `u`.

    What every implementation does, so that they agree draw for draw. A token's weight is
    `exp((x - max x) / temperature)` in float32, 0 where the logit is -inf.

    Top-k comes first: it keeps the tokens whose logit is at least the k-th largest. Then top-p, on
    what is left: it keeps the smallest set of most probable tokens whose weights, added up in
    float64, reach `top_p` times the weight of all that top-k kept; the token that reaches it is in
    the set, so that there is always one. Tokens with the logit of the last one kept are all kept,
    in both: no order among equals has to be invented. Zeros of either sign are equal.

    The draw: the weights of the kept tokens are summed in float64, in token order, over chunks of
    1,024 tokens. The target is `u` times the total. The chunk is the first whose running sum
    exceeds the target (the last with a positive sum, where rounding leaves none), the token the
    first in it whose running sum, from the chunk's start, exceeds what is left of the target (the
    last with a positive weight, where rounding leaves none). A token of weight 0, or one that is
    cut off, is therefore never drawn, at `u` = 0 or near 1 either. Implementations may differ where
    the target, or the weight that top-p asks for, lies within rounding of a token's boundary.

    The log-probability and entropy are those of the distribution that is drawn from, which are
    those of `token_logprobs` on logits with -inf where a token was cut off. The log-probability is
    at most 0 and the entropy within [0, log K], K tokens being kept, exactly. Temperature 0 takes
    the largest logit, the lowest index where several are equal; its log-probability and entropy are
    0. A row with NaN, with +inf or without a finite logit has token 0, log-probability and entropy
    NaN.

    With `u` from `philox_uniform` the draw is a function of (seed, iteration, sequence, position)
    and the row's logits, whatever the rest of the batch (fidelity items 14 and 33).

    Args:
        logits: `[B, V]`, floating. Rows may overlap: a row expanded to the batch is not copied.
        u: `[B]`, float64, in [0, 1).
        temperature: Divides the logits; at least 0.
        top_k: How many tokens are kept, ties aside; 0, or V and more, for all.
        top_p: Which share of the probability is kept, in (0, 1]; 1 for all.
        impl: An implementation's name, or `auto`.

    Returns:
        Tokens `[B]` int64, their log-probabilities `[B]` float32 and the entropies in nats `[B]`
        float32, without gradient.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: A shape, dtype or device that is not the above, a temperature or top_k below 0,
            a top_p outside (0, 1].
        KernelError: `impl` cannot run on these inputs.
    """
    tensors("sample", logits=logits, u=u)
    if logits.dim() != 2 or logits.shape[1] == 0 or not logits.is_floating_point():
        raise shape_error("sample", "logits must be floating [B, V] with V > 0", logits)
    if u.shape != logits.shape[:1] or u.dtype != torch.float64 or u.device != logits.device:
        raise shape_error("sample", f"u must be float64 [{logits.shape[0]}]", u)
    _check_u(u)
    temperature_at_least("sample", temperature, zero_allowed=True)
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0:
        raise ValueError(f"sample: top_k must be an integer of at least 0 (0: all), got {top_k}")
    if not 0 < top_p <= 1:
        raise ValueError(f"sample: top_p must be above 0 and at most 1 (1: all), got {top_p}")
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    with torch.no_grad():
        token, logprob, entropy = registry.call(
            "sample", impl, logits, u.contiguous(), temperature, min(top_k, logits.shape[1]), top_p
        )
    return token, logprob, entropy


def _check_u(u: Tensor) -> None:
    # On a GPU looking would mean to wait for it.
    if u.device.type != "cpu" or not values_can_be_read():
        return
    if not bool(((u >= 0) & (u < 1)).all()):
        raise ValueError("sample: u must be in [0, 1)")


def _first_above(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The first index whose running sum exceeds the target, and the running sum before it.

    A running sum grows at positive weights alone, so that the index found has one.
    """
    running = weights.cumsum(dim=1)
    above = running > target.unsqueeze(1)
    order = torch.arange(1, weights.shape[1] + 1, device=weights.device)
    last_positive = ((weights > 0) * order).amax(dim=1).sub(1).clamp(min=0)
    # argmax gives the first of equal values.
    index = torch.where(above.any(dim=1), above.to(torch.uint8).argmax(dim=1), last_positive)
    before = torch.nn.functional.pad(running, (1, 0)).gather(1, index.unsqueeze(1)).squeeze(1)
    return index, before


def _invert(weights: Tensor, u: Tensor) -> Tensor:
    """The token that each row's weights have at `u`."""
    rows, vocabulary = weights.shape
    chunks = -(-vocabulary // CHUNK)
    # One chunk needs no padding: zeros change no running sum.
    width = CHUNK if chunks > 1 else vocabulary
    padded = torch.nn.functional.pad(weights, (0, chunks * width - vocabulary))
    chunked = padded.view(rows, chunks, width)
    sums = chunked.sum(dim=2)
    chunk, before = _first_above(sums, target := u * sums.cumsum(dim=1)[:, -1])
    at_chunk = chunk.view(rows, 1, 1).expand(rows, 1, width)
    inside, _ = _first_above(chunked.gather(1, at_chunk).squeeze(1), target - before)
    return chunk * width + inside


def _truncated(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """The logits with -inf where top-k and then top-p cut a token off."""
    if top_k == 0 and top_p == 1:
        return logits
    ordered = logits.sort(dim=1, descending=True).values
    if top_k > 0:
        least = ordered[:, top_k - 1 : top_k]
        logits = logits.masked_fill(logits < least, -math.inf)
        ordered = ordered.masked_fill(ordered < least, -math.inf)
    if top_p < 1:
        shifted, _, excluded = log_probabilities(ordered, temperature)
        running = shifted.exp().masked_fill(excluded, 0.0).double().cumsum(dim=1)
        last = (running < top_p * running[:, -1:]).sum(dim=1, keepdim=True)
        logits = logits.masked_fill(logits < ordered.gather(1, last), -math.inf)
    return logits


def _reference(
    logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    logits = logits.float()
    if temperature == 0:
        usable = logits.amax(dim=1).isfinite()
        nothing = torch.where(usable, 0.0, math.nan)
        return logits.argmax(dim=1).where(usable, 0), nothing, nothing.clone()
    logits = _truncated(logits, temperature, top_k, top_p)
    shifted, log_total, excluded = log_probabilities(logits, temperature)
    token = _invert(shifted.exp().masked_fill(excluded, 0.0).double(), u)
    logprob = (shifted.gather(1, token.unsqueeze(1)) - log_total).squeeze(1)
    probabilities = (shifted - log_total).exp().masked_fill(excluded, 0.0)
    entropy = log_total.squeeze(1) - (probabilities * shifted).sum(dim=1)
    # Above log K it is by rounding alone; minimum lets NaN through.
    return token, logprob, entropy.minimum(_largest_entropy((~excluded).sum(dim=1)))


def _largest_entropy(kept: Tensor) -> Tensor:
    """The largest float32 that is at most log(kept)."""
    exact = kept.double().log()
    rounded = exact.float()
    return torch.where(
        rounded.double() > exact, rounded.nextafter(torch.zeros_like(rounded)), rounded
    )


def _check(logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float) -> str | None:
    if logits.dim() != 2 or logits.shape[1] == 0 or logits.dtype not in FLOATS:
        return (
            "logits must be float32, bfloat16 or float16 [B, V] with V > 0, "
            f"got {tuple(logits.shape)} {logits.dtype}"
        )
    if logits.shape[1] > 1 and logits.stride(1) != 1:
        return f"logits must have unit stride along a row, got {logits.stride(1)}"
    if u.shape != logits.shape[:1] or u.dtype != torch.float64 or not u.is_contiguous():
        return f"u must be contiguous float64 [{logits.shape[0]}]"
    if u.device != logits.device:
        return "logits and u must be on one device"
    if not (temperature >= 0 and top_k >= 0 and 0 < top_p <= 1):
        return (
            "temperature and top_k must be at least 0 and top_p in (0, 1], "
            f"got {temperature}, {top_k} and {top_p}"
        )
    return None


def _results(logits: Tensor, *_others: object) -> tuple[Tensor, Tensor, Tensor]:
    rows = logits.shape[:1]
    return (
        logits.new_empty(rows, dtype=torch.int64),
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty(rows, dtype=torch.float32),
    )


# SymInt: top_k is at most the vocabulary, which torch.compile may vary.
OPERATION = TorchOp(
    "(Tensor logits, Tensor u, float temperature, SymInt top_k, float top_p)"
    " -> (Tensor, Tensor, Tensor)",
    _results,
    _check,
)


def _probe(device: torch.device) -> tuple[object, ...]:
    u = torch.zeros(2, dtype=torch.float64, device=device)
    return torch.zeros(2, 8, device=device), u, 1.0, 0, 1.0


registry.define("sample", _reference, _probe)


def _triton_supports(
    logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float
) -> str | None:
    if logits.dtype not in FLOATS:
        return f"it takes float32, bfloat16 and float16 logits, these are {logits.dtype}"
    return triton.runs_on(logits.device)


_TRITON = OPERATION.define("triton_sample", triton.launcher("sample:sample"))
triton.register("sample", _TRITON, _triton_supports)
