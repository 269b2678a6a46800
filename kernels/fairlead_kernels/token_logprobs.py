"""Log-probability of given tokens, and the entropy of the distribution they come from."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from fairlead_kernels import triton
from fairlead_kernels._checks import shape_error, takes, temperature_at_least, tensors
from fairlead_kernels._logprob_ops import define_token_logprobs
from fairlead_kernels.dispatch import registry
from fairlead_kernels.triton.blocks import BLOCKS

__all__ = ["largest_entropy", "log_probabilities", "token_logprobs"]


def token_logprobs(
    logits: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    impl: str = "auto",
    inplace_backward: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each label and entropy of each row, under logits over a temperature.

    With `m` the row's largest logit and `z = (x - m) / temperature`, the log-probability of token
    `i` is `z_i - log sum exp z`, at most 0 exactly; the entropy is
    `log sum exp z + sum p_i (-z_i)`, in [0, log V] exactly. Fidelity items 10 and 33.

    Everything is float32 inside, whatever the dtype of the logits. Both outputs are differentiable.
    A logit of -inf excludes its token: probability 0, no NaN in a value or a gradient as long as
    one logit of the row is finite. An excluded label has log-probability -inf and gives its row no
    gradient through it. A row with NaN, with +inf or without a finite logit gives NaN.

    The native kernels read logits with any stride between rows; where the last dimension is not
    contiguous they copy. To `cpp` a token less probable than the likeliest by 2^126 and more adds
    nothing, or about that little, to an entropy. They give a row whose two gradients are both zero
    a zero gradient, NaN in its logits notwithstanding. A label outside [0, V) is an error on the
    CPU; on a GPU, where looking would stall it, `triton` gives it log-probability NaN.

    Args:
        logits: `[N, V]`, floating.
        labels: `[N]`, int64, in [0, V).
        temperature: Divides the logits; above 0.
        impl: An implementation's name, or `auto`.
        inplace_backward: Lets the backward write the gradient over the logits, which saves their
            size in memory. The logits are lost then, and so is whatever shares their memory. An
            operation that kept them for its own backward, and a second backward through this one,
            gets torch's error of a tensor "modified by an inplace operation". An implementation
            that cannot (the reference; any under torch.compile) leaves them as they are.

    Returns:
        Log-probabilities `[N]` and entropies in nats `[N]`, float32.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: A shape, dtype or device that is not the above, a temperature of 0 or less, or
            `inplace_backward` with logits that must not be written over.
        IndexError: On the CPU, a label that is not in the vocabulary (of the reference, torch's
            RuntimeError).
        KernelError: `impl` cannot run on these inputs.
    """
    tensors("token_logprobs", logits=logits, labels=labels)
    if logits.dim() != 2 or logits.shape[1] == 0 or not logits.is_floating_point():
        raise shape_error("token_logprobs", "logits must be floating [N, V] with V > 0", logits)
    if (
        labels.shape != logits.shape[:1]
        or labels.dtype != torch.int64
        or labels.device != logits.device
    ):
        raise shape_error("token_logprobs", f"labels must be int64 [{logits.shape[0]}]", labels)
    temperature_at_least("token_logprobs", temperature, zero_allowed=False)
    # Handed on only where it is set: a kernel that knows nothing of it serves everything else.
    options = {"inplace_backward": True} if inplace_backward else {}
    if inplace_backward and logits.requires_grad:
        _check_may_be_overwritten(logits)
    logprobs, entropy = registry.call(
        "token_logprobs", impl, logits, labels, temperature, **options
    )
    return logprobs, entropy


def _check_may_be_overwritten(logits: Tensor) -> None:
    owner = logits if logits._base is None else logits._base
    if logits.is_leaf or owner.is_leaf:
        raise ValueError(
            "token_logprobs: inplace_backward=True needs logits that were computed; these are a "
            "leaf or a view of one, whose memory its .grad would take over"
        )
    rows, cols = logits.shape
    if rows > 1 and logits.stride(0) < cols and logits.stride(1) == 1:
        raise ValueError(
            "token_logprobs: inplace_backward=True needs rows that do not overlap in memory, got "
            f"strides {logits.stride()} (expanded?)"
        )


def log_probabilities(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """The pieces of a log-softmax, `[N, V]`, `[N, 1]` and `[N, V]` float32.

    Returns:
        `z = (x - max x) / temperature` with 0 where a token is excluded, `log sum exp z`, and
        which tokens are excluded (boolean).
    """
    x = logits.float()
    # What is built from these does not depend on the maximum: its gradient, left out, is zero.
    shifted = (x - x.detach().amax(dim=-1, keepdim=True)) / temperature
    # A comparison with -inf, not isfinite: NaN must stay NaN.
    excluded = shifted == -math.inf
    # The input of exp is masked, not its output alone, since 0 * NaN would come back as a gradient.
    shifted = shifted.masked_fill(excluded, 0.0)
    total = shifted.exp().masked_fill(excluded, 0.0).sum(dim=-1, keepdim=True)
    return shifted, total.log(), excluded


@lru_cache
def largest_entropy(vocabulary: int) -> float:
    """The largest float32 that is at most log(vocabulary)."""
    exact = math.log(vocabulary)
    rounded = torch.tensor(exact, dtype=torch.float32)
    if rounded.item() > exact:
        rounded = torch.nextafter(rounded, torch.zeros_like(rounded))
    return rounded.item()


def _reference(
    logits: Tensor, labels: Tensor, temperature: float, inplace_backward: bool = False
) -> tuple[Tensor, Tensor]:
    shifted, log_total, excluded = log_probabilities(logits, temperature)
    at_label = labels.unsqueeze(1)
    logprobs = (shifted.gather(1, at_label) - log_total).squeeze(1)
    # Under a largest logit of +inf everything else looks excluded: such a row is NaN.
    out = excluded.gather(1, at_label).squeeze(1) & ~logprobs.isnan()
    logprobs = logprobs.masked_fill(out, -math.inf)
    # Two sums of terms that are not negative: the entropy is at least 0 as it stands.
    probabilities = (shifted - log_total).exp().masked_fill(excluded, 0.0)
    entropy = log_total.squeeze(1) - (probabilities * shifted).sum(dim=-1)
    # Above log V it is by rounding alone. The overshoot is taken off as a constant: a clamp would
    # take the gradient as well.
    over = (entropy - largest_entropy(logits.shape[1])).clamp(min=0.0).detach()
    return logprobs, entropy - over


def _probe(device: torch.device) -> tuple[Tensor, Tensor, float]:
    return (
        torch.zeros(2, 8, device=device),
        torch.zeros(2, dtype=torch.int64, device=device),
        1.0,
    )


registry.define("token_logprobs", _reference, _probe)


def _triton_supports(
    logits: Tensor, labels: Tensor, temperature: float, inplace_backward: bool = False
) -> str | None:
    return triton.runs_on(logits.device) or takes(logits)


_TRITON = define_token_logprobs("triton_token_logprobs", BLOCKS)
triton.register("token_logprobs", _TRITON, _triton_supports)
