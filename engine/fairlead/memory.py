"""What a run's parts take of the memory, by count."""

from __future__ import annotations

from collections.abc import Sequence

from fairlead.models import LARGE_LOGITS
from fairlead_kernels import list_implementations
from fairlead_kernels.linear_logprobs import MEMORY_BYTES

_TRAINED = 16
"""Bytes a parameter: float32 weights, gradients and two Adam moments."""

_WEIGHTS = 4


def memory_estimate(
    models: Sequence[tuple[str, int, str]],
    logits: tuple[int, int],
    precision: str,
    device: str,
    offload: bool = False,
) -> dict[str, float]:
    """Estimate GiB by part.

    Args:
        models: (name, parameters, role), the role one of ``trained`` (16 bytes), ``averaged``,
            ``reference`` (4 each) or ``frozen``.
        logits: (tokens of a microbatch that are predicted, vocabulary); see `logits_bytes`.
            Activations are not counted: they depend on the architecture.
        precision: The run's.
        device: The type of the device.
        offload: Whether the run offloads: of reference and frozen models one at a time is there
            then, while trained ones are there with their weights alone.
    """
    frozen = 2 if precision == "bfloat16" else _WEIGHTS
    each = {"trained": _TRAINED, "averaged": _WEIGHTS, "reference": _WEIGHTS, "frozen": frozen}
    parts = {name: count * each[role] for name, count, role in models}
    parts["logits of a microbatch"] = logits_bytes(*logits, device)
    together = sum(parts.values())
    if offload and device != "cpu":
        visitors = [parts[name] for name, _, role in models if role in ("reference", "frozen")]
        update = together - sum(visitors)
        weights = _WEIGHTS * sum(n for _, n, role in models if role in ("trained", "averaged"))
        together = max(update, weights + max(visitors, default=0))
    parts["together, without activations"] = together
    return {name: taken / 2**30 for name, taken in parts.items()}


def logits_bytes(tokens: int, vocabulary: int, device: str) -> int:
    """Return the most that forward and backward pass of a head take for its logits.

    That is float32 logits, their gradient, and what plain torch keeps for it: seven copies in
    all. Large ones are never there at once where a kernel computes their log-probs chunk by chunk
    (of models whose logits are their head's product and nothing more).
    """
    whole = tokens * vocabulary * 4
    chunks = whole > LARGE_LOGITS and any(
        row.op == "linear_logprobs" and row.auto and row.impl != "reference"
        for row in list_implementations()
        if row.device == device
    )
    return min(MEMORY_BYTES, 7 * whole) if chunks else 7 * whole
