"""What tests of every package share: plugins made on the spot, and the command line."""

from __future__ import annotations

import itertools
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from fairlead.cli import main

# Triton reads it once: without a GPU its kernels run in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A deadline would be a timed test: the cores are shared.
settings.register_profile("fairlead", deadline=None)
settings.load_profile("fairlead")

_numbers = itertools.count()


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def no_installed_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave every installed plugin out, so that a test sees only its own."""
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "")


@pytest.fixture
def plugin_file(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a plugin file; returns its path, for ``--plugin``."""

    def write(name: str, source: str) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(source))
        return str(path)

    return write


@pytest.fixture
def install(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Install a distribution with one plugin, as pip would leave it."""

    def add(
        plugin: str, source: str, *, distribution: str | None = None, version: str = "1.2.3"
    ) -> None:
        site = tmp_path_factory.mktemp("site")
        distribution = distribution or f"{plugin}-dist"
        # Modules stay imported from test to test, so each needs a name of its own.
        module = f"{distribution.replace('-', '_')}_{next(_numbers)}"
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[fairlead.plugins]\n{plugin} = {module}\n")
        monkeypatch.syspath_prepend(str(site))

    return add


@pytest.fixture
def fairlead(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
