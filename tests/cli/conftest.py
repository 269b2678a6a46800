"""The toy plugin, alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PLUGIN = str(Path(__file__).with_name("toy_plugin.py"))


@pytest.fixture
def toy(
    fairlead: Callable[..., object],
    no_installed_plugins: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., object]:
    """Run a command with the toy plugin and no other, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: fairlead("--plugin", PLUGIN, *arguments)
