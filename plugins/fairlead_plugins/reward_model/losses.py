"""The K-way ranking loss of InstructGPT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fairlead.components import LossTerm
from fairlead_plugins.reward_model.config import RankingLossConfig


class RankingLoss:
    """``-1/C(K,2) * sum over pairs of log sigmoid(r_w - r_l)`` for each prompt.

    Paper, section 3.5, equation 1. Every prompt with a kept pair weighs 1, whatever its K:
    the sum of the prompts' losses is returned with their number.
    """

    Config = RankingLossConfig

    def __init__(self, config: RankingLossConfig) -> None:
        self.config = config

    def __call__(self, scores: Sequence[Tensor], ranks: Sequence[Sequence[float]]) -> LossTerm:
        """Return the summed loss, the number of prompts with a pair, and pair metrics."""
        losses: list[Tensor] = []
        right = tied = pairs = 0
        margin = 0.0
        for row, ranking in zip(scores, ranks, strict=True):
            differences = pair_differences(row, ranking)
            if not len(differences):
                continue
            every = len(row) * (len(row) - 1) // 2
            divisor = len(differences) if self.config.divisor == "pairs" else every
            losses.append(-logsigmoid(differences).sum() / divisor)
            right += int((differences > 0).sum())
            tied += int((differences == 0).sum())
            pairs += len(differences)
            margin += float(differences.detach().sum())
        total = torch.stack(losses).sum() if losses else torch.cat(list(scores)).sum() * 0.0
        # Equal scores are neither right nor wrong (fidelity item 8: ties apart).
        metrics = {
            "accuracy": (float(right), float(pairs - tied)),
            "margin": (margin, float(pairs)),
        }
        return LossTerm(total, float(len(losses)), metrics)


def pair_differences(scores: Tensor, ranks: Sequence[float]) -> Tensor:
    """Return ``r_w - r_l`` for every pair that is not tied, ``[P]``.

    Args:
        scores: ``[K]``.
        ranks: K numbers; the lower of two is preferred.
    """
    rank = torch.as_tensor(ranks, dtype=torch.float64, device=scores.device)
    better, worse = torch.nonzero(rank[:, None] < rank[None, :], as_tuple=True)
    return scores[better] - scores[worse]
