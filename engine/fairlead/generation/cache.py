"""The slot cache: keys and values of a fixed number of sequences, each with its own length."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from fairlead.errors import ConfigError, brief
from fairlead.generation import HF


@dataclass(frozen=True)
class LayerShape:
    """What one layer keeps of a token.

    Attributes:
        heads: Key and value heads; fewer than query heads where these share them.
        dim: Numbers a head.
        dtype: Of keys and values.
    """

    heads: int
    dim: int
    dtype: torch.dtype

    @property
    def bytes_a_token(self) -> int:
        """Keys and values together."""
        return 2 * self.heads * self.dim * self.dtype.itemsize


class _Layer(CacheLayerMixin):  # type: ignore[misc, unused-ignore]
    """One layer's part: transformers hands it keys and values, and attends to what it returns."""

    is_compileable = False
    is_sliding = False

    def __init__(self) -> None:
        # The mixin's own __init__ takes other arguments from version to version.
        self.is_initialized = True
        self.keys: Any = None
        self.values: Any = None
        self.rows: Tensor | None = None
        self.at: Tensor | None = None
        self.slots: Tensor | None = None
        self.sources: Tensor | None = None
        self.seen: LayerShape | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store what is new; return what to attend to."""
        key, value = key_states, value_states
        if key.shape != value.shape:
            raise ConfigError(
                f"the native rollout backend: keys {tuple(key.shape)} and values "
                f"{tuple(value.shape)} of different widths. Use {HF}."
            )
        self.seen = LayerShape(key.shape[1], key.shape[3], value.dtype)
        if self.at is not None:  # one token a row, each at its own position
            self.keys[self.rows, :, self.at] = key[:, :, 0].to(self.keys.dtype)
            self.values[self.rows, :, self.at] = value[:, :, 0]
            return self.keys, self.values
        if self.slots is not None:
            width = key.shape[2]
            self.keys[self.slots, :, :width] = key[self.sources].to(self.keys.dtype)
            self.values[self.slots, :, :width] = value[self.sources]
        return key.to(value.dtype), value

    def lazy_initialization(self, *_: Any, **__: Any) -> None:
        """Nothing: the memory is there from the start."""

    def get_mask_sizes(self, *_: Any, **__: Any) -> tuple[int, int]:
        """No mask is made of them."""
        return 1, 0

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        """No position is made of it: positions are always given."""
        return 0

    def get_max_length(self) -> int:
        """No bound, to transformers."""
        return -1

    get_max_cache_shape = get_max_length


class SlotCache:
    """Preallocated keys and values of ``slots`` sequences.

    Sequence b of a decoding step is in slot b: live sequences are the first slots, without gaps.

    Args:
        shapes: One a layer.
        slots: How many sequences.
        positions: Longest sequence, prompt and response together.
        device: Where it is.
    """

    def __init__(
        self, shapes: Sequence[LayerShape], slots: int, positions: int, device: torch.device
    ) -> None:
        self.slots, self.positions = slots, positions
        self.keys, self.values = (
            [
                torch.empty(slots, one.heads, positions, one.dim, dtype=one.dtype, device=device)
                for one in shapes
            ]
            for _ in range(2)
        )
        self._layers = [_Layer() for _ in shapes]
        self.cache = Cache(layers=list(self._layers))
        self._live: tuple[list[Tensor], list[Tensor]] = ([], [])

    def filling(self, slots: Tensor, sources: Tensor) -> Cache:
        """Return a cache that stores row ``sources[i]`` of a prompt batch in ``slots[i]``."""
        for layer, keys, values in zip(self._layers, self.keys, self.values, strict=True):
            layer.keys, layer.values = keys, values
            layer.at, layer.slots, layer.sources = None, slots, sources
        return self.cache

    def decoding(self, keys: Sequence[Tensor], values: Sequence[Tensor], at: Tensor) -> Cache:
        """Return a cache that stores one token a row at position ``at[b]``.

        Args:
            keys: One ``[B, Hkv, S, D]`` a layer, as of `live`.
            values: Likewise.
            at: ``[B]`` int64.
        """
        rows = torch.arange(at.shape[0], device=at.device)
        for layer, key, value in zip(self._layers, keys, values, strict=True):
            layer.keys, layer.values, layer.rows, layer.at = key, value, rows, at
        return self.cache

    def live(self, rows: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return the first ``rows`` slots' keys and values, one view a layer."""
        if not self._live[0] or len(self._live[0][0]) != rows:
            self._live = ([one[:rows] for one in self.keys], [one[:rows] for one in self.values])
        return self._live

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a sequence of ``length`` tokens to another slot."""
        for one in (*self.keys, *self.values):
            one[target, :, :length] = one[source, :, :length]


@torch.no_grad()
def layer_shapes(model: Any) -> list[LayerShape]:
    """Ask a model what its layers keep: surer than to read it off a configuration.

    Raises:
        ConfigError: When that is not keys and values, of one width, in every layer.
    """
    layers = [_Layer() for _ in range(model.config.num_hidden_layers)]
    try:
        model.base_model(
            input_ids=torch.zeros(1, 1, dtype=torch.int64, device=model.device),
            position_ids=torch.zeros(1, 1, dtype=torch.int64, device=model.device),
            past_key_values=Cache(layers=list(layers)),
            use_cache=True,
        )
    except ConfigError:
        raise
    except Exception as error:  # whatever a model does with a cache that is none of its own
        raise ConfigError(
            f"the native rollout backend cannot run {type(model).__name__} with its cache: "
            f"{brief(error)}. Use {HF}."
        ) from error
    shapes = [layer.seen for layer in layers if layer.seen is not None]
    if len(shapes) != len(layers):
        raise ConfigError(
            f"the native rollout backend: {len(layers) - len(shapes)} of {len(layers)} layers of "
            f"{type(model).__name__} keep no keys and values. Use {HF}."
        )
    return shapes


def fitting_slots(
    shapes: Sequence[LayerShape],
    sequences: int,
    positions: int,
    device: torch.device,
    asked: int | None,
) -> int:
    """Return how many slots there will be.

    Args:
        shapes: What a token takes.
        sequences: How many are to be generated; more slots are of no use.
        positions: Longest sequence.
        device: Where the cache will be.
        asked: What the configuration asks for, or None for as many as fit into half of the memory
            that is free.

    Raises:
        ConfigError: When these, or a single one, do not fit.
    """
    each = positions * sum(shape.bytes_a_token for shape in shapes)
    free = free_memory(device)
    fit = max(0, free // 2 // each)
    wanted = sequences if asked is None else min(asked, sequences)
    if (fit == 0) if asked is None else (wanted * each > free):
        few = 1 if asked is None else wanted
        raise ConfigError(
            f"the key and value cache of {few} sequence{'s' * (few > 1)} of {positions} tokens "
            f"takes {few * each / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free on {device}. "
            "Lower max_new_tokens (--max-new-tokens to `fairlead generate`), or give shorter "
            "prompts (max_prompt_tokens)"
            + (f", or set backend.slots to {free // each}." if free // each else ".")
        )
    return wanted if asked is not None else min(wanted, fit)


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free, as far as the system says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + reserved)
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:  # elsewhere: half of what is built in
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return 2**33
