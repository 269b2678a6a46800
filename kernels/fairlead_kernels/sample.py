"""The pinned sampler: one given uniform number a row, the same token in every implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels._checks import shape_error, temperature_at_least
from fairlead_kernels.dispatch import registry
from fairlead_kernels.token_logprobs import log_probabilities, token_logprobs

__all__ = ["CHUNK", "sample"]

CHUNK = 1024


def sample(
    logits: Tensor, u: Tensor, temperature: float = 1.0, impl: str = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws one token a row by inverting the cumulative distribution at `u`.

    What every implementation does, so that they agree draw for draw. A token's weight is
    `exp((x - max x) / temperature)` in float32, 0 where the logit is -inf. Weights are summed in
    float64, in token order, over chunks of 1,024 tokens. The target is `u` times the total. The
    chunk is the first whose running sum exceeds the target (the last with a positive sum, where
    rounding leaves none), the token the first in it whose running sum, from the chunk's start,
    exceeds what is left of the target (the last with a positive weight, where rounding leaves
    none). A token of weight 0 is therefore never drawn, at `u` = 0 or near 1 either.

    Temperature 0 takes the largest logit, the lowest index where several are equal; its
    log-probability and entropy are 0. The log-probability and entropy are `token_logprobs`' own.
    With `u` from `philox_uniform` the draw is a function of (seed, iteration, sequence, position)
    and the row's logits (fidelity items 14 and 33). A row with NaN has log-probability NaN and a
    token that means nothing.

    Args:
        logits: `[B, V]`, floating.
        u: `[B]`, float64, in [0, 1).
        temperature: Divides the logits; at least 0.
        impl: An implementation's name, or `auto`.

    Returns:
        Tokens `[B]` int64, their log-probabilities `[B]` float32 and the entropies in nats `[B]`
        float32, without gradient.

    Raises:
        ValueError: A shape, dtype or device that is not the above, or a temperature below 0.
        KernelError: `impl` cannot run on these inputs.
    """
    if logits.dim() != 2 or logits.shape[1] == 0 or not logits.is_floating_point():
        raise shape_error("sample", "logits must be floating [B, V] with V > 0", logits)
    if u.shape != logits.shape[:1] or u.dtype != torch.float64 or u.device != logits.device:
        raise shape_error("sample", f"u must be float64 [{logits.shape[0]}]", u)
    temperature_at_least("sample", temperature, zero_allowed=True)
    with torch.no_grad():
        token, logprob, entropy = registry.call("sample", impl, logits, u, temperature)
    return token, logprob, entropy


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


def _reference(logits: Tensor, u: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    rows, vocabulary = logits.shape
    if temperature == 0:
        zeros = torch.zeros(rows, device=logits.device)
        return logits.float().argmax(dim=1), zeros, zeros.clone()
    shifted, _, excluded = log_probabilities(logits, temperature)
    weights = shifted.exp().masked_fill(excluded, 0.0).double()
    chunks = -(-vocabulary // CHUNK)
    padded = torch.nn.functional.pad(weights, (0, chunks * CHUNK - vocabulary))
    chunked = padded.view(rows, chunks, CHUNK)
    sums = chunked.sum(dim=2)
    target = u * sums.cumsum(dim=1)[:, -1]
    chunk, before = _first_above(sums, target)
    at_chunk = chunk.view(rows, 1, 1).expand(rows, 1, CHUNK)
    inside, _ = _first_above(chunked.gather(1, at_chunk).squeeze(1), target - before)
    token = chunk * CHUNK + inside
    logprob, entropy = token_logprobs(logits, token, temperature, impl="reference")
    return token, logprob, entropy


def _probe(device: torch.device) -> tuple[object, ...]:
    return torch.zeros(2, 8, device=device), torch.zeros(2, dtype=torch.float64, device=device), 1.0


registry.define("sample", _reference, _probe)
