"""Keeping recordings of decoding steps: one for all models that are built alike."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fairlead.errors import brief
from fairlead.generation.bound import Arena, BoundStep
from fairlead.generation.cache import SlotCache
from fairlead.generation.graphs import Captured, CudaGraphs, Drawn, RepeatedStep, StepFunction
from fairlead.generation.rewrite import kernel_of, taken_kernels
from fairlead.generation.step import Recording, eager_logits
from fairlead_kernels import sample
from fairlead_kernels.dispatch import OWN

_LOG = logging.getLogger(__name__)

_TOLERANCE = {torch.float32: 1e-4}
_COARSE = 0.02
"""Of the largest logit: rounding may differ; another computation would more."""

_ALL = 0
"""Of the most probable tokens: what `top_k` is then."""

_COMPARED = 33
"""Rows: a kernel of a plugin may be wrong where several blocks of rows begin or end."""

_KEPT: OrderedDict[Hashable, Recording | None] = OrderedDict()
_MOST = 16
_NO_GRAPHS: set[Hashable] = set()
"""Models that a CUDA graph cannot hold: to try each time would cost a warning each time."""
_NAMES = ("name_or_path", "warnings_issued")
"""Attributes that say nothing of what a module computes."""


def fastest_step(model: Any, cache: SlotCache, temperature: float, record: bool) -> StepFunction:
    """Return the fastest way there is to run a decoding step and to draw from its logits.

    Args:
        model: A causal language model that attends with `attend`.
        cache: Empty: what is in it is written over.
        temperature: Divides the logits; 0 is greedy.
        record: Whether a step may be recorded, on a GPU as CUDA graphs; False runs the model as it
            is. It always is in training mode, and with hooks on its modules, which a recording
            would do once and for all.
    """
    device, name = model.device, type(model).__name__

    def eager(tokens: Tensor, positions: Tensor, uniform: Tensor) -> Drawn:
        logits = eager_logits(model, cache, *cache.live(len(tokens)), tokens, positions)
        return sample(logits, uniform, temperature)

    if not record or not _can_be_recorded(model):
        return eager
    if device.type == "cuda":
        likeness, graphs = _likeness(model), CudaGraphs(eager, device)
        if likeness in _NO_GRAPHS:
            return eager

        def capture(*given: Tensor) -> Captured:
            try:
                return graphs(*given)
            except Exception:
                _NO_GRAPHS.add(likeness)
                raise

        return RepeatedStep(eager, cache.slots, device, capture, name, warm=True)
    recording = _recording(model, cache) if device.type == "cpu" else None
    if recording is None:
        return eager
    prepared, arena = recording.ready(model), Arena()
    draw = kernel_of("sample", torch.ops.fairlead_kernels.sample.default, sample) or sample

    def bind(tokens: Tensor, positions: Tensor, uniform: Tensor) -> BoundStep:
        live = cache.live(len(tokens))
        bound = recording.bind(prepared, *live, tokens, positions, arena)
        bound.then(draw, uniform, temperature, _ALL, 1.0)
        return bound

    return RepeatedStep(eager, cache.slots, device, bind, name, warm=False)


def _recording(model: Any, cache: SlotCache) -> Recording | None:
    kernels = taken_kernels()
    key = (_likeness(model), tuple((row.op, row.impl) for row in kernels))
    if key not in _KEPT:
        theirs = [f"{row.op}/{row.impl} of {row.owner}" for row in kernels if row.owner != OWN]
        name = " with ".join([type(model).__name__, *([", ".join(theirs)] if theirs else [])])
        found: Recording | None
        try:
            with _quiet_tracing():
                found = recording = Recording(model, cache)
            same = _same(model, cache, recording)
            if same is None:
                return None  # until the weights are better
            if not same:
                _LOG.warning("a recording of %s computes something else and is not used", name)
                found = None
        except Exception as error:  # whatever a model does that cannot be recorded or repeated
            _LOG.warning("decoding %s step by step, which is slower: %s", name, brief(error))
            found = None
        _KEPT[key] = found
        while len(_KEPT) > _MOST:
            _KEPT.popitem(last=False)
    _KEPT.move_to_end(key)
    return _KEPT[key]


@contextmanager
def _quiet_tracing() -> Iterator[None]:
    """Keep torch from logging the traceback of an operation it cannot trace: the error says it."""

    def nothing(_: logging.LogRecord) -> bool:
        return False

    log = logging.getLogger("torch._subclasses.fake_tensor")
    log.addFilter(nothing)
    try:
        yield
    finally:
        log.removeFilter(nothing)


def _likeness(model: Any) -> Hashable:
    """Return what decides a recording: models that have it in common differ in weights alone."""
    kind = model.device.type
    weights = (*model.named_parameters(), *model.named_buffers())
    settings: Any = model.config.to_dict().items()
    return (
        str([(name, value) for name, value in settings if not name.startswith("_")]),
        tuple(
            (name, type(module), _plain_attributes(module))
            for name, module in model.named_modules()
        ),
        tuple((name, one.shape, one.dtype, one.device) for name, one in weights),
        getattr(model, "_plain_head", False),
        torch.is_autocast_enabled(kind),
        torch.get_autocast_dtype(kind),
    )


def _plain_attributes(module: torch.nn.Module) -> str:
    """Return a module's numbers, switches and names: `eps`, a scaling, an adapter switched off."""
    plain = (bool, int, float, str, type(None))

    def simple(value: object) -> bool:
        if isinstance(value, dict):
            return all(simple(one) for one in value.values())
        return isinstance(value, plain) or (
            isinstance(value, (list, tuple)) and all(simple(one) for one in value)
        )

    own = [(name, value) for name, value in vars(module).items() if name not in _NAMES]
    return repr(sorted((name, value) for name, value in own if simple(value)))


def _can_be_recorded(model: Any) -> bool:
    return not model.training and not any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        for module in model.modules()
    )


def _same(model: Any, cache: SlotCache, recording: Recording) -> bool | None:
    """Ask model and recording the same, in an empty cache: surer than a list of families.

    Returns:
        None where the model's logits are no numbers.
    """
    rows = min(_COMPARED, cache.slots)
    vocab = model.get_input_embeddings().weight.shape[0]
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab, (3, rows), generator=draw).to(model.device)
    live = cache.live(rows)
    now, positions = tokens[0].clone(), torch.zeros(rows, dtype=torch.int64, device=model.device)
    # Position 0 is written first, then one past it, then one with a row fewer: what a recording
    # fixed would show. What it does not store itself is no number.
    counts = (rows, rows, max(1, rows - 1))[: cache.positions]
    _fill(live, len(counts))
    bound = recording.bind(recording.ready(model), *live, now, positions, Arena())
    found = [bound.result.clone()]
    for at, count in enumerate(counts[1:], 1):
        now.copy_(tokens[at])
        positions.fill_(at)
        found.append(bound.run(count)[:count].clone())
    _fill(live, len(counts))
    expected = [
        eager_logits(model, cache, *live, tokens[at], torch.full_like(positions, at))[:count]
        for at, count in enumerate(counts)
    ]
    if not all(one.isfinite().any() for one in expected):
        return None
    return all(map(_alike, expected, found))


def _fill(live: tuple[list[Tensor], list[Tensor]], positions: int) -> None:
    for one in (*live[0], *live[1]):
        one[:, :, :positions] = torch.nan


def _alike(expected: Tensor, found: Tensor) -> bool:
    """Whether logits are the same but for rounding."""
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return False
    allowed = _TOLERANCE.get(found.dtype, _COARSE) * float(expected[finite].abs().max())
    return bool((expected - found)[finite].abs().max() <= allowed)
