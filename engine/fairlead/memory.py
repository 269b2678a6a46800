"""What a run's parts take of the memory, by count."""

from __future__ import annotations

from collections.abc import Sequence

from fairlead.models import LARGE_LOGITS
from fairlead_kernels import list_implementations
from fairlead_kernels.linear_logprobs import MEMORY_BYTES


def memory_estimate(
    models: Sequence[tuple[str, int, str]], logits: tuple[int, int], precision: str, device: str
) -> dict[str, float]:
    """Estimate GiB by part.

    Args:
        models: (name, parameters, role), the role one of ``trained`` (float32 weights,
            gradients and two Adam moments: 16 bytes), ``averaged`` (4) or ``frozen``.
        logits: (tokens of a microbatch that are predicted, vocabulary); see `logits_bytes`.
            Activations are not counted: they depend on the architecture.
        precision: The run's.
        device: The type of the device.
    """
    frozen = 2 if precision == "bfloat16" else 4
    bytes_each = {"trained": 16, "averaged": 4, "frozen": frozen}
    parts = {name: count * bytes_each[role] / 2**30 for name, count, role in models}
    parts["logits of a microbatch"] = logits_bytes(*logits, device) / 2**30
    return {**parts, "together, without activations": sum(parts.values())}


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
