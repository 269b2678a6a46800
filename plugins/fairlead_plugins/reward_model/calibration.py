"""How good a reward model is on prompts it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
RESAMPLES = 2000


def held_out_report(margins: Sequence[Tensor], seed: int) -> dict[str, Any]:
    """Summarise held-out pairs (fidelity item 8).

    Args:
        margins: For each prompt, ``r_w - r_l`` of its pairs, ``[P]`` float32.
        seed: Of the bootstrap.

    Returns:
        ``accuracy`` with a 95 % interval that resamples prompts, not pairs (the pairs of one
        prompt are not independent); ``pairs``, ``ties`` (equal scores, counted apart),
        ``margin`` and a ``calibration`` table. Empty when there is no pair.
    """
    if not margins:
        return {}
    every = torch.cat(list(margins))
    right = torch.tensor([int((row > 0).sum()) for row in margins], dtype=torch.float64)
    told = torch.tensor([int((row != 0).sum()) for row in margins], dtype=torch.float64)
    if not told.sum():
        return {"pairs": len(every), "ties": len(every)}
    low, high = _interval(right, told, seed)
    return {
        "accuracy": float(right.sum() / told.sum()),
        "accuracy_low": low,
        "accuracy_high": high,
        "pairs": len(every),
        "ties": int((every == 0).sum()),
        "heldout_prompts": len(margins),
        "margin": float(every.mean()),
        "calibration": calibration_table(every),
    }


def calibration_table(margins: Tensor) -> list[dict[str, float]]:
    """Return, by stated confidence, how often the stated preference was the labeler's.

    The confidence of a pair is ``sigmoid(|r_w - r_l|)``, at least a half.
    """
    confidence = torch.sigmoid(margins.abs().double())
    rows = []
    for low, high in pairwise(BINS):
        chosen = (confidence >= low) & ((confidence < high) | (high == BINS[-1])) & (margins != 0)
        count = int(chosen.sum())
        if count:
            rows.append(
                {
                    "confidence": float(confidence[chosen].mean()),
                    "accuracy": float((margins[chosen] > 0).double().mean()),
                    "count": count,
                }
            )
    return rows


def _interval(right: Tensor, told: Tensor, seed: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(right), (RESAMPLES, len(right)), generator=generator)
    # A resample of prompts whose scores are all equal says nothing.
    ratios = (right[drawn].sum(1) / told[drawn].sum(1)).nan_to_num(0.5)
    low, high = torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
