"""Checkpoints that survive a kill at any moment.

A checkpoint is written into a sibling directory, flushed, given a manifest with sizes and
hashes, and renamed into place; older ones are pruned after that. Reading takes the newest
whose manifest holds. Tensors are safetensors and the rest is JSON: nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fairlead.errors import DataError

log = logging.getLogger("fairlead.checkpoint")
MANIFEST = "manifest.json"


class Stateful(Protocol):
    """Something a checkpoint holds."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save, by name."""
        ...

    def numbers(self) -> dict[str, Any]:
        """Return everything else, as JSON data."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take up what `tensors` and `numbers` returned."""
        ...


class ModelState:
    """A model's parameters and buffers; a tied weight is held once."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters and buffers by name."""
        named = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        return {name: tensor.detach() for name, tensor in named.items()}

    def numbers(self) -> dict[str, Any]:
        """Return nothing: a model is all tensors."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Copy the tensors into the model in place."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])


class OptimizerState:
    """A torch optimizer's state, keyed by the parameter's place in its groups."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state as ``INDEX.NAME``."""
        state = self.optimizer.state_dict()["state"]
        return {
            f"{index}.{name}": value
            for index, entry in state.items()
            for name, value in entry.items()
            if isinstance(value, Tensor)
        }

    def numbers(self) -> dict[str, Any]:
        """Return what is not a tensor, as ``INDEX.NAME``."""
        state = self.optimizer.state_dict()["state"]
        return {
            f"{index}.{name}": value
            for index, entry in state.items()
            for name, value in entry.items()
            if not isinstance(value, Tensor)
        }

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Rebuild the optimizer's state; its groups stay as they were made."""
        state: dict[int, dict[str, Any]] = {}
        for key, value in {**tensors, **numbers}.items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


class HasState(Protocol):
    """Something whose state is a few numbers, such as an algorithm or a data cursor."""

    def state(self) -> dict[str, float]:
        """Return the numbers."""
        ...

    def restore(self, state: Mapping[str, float]) -> None:
        """Take them up."""
        ...


class NumberState:
    """Makes a `HasState` a `Stateful`."""

    def __init__(self, owner: HasState) -> None:
        self.owner = owner

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def numbers(self) -> dict[str, Any]:
        """Return the owner's numbers."""
        return dict(self.owner.state())

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Hand the numbers back."""
        self.owner.restore(numbers)


class CheckpointStore:
    """The checkpoints of one stage.

    Args:
        directory: Holds one directory a checkpoint, ``step-00000010``.
        keep: How many to keep.
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory = directory
        self.keep = keep

    def save(self, step: int, parts: Mapping[str, Stateful]) -> Path:
        """Write a checkpoint of every part; returns its directory."""
        final = self.directory / f"step-{step:08d}"
        draft = self.directory / f".draft-{step:08d}"
        for left in self.directory.glob(".draft-*"):  # by a kill while it was written
            shutil.rmtree(left)
        draft.mkdir(parents=True)
        numbers = {name: part.numbers() for name, part in parts.items()}
        (draft / "state.json").write_text(json.dumps({"step": step, "parts": numbers}))
        for name, part in parts.items():
            tensors = {key: value.detach().contiguous() for key, value in part.tensors().items()}
            if tensors:
                save_file(tensors, draft / f"{name}.safetensors")
        files = {path.name: _fingerprint(path) for path in sorted(draft.iterdir())}
        (draft / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1))
        for path in draft.iterdir():
            _flush(path)
        _flush(draft)
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        _flush(self.directory)
        for old in self._all()[: -self.keep]:
            shutil.rmtree(old)
        return final

    def load(self, parts: Mapping[str, Stateful]) -> int:
        """Restore the newest valid checkpoint into the parts; returns its step, or 0.

        Raises:
            DataError: When the checkpoint holds other parts than the stage has.
        """
        for path in reversed(self._all()):
            fault = _fault(path)
            if fault:
                log.warning("checkpoint %s is left aside: %s", path, fault)
                continue
            state = json.loads((path / "state.json").read_text())
            if set(state["parts"]) != set(parts):
                raise DataError(
                    f"{path} holds {sorted(state['parts'])}; this configuration needs "
                    f"{sorted(parts)}. Resume with the configuration that wrote it."
                )
            for name, part in parts.items():
                file = path / f"{name}.safetensors"
                part.restore(load_file(file) if file.exists() else {}, state["parts"][name])
            return int(state["step"])
        return 0

    def clear(self) -> None:
        """Remove every checkpoint: the stage's output takes their place."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def newest(self) -> Path | None:
        """Return the newest valid checkpoint, for messages."""
        return next((path for path in reversed(self._all()) if not _fault(path)), None)

    def _all(self) -> list[Path]:
        if not self.directory.is_dir():
            return []
        return sorted(p for p in self.directory.iterdir() if re.fullmatch(r"step-\d{8,}", p.name))


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _fault(path: Path) -> str:
    """Return why a checkpoint cannot be used, or an empty string."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        for name, wanted in files.items():
            if _fingerprint(path / name) != wanted:
                return f"{name} is not what its manifest says"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file whole: a reader sees the old text or the new, never half."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    _flush(draft)
    draft.rename(path)
