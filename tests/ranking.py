"""Rankings, reward models and rm stages, for tests of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support import save_causal

from fairlead.scalar import ScalarModel, scalar_from_causal
from fairlead.strategy import SingleDevice

CPU = SingleDevice("cpu")
EOS, PAD = 22, 23
RANKINGS: list[dict[str, Any]] = [
    {"prompt": "w1 w2", "responses": [" w3", " w4 w5", " w6"], "ranks": [0, 1, 2]},
    {"prompt": "w3", "responses": [" w5 w6", " w7"], "ranks": [0, 1]},
    {"prompt": "w5 w1 w9", "responses": [" w2", " w8 w8 w8", " w10", " w1"], "ranks": [1, 0, 1, 2]},
    {"prompt": "w7", "responses": [" w11", " w12"], "ranks": [1, 0]},
]
ROWS = [[3, 4, 5, EOS], [6, EOS], [7, 8, 9, 10, 11, EOS]]
"""Responses as ids, of three lengths."""


def fresh(directory: Path, family: str = "gpt2", seed: int = 0, **changes: Any) -> ScalarModel:
    """A reward model as the stage begins with, its weights large enough to tell ids apart."""
    save_causal(directory, family, **changes)
    model = scalar_from_causal(str(directory), 24, PAD, CPU, seed)
    for name, parameter in model.model.named_parameters():
        parameter.data *= 6 if parameter.ndim == 2 and "score" not in name else 1
    return model


def recipe(model: Path, records: list[dict[str, Any]] = RANKINGS, **more: Any) -> dict[str, Any]:
    stage = {
        "name": "rm",
        "model": str(model),
        "source": {"name": "inline", "records": records},
        "epochs": 5,
        "batch_size": 2,
        "lr": {"peak": 1e-2},
    }
    top = {key: more.pop(key) for key in ("heldout", "precision", "seed") if key in more}
    return {"heldout": 0.0, "threads": 1, **top, "stages": {"rm": {**stage, **more}}}
