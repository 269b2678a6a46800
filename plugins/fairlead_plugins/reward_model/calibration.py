"""How good a reward model is on prompts it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fairlead.statistics import Interval, mean_interval

BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def held_out_report(margins: Sequence[Tensor], seed: int) -> dict[str, Any]:
    """Summarise held-out pairs (fidelity item 8).

    Args:
        margins: For each prompt, ``r_w - r_l`` of all its pairs, ``[P]`` float32, those of a
            prompt ranked several times together.
        seed: Of the bootstrap.

    Returns:
        ``accuracy`` with a 95 % interval that resamples prompts, not pairs (the pairs of one
        prompt are not independent), left out where there is one prompt alone; ``pairs``, ``ties``
        (equal scores, counted apart), ``margin`` and a ``calibration`` table. Empty when there is
        no pair.
    """
    if not margins:
        return {}
    every = torch.cat(list(margins))
    told = every != 0
    if not told.any():
        return {"pairs": len(every), "ties": len(every)}
    return {
        **_accuracy(margins, seed).metrics("accuracy"),
        "pairs": len(every),
        "ties": int((~told).sum()),
        "heldout_prompts": len(margins),
        "margin": float(every.mean()),
        "calibration": calibration_table(margins, seed),
    }


def calibration_table(margins: Sequence[Tensor], seed: int) -> list[dict[str, float]]:
    """Return, by stated confidence, how often the stated preference was the labeler's.

    The confidence of a pair is ``sigmoid(|r_w - r_l|)``, at least a half.

    Args:
        margins: As of `held_out_report`.
        seed: Of the bootstrap.

    Returns:
        For each bin that holds a pair ``confidence``, ``accuracy`` with its interval as of
        `held_out_report`, and ``count``.
    """
    confidence = [torch.sigmoid(row.abs().double()) for row in margins]
    rows = []
    for low, high in pairwise(BINS):
        chosen = [
            row[(sure >= low) & ((sure < high) | (high == BINS[-1])) & (row != 0)]
            for row, sure in zip(margins, confidence, strict=True)
        ]
        every = torch.cat(chosen)
        if len(every):
            rows.append(
                {
                    "confidence": float(torch.sigmoid(every.abs().double()).mean()),
                    **_accuracy(chosen, seed).metrics("accuracy"),
                    "count": len(every),
                }
            )
    return rows


def _accuracy(margins: Sequence[Tensor], seed: int) -> Interval:
    """Return the share of pairs told apart that are told rightly; there must be one."""
    told = [row[row != 0] for row in margins]
    prompts = [str(number) for number, row in enumerate(told) for _ in row]
    return mean_interval((torch.cat(told) > 0).double().tolist(), prompts, seed=seed)
