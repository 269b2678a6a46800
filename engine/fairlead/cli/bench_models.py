"""What ``fairlead bench generate`` and ``fairlead bench ppo`` share: a random model's size."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fairlead.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

_AT_LEAST_ONE = click.IntRange(1)


def number(name: str, default: int, text: str) -> Callable[[F], F]:
    """Return an option that is a whole number from 1."""
    return click.option(
        f"--{name}", type=_AT_LEAST_ONE, default=default, show_default=True, help=text
    )


def case_options(function: F) -> F:
    """Add the options of a case: the model's size, the prompts', the responses'."""
    options = (
        number("layers", 6, "The model's blocks."),
        number("hidden", 384, "Its width."),
        number("heads", 6, "Its attention heads."),
        number("vocabulary", 4096, "Its tokens."),
        number("prompt", 32, "Tokens of a prompt."),
        number("response", 64, "Most tokens of a response."),
        click.option(
            "--mean-length",
            type=click.IntRange(2),
            help="Responses end at random, after so many tokens on average.  [default: never]",
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

    layers, hidden, heads, vocabulary = (
        wanted.pop(name) for name in ("layers", "hidden", "heads", "vocabulary")
    )
    if hidden % heads:
        raise ConfigError(
            f"--hidden {hidden} is no multiple of --heads {heads}. Give one that is, such as "
            f"{hidden // heads * heads or heads}."
        )
    if vocabulary < 4:
        raise ConfigError(f"--vocabulary {vocabulary}: two of the tokens are special. Give 4 up.")
    positions = wanted["prompt"] + wanted["response"]
    return Size("gpt2", layers, hidden, heads, vocabulary, max(512, positions))


def check_file(path: str | None) -> None:
    """Make sure, before anything is measured, that a file can be written.

    Raises:
        ConfigError: When its directory is not there, or it is a directory itself.
    """
    if path and Path(path).is_dir():
        raise ConfigError(f"--json {path}: this is a directory. Name a file in it.")
    if path and not Path(path).absolute().parent.is_dir():
        raise ConfigError(
            f"--json {path}: there is no directory {Path(path).parent}. Make it first."
        )


def machine(device: Any, precision: str) -> tuple[Any, dict[str, Any]]:
    """Measure the machine's limits; returns them, and what the numbers were measured with."""
    import torch

    from fairlead_kernels.bench import provenance
    from fairlead_kernels.bench.machine import Machine

    limits = Machine(torch.device(device), torch.get_num_threads())
    limits.measure(getattr(torch, precision), True)
    return limits, provenance(" ".join(["fairlead", *sys.argv[1:]]))
