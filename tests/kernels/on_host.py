"""The CUDA kernels compiled for the host, where threads of a device are fibers (cuda_on_host/)."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import pybind11
from torch import Tensor

_HERE = Path(__file__).parent / "cuda_on_host"
LIBRARY = "cuda_on_host.so"
_ROOT = Path(__file__).parents[2]
_LAUNCH = re.compile(r"(\w+(?:<\w+>)?)\s*<<<(.*?)>>>\((\w+)\);", re.DOTALL)
_MEETING = re.compile(r"cudaLaunchCooperativeKernel\(reinterpret_cast<const void\*>\((\w+)\),")
_DYNAMIC = re.compile(r"extern __shared__ (\w+) (\w+)\[\];")
_SHARED = re.compile(r"__shared__ (\w+) (\w+)((?:\[\w+\])*);")
COMPILER = shutil.which(os.environ.get("CXX", "g++"))


def rewritten(source: str) -> str:
    """CUDA's own syntax as calls of cuda_on_host/cuda_runtime.h."""
    numbers = itertools.count()
    source = _LAUNCH.sub(r"host::launch(\2, [=] { \1(\3); });", source)
    source = _MEETING.sub(r"host::launch_cooperative(\1,", source)
    source = _DYNAMIC.sub(
        lambda m: f"{m[1]}* {m[2]} = host::dynamic_shared<{m[1]}>({next(numbers)});", source
    )
    return _SHARED.sub(
        lambda m: f"auto& {m[2]} = host::shared<{m[1]}{m[3]}>({next(numbers)});", source
    )


def build(directory: Path) -> None:
    """Compiles them into a directory."""
    directory.mkdir(exist_ok=True)
    for source in [*_ROOT.glob("csrc/cuda/*.cu*"), _HERE / "faulty.cu"]:
        suffix = ".cpp" if source.suffix == ".cu" else source.suffix
        (directory / f"{source.stem}{suffix}").write_text(rewritten(source.read_text()))
    includes = [_HERE, directory, _ROOT / "csrc/include", _ROOT / "csrc/bindings"]
    flags = ["-std=c++17", "-fPIC", "-march=native", "-DFAIRLEAD_WITH_CUDA", "-Wno-unknown-pragmas"]
    flags += ["-U_FORTIFY_SOURCE"]  # it takes the jump from a fiber to another for a fault
    flags += [f"-I{one}" for one in (*includes, pybind11.get_include())]
    flags += [f"-I{sysconfig.get_path('include')}"]
    # As nvcc does by default, a product and a sum become one operation.
    kernels = [*flags, "-O2", "-ffp-contract=fast"]
    objects = []
    for source, options in (
        *((one, kernels) for one in sorted(directory.glob("*.cpp"))),
        (_HERE / "module.cpp", [*flags, "-O0"]),
    ):
        objects.append(str(directory / f"{source.stem}.o"))
        _run(*options, "-c", str(source), "-o", objects[-1])
    _run("-shared", *objects, "-o", str(directory / LIBRARY))


def load(directory: Path) -> ModuleType:
    """Imports them; `NAME_cuda` takes addresses of the host."""
    spec = importlib.util.spec_from_file_location("cuda_on_host", directory / LIBRARY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(*arguments: str) -> None:
    done = subprocess.run([str(COMPILER), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def caller(module: ModuleType) -> Any:
    """What takes the place of `fairlead_kernels.native.call`."""

    def call(kernel: str, *args: Any) -> None:
        plain = [
            one.data_ptr() if isinstance(one, Tensor) else 0 if one is None else one for one in args
        ]
        getattr(module, f"{kernel}_cuda")(*plain, 0, 0)

    return call
