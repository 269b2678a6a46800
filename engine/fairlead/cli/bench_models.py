"""What ``fairlead bench generate`` and ``fairlead bench ppo`` share: a random model's size."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fairlead.errors import ConfigError

BUSY = 0.75
"""The load, by core, from which a machine is called busy."""

F = TypeVar("F", bound=Callable[..., Any])

FAMILIES = ("gpt2", "opt", "qwen2")

MOST_ROUNDS = 10**6
_MOST_TOKENS = 10**9


def number(name: str, default: int, text: str, most: int | None = None) -> Callable[[F], F]:
    """Return an option that is a whole number from 1."""
    return click.option(
        f"--{name}", type=click.IntRange(1, most), default=default, show_default=True, help=text
    )


def case_options(function: F) -> F:
    """Add the options of a case: the model's size, the prompts', the responses'."""
    options = (
        click.option(
            "--family",
            type=click.Choice(FAMILIES),
            default="gpt2",
            show_default=True,
            help="The model's architecture.",
        ),
        number("layers", 6, "Its blocks."),
        number("hidden", 384, "Its width."),
        number("heads", 6, "Its attention heads."),
        click.option(
            "--kv-heads",
            type=click.IntRange(1),
            help="Its key and value heads; qwen2 alone.  [default: as many as heads]",
        ),
        click.option(
            "--inner",
            type=click.IntRange(1),
            help="Width between a block's two layers.  [default: four times the model's]",
        ),
        number("vocabulary", 4096, "Its tokens."),
        number("prompt", 32, "Tokens of a prompt."),
        number("response", 64, "Most tokens of a response."),
        click.option(
            "--mean-length",
            type=click.IntRange(2, _MOST_TOKENS),
            help="Responses end at random, after so many tokens on average; gpt2 alone.  "
            "[default: never]",
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
        click.option(
            "--precision",
            type=click.Choice(["float32", "bfloat16"]),
            default="float32",
            show_default=True,
            help="Of the forward passes.",
        ),
        click.option("--json", "json_file", metavar="FILE", help="Write everything measured."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def size_of(wanted: dict[str, Any]) -> Any:
    """Take the model's size out of a command's options.

    Raises:
        ConfigError: When there cannot be such a model.
    """
    from fairlead.benchmark.models import Size

    family, layers, hidden, heads, vocabulary, kv_heads, inner = (
        wanted.pop(name)
        for name in ("family", "layers", "hidden", "heads", "vocabulary", "kv_heads", "inner")
    )
    if hidden % heads:
        raise ConfigError(
            f"--hidden {hidden} is no multiple of --heads {heads}. Give one that is, such as "
            f"{hidden // heads * heads or heads}."
        )
    if vocabulary < 4:
        raise ConfigError(f"--vocabulary {vocabulary}: two of the tokens are special. Give 4 up.")
    if kv_heads and family != "qwen2":
        raise ConfigError(
            f"--kv-heads {kv_heads} with --family {family}: query heads share keys in qwen2 alone. "
            "Leave it out, or give --family qwen2."
        )
    if kv_heads and heads % kv_heads:
        raise ConfigError(
            f"--kv-heads {kv_heads} with --heads {heads}: as many query heads share each. Give a "
            "divisor of --heads."
        )
    if wanted["mean_length"] and family != "gpt2":
        raise ConfigError(
            f"--mean-length {wanted['mean_length']} with --family {family}: lengths can be set for "
            "a gpt2 alone. Leave one of them out."
        )
    positions = wanted["prompt"] + wanted["response"]
    positions = max(512, positions)
    return Size(family, layers, hidden, heads, vocabulary, positions, kv_heads, inner)


def check_memory(models: int, sequences: int, device: str) -> None:
    """Refuse what cannot fit before anything is made of it.

    Args:
        models: Bytes that all models take at the least: activations come to it.
        sequences: Bytes that prompts and responses take, likewise.
        device: Where, as the option gives it.

    Raises:
        ConfigError: When even so much is not free.
    """
    from fairlead.generation.cache import free_memory
    from fairlead.strategy import SingleDevice

    place = SingleDevice(device).device
    free = free_memory(place)
    if models + sequences > free:
        raise ConfigError(
            f"this takes at least {_gib(models + sequences)} GiB ({_gib(models)} for the models, "
            f"{_gib(sequences)} for prompts and responses), and {_gib(free)} GiB are free on "
            f"{place}. Ask for fewer or shorter sequences, or a smaller model."
        )


def _gib(count: int) -> str:
    """Say a size that may have hundreds of digits, which no float has."""
    return f"{count / 2**30:,.1f}" if count < 2**60 else "over a billion"


def machine(device: Any, precision: str, display: Any) -> tuple[Any, dict[str, Any]]:
    """Measure the machine's limits; returns them, and what the numbers were measured with."""
    import torch

    from fairlead_kernels.bench import provenance
    from fairlead_kernels.bench.machine import Machine

    limits = Machine(torch.device(device), torch.get_num_threads())
    facts = provenance(" ".join(["fairlead", *sys.argv[1:]]))
    warn_busy(facts, display)
    limits.measure(getattr(torch, precision), True)
    return limits, facts


def write(path: str | None, record: dict[str, Any], display: Any) -> None:
    """Write what was measured, where a file was asked for."""
    if path is not None:
        Path(path).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        display.note(f"written to {path}")


def warn_busy(facts: dict[str, Any], display: Any) -> None:
    """Say so where other work will show in the times."""
    busy, cores = facts["load"], facts["cpus"]
    if busy is not None and busy > BUSY * cores:
        display.warn(
            f"the machine is busy (load {busy} on {cores} cores): times, and the limits they are "
            "held against, are those of a busy machine."
        )
