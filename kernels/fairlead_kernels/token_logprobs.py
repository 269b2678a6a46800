"""Log-probability of given tokens, and the entropy of the distribution they come from."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from fairlead_kernels._checks import shape_error, temperature_at_least
from fairlead_kernels.dispatch import registry

__all__ = ["log_probabilities", "token_logprobs"]


def token_logprobs(
    logits: Tensor, labels: Tensor, temperature: float = 1.0, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Log-probability of each label and entropy of each row, under logits over a temperature.

    With `m` the row's largest logit and `z = (x - m) / temperature`, the log-probability of token
    `i` is `z_i - log sum exp z`, at most 0 exactly; the entropy is
    `log sum exp z + sum p_i (-z_i)`, in [0, log V] exactly. Fidelity items 10 and 33.

    Everything is float32 inside, whatever the dtype of the logits. Both outputs are differentiable.
    A logit of -inf excludes its token: probability 0, no NaN in a value or a gradient as long as
    one logit of the row is finite. An excluded label has log-probability -inf and gives its row no
    gradient through it. A row with NaN, with +inf or without a finite logit gives NaN.

    Args:
        logits: `[N, V]`, floating.
        labels: `[N]`, int64, in [0, V).
        temperature: Divides the logits; above 0.
        impl: An implementation's name, or `auto`.

    Returns:
        Log-probabilities `[N]` and entropies in nats `[N]`, float32.

    Raises:
        ValueError: A shape, dtype or device that is not the above, or a temperature of 0 or less.
        KernelError: `impl` cannot run on these inputs.
    """
    if logits.dim() != 2 or logits.shape[1] == 0 or not logits.is_floating_point():
        raise shape_error("token_logprobs", "logits must be floating [N, V] with V > 0", logits)
    if (
        labels.shape != logits.shape[:1]
        or labels.dtype != torch.int64
        or labels.device != logits.device
    ):
        raise shape_error("token_logprobs", f"labels must be int64 [{logits.shape[0]}]", labels)
    temperature_at_least("token_logprobs", temperature, zero_allowed=False)
    logprobs, entropy = registry.call("token_logprobs", impl, logits, labels, temperature)
    return logprobs, entropy


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


def _reference(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    shifted, log_total, excluded = log_probabilities(logits, temperature)
    at_label = labels.unsqueeze(1)
    logprobs = (shifted.gather(1, at_label) - log_total).squeeze(1)
    logprobs = logprobs.masked_fill(excluded.gather(1, at_label).squeeze(1), -math.inf)
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
