"""What the sampler's tests share: its distribution in float64, written down another way."""

from __future__ import annotations

import math

import numpy as np
import torch
from tolerances import DISAGREEMENTS, NEAR_BOUNDARY
from torch import Tensor

LARGEST_U = 1 - 2.0**-53


def u_of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def kept_tokens(row: Tensor, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Which tokens top-k and then top-p leave of one row, one value after another."""
    x = row.double().numpy()
    kept = x > -math.inf
    if 0 < top_k < len(x):
        kept &= x >= np.sort(x)[-top_k]
    weights = np.where(kept, np.exp((x - x.max()) / temperature), 0.0)
    if top_p < 1:
        needed, mass, least = top_p * weights.sum(), 0.0, x.max()
        for least in sorted(set(x[kept]), reverse=True):
            mass += weights[x == least].sum()
            if mass >= needed:
                break
        kept &= x >= least
    return kept


def probabilities(row: Tensor, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """One row's distribution after both, in float64."""
    x = row.double().numpy()
    kept = kept_tokens(row, temperature, top_k, top_p)
    weights = np.where(kept, np.exp((x - x.max()) / temperature), 0.0)
    return weights / weights.sum()


def assert_draws_agree(
    ours: Tensor, other: Tensor, logits: Tensor, u: Tensor, *how: float | int
) -> None:
    """Draw for draw, but where u lies within rounding of the border between two tokens."""
    different = (ours != other).nonzero().flatten().tolist()
    assert len(different) <= DISAGREEMENTS, f"{len(different)} draws differ"
    for row in different:
        running = np.cumsum(probabilities(logits[row], *how))
        low, high = sorted((int(ours[row]), int(other[row])))
        for border in (running[low], running[high - 1]):
            assert abs(border - float(u[row])) < NEAR_BOUNDARY
