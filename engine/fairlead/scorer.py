"""Running models over the sequences of a rollout, microbatch by microbatch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairlead.data import device_microbatches
from fairlead.models import predicting_positions, target_logits, target_logprobs
from fairlead.ragged import takes_ragged
from fairlead.scalar import ScalarModel
from fairlead.strategy import Strategy


def length_mask(lengths: Tensor) -> Tensor:
    """Return ``[B, max(lengths)]`` bool, True below each length."""
    width = int(lengths.max()) if len(lengths) else 0
    return torch.arange(width, device=lengths.device)[None] < lengths[:, None]


def response_targets(tokens: Tensor, prompt_lengths: Tensor, response_lengths: Tensor) -> Tensor:
    """Return ``[B, S]`` bool, True at response tokens."""
    position = torch.arange(tokens.shape[1], device=tokens.device)[None]
    begin = prompt_lengths[:, None]
    return (position >= begin) & (position < begin + response_lengths[:, None])


def scatter(values: Tensor, mask: Tensor) -> Tensor:
    """Lay ``[N]`` values, in row order, into a zero ``[B, T]`` where the mask is True."""
    laid = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    laid[mask] = values
    return laid


@dataclass(frozen=True)
class Scorer:
    """Runs models over a rollout's sequences, microbatch by microbatch.

    One that was set aside (`Strategy.set_aside`) is on the device for as long as it runs.

    Attributes:
        tokens: ``[B, S]`` int64.
        prompt_lengths: ``[B]`` int64.
        response_lengths: ``[B]`` int64.
        mask: ``[B, T]`` bool, True at response tokens.
        temperature: Divides the logits of every model alike (fidelity item 10).
        token_budget: Most tokens of a forward pass.
        strategy: Where the models are.
    """

    tokens: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor
    mask: Tensor
    temperature: float
    token_budget: int
    strategy: Strategy

    def logprobs(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return log-probs and entropy, ``[B, T]`` each."""

        def forward(tokens: Tensor, targets: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            return target_logprobs(model, tokens, targets, self.temperature, lengths=lengths)

        logprobs, entropy = self._map(forward, 2, model)
        return logprobs, entropy

    def values(self, model: ScalarModel) -> Tensor:
        """Return the value of the state before each response token, ``[B, T]``."""

        def forward(tokens: Tensor, targets: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
            return (values_before(model, tokens, targets, lengths),)

        return self._map(forward, 1, model.model)[0]

    def kl_full(self, policy: nn.Module, reference: nn.Module | None) -> Tensor:
        """Return KL(policy || reference) over the vocabulary at each token, ``[B, T]``."""
        if reference is None:
            raise ValueError("the full-vocabulary KL needs a reference model")

        def forward(tokens: Tensor, targets: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
            mine, theirs = (
                target_logits(model, tokens, targets, lengths=lengths).float() / self.temperature
                for model in (policy, reference)
            )
            chunks = zip(mine.split(1024), theirs.split(1024), strict=True)
            return (torch.cat([_kl(p.log_softmax(-1), q.log_softmax(-1)) for p, q in chunks]),)

        return self._map(forward, 1, policy, reference)[0]

    def _map(
        self,
        forward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]],
        outputs: int,
        *models: nn.Module,
    ) -> list[Tensor]:
        results = [
            torch.zeros(self.mask.shape, dtype=torch.float32, device=self.mask.device)
            for _ in range(outputs)
        ]
        with self.strategy.at_hand(*models):
            for rows, *batch in self._batches(models):
                with self.strategy.autocast():
                    found = forward(*batch)
                for result, values in zip(results, found, strict=True):
                    result[rows] = scatter(values.float(), self.mask[rows])
        return results

    def _batches(
        self, models: Sequence[nn.Module]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        lengths = self.prompt_lengths + self.response_lengths
        device = self.tokens.device
        ragged = all(takes_ragged(model, self.tokens.shape[1]) for model in models)
        for group in device_microbatches(lengths.tolist(), self.token_budget, device, ragged):
            rows = torch.tensor(group, device=device)
            tokens = self.tokens[rows, : int(lengths[rows].max())]
            yield (
                rows,
                tokens,
                response_targets(tokens, self.prompt_lengths[rows], self.response_lengths[rows]),
                lengths[rows],
            )


def values_before(
    model: ScalarModel, tokens: Tensor, targets: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """Return the value of the state before each target token, ``[N]`` in row order.

    That state ends at the position before the token (fidelity item 28).
    """
    values: Tensor = model(tokens, predicting_positions(targets), lengths)
    return values


def _kl(logp: Tensor, logq: Tensor) -> Tensor:
    # A token excluded by both has p = 0 and contributes nothing; 0 * (-inf + inf) would not.
    difference = torch.where(logp.isneginf(), 0.0, logp - logq)
    return (logp.exp() * difference).sum(-1)
