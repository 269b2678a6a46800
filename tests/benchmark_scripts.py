"""Loading a script of benchmarks/, for tests of it."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from support import ROOT


def load(name: str) -> Any:
    """Return the script as a module."""
    path = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
