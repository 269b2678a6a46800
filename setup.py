"""Build of Fairlead: three source roots, and a native module that is built where it can be.

Environment variables read here:
  FAIRLEAD_NATIVE=auto|require|0   try (default), make a failed build fatal, or do not try.
  FAIRLEAD_CUDA=auto|1|0           CUDA half where nvcc is found (default), required, or off.
  FAIRLEAD_CUDA_ARCHS=80;90        CUDA architectures.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
ROOTS = ("engine", "plugins", "kernels")
NATIVE = "fairlead_kernels._native"
# Written beside the module when it could not be built; native_status() repeats it.
REPORT_NAME = "_native_build.txt"


class NativeBuildError(Exception):
    """The native module cannot be built here; the message says why and what to do."""


def _choice(name: str, allowed: dict[str, str]) -> str:
    value = os.environ.get(name, "auto").strip().lower() or "auto"
    if value not in allowed:
        raise SystemExit(f"{name}={value} is not one of {', '.join(sorted(allowed))}")
    return allowed[value]


def _find_cmake() -> str:
    try:
        import cmake
    except ImportError:
        found = shutil.which("cmake")
    else:
        found = shutil.which("cmake", path=cmake.CMAKE_BIN_DIR) or shutil.which("cmake")
    if found is None:
        raise NativeBuildError("CMake was not found. Install it (pip install cmake).")
    return found


def _check_compiler() -> None:
    named = os.environ.get("CXX", "").split()
    if not any(shutil.which(name) for name in (named[:1] or ["c++", "g++", "clang++"])):
        wanted = f"CXX={named[0]}, which was not found" if named else "none of c++, g++, clang++"
        raise NativeBuildError(
            f"No C++ compiler: {wanted}. Install one (Debian, Ubuntu: apt-get install g++)."
        )


def _run(command: list[str]) -> None:
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    sys.stdout.write(result.stdout)
    if result.returncode != 0:
        tail = "\n".join(result.stdout.strip().splitlines()[-25:])
        raise NativeBuildError(f"'{' '.join(command[:3])} ...' failed:\n{tail}")


def _cmake_build(build: Path, output: Path, cuda: str) -> None:
    """Configures and builds with CMake; the module lands in `output`."""
    import pybind11

    # A cache from another interpreter or build environment would name paths that are gone.
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    configure = [
        _find_cmake(),
        "-S",
        str(HERE),
        "-B",
        str(build),
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DFAIRLEAD_OUTPUT_DIR={output}",
        f"-DFAIRLEAD_CUDA={cuda}",
    ]
    if os.environ.get("FAIRLEAD_CUDA_ARCHS"):
        configure.append(f"-DFAIRLEAD_CUDA_ARCHS={os.environ['FAIRLEAD_CUDA_ARCHS']}")
    try:
        import ninja
    except ImportError:
        program = shutil.which("ninja")
    else:
        program = shutil.which("ninja", path=ninja.BIN_DIR) or shutil.which("ninja")
    if program:
        configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={program}"]
    _run(configure)
    _run([_find_cmake(), "--build", str(build), "--parallel"])


class BuildNative(build_ext):
    """Builds the native module with CMake; without a compiler the install goes on without it."""

    def run(self) -> None:
        mode = _choice(
            "FAIRLEAD_NATIVE", {"auto": "auto", "1": "require", "require": "require", "0": "off"}
        )
        target = self._target_directory()
        target.mkdir(parents=True, exist_ok=True)
        for stale in [*target.glob("_native.*.so"), target / REPORT_NAME]:
            stale.unlink(missing_ok=True)
        try:
            if mode == "off":
                raise NativeBuildError("FAIRLEAD_NATIVE=0 was set when Fairlead was installed.")
            self._build(target)
        except Exception as error:  # Whatever went wrong, the Python half still works.
            self._report(error, target, fatal=mode == "require")

    def _target_directory(self) -> Path:
        if self.inplace or getattr(self, "editable_mode", False):
            return HERE / "kernels" / "fairlead_kernels"
        return Path(self.build_lib).resolve() / "fairlead_kernels"

    def _build(self, target: Path) -> None:
        cuda = _choice("FAIRLEAD_CUDA", {"auto": "AUTO", "1": "ON", "0": "OFF"})
        _check_compiler()
        build = Path(self.build_temp).resolve() / "native"
        try:
            _cmake_build(build, target, cuda)
        except NativeBuildError as error:
            if cuda != "AUTO":
                raise
            # An nvcc that does not work (an unsupported host compiler, say) is no reason to go
            # without the CPU half.
            try:
                _cmake_build(build, target, "OFF")
            except NativeBuildError:
                raise error from None
            if shutil.which("nvcc"):
                (target / REPORT_NAME).write_text(
                    f"The CUDA half was not built; the CPU half was. {error}\n", encoding="utf-8"
                )

    def _report(self, error: Exception, target: Path, *, fatal: bool) -> None:
        text = str(error) or type(error).__name__
        if fatal:
            raise SystemExit(f"FAIRLEAD_NATIVE=require, and the native module failed:\n{text}")
        (target / REPORT_NAME).write_text(text + "\n", encoding="utf-8")
        rule = "=" * 78
        print(
            f"{rule}\nFairlead is installed without its native kernels:\n{text}\n"
            "Everything works without them, more slowly. Once that is fixed, install again;\n"
            f"FAIRLEAD_NATIVE=require makes this an error.\n{rule}",
            file=sys.stderr,
        )

    def get_outputs(self) -> list[str]:
        target = self._target_directory()
        return [str(path) for path in [*target.glob("_native.*.so"), target / REPORT_NAME]]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_source_files(self) -> list[str]:
        return ["CMakeLists.txt", *(str(p.relative_to(HERE)) for p in HERE.glob("csrc/**/*.*"))]


setup(
    packages=[name for root in ROOTS for name in find_packages(str(HERE / root))],
    package_dir={
        "fairlead": "engine/fairlead",
        "fairlead_plugins": "plugins/fairlead_plugins",
        "fairlead_kernels": "kernels/fairlead_kernels",
    },
    package_data={
        "": [f"**/*.{ending}" for ending in ("yaml", "html", "css", "js", "txt", "jsonl", "pyi")]
        + ["py.typed"]
    },
    exclude_package_data={"": [REPORT_NAME]},
    include_package_data=False,
    ext_modules=[Extension(NATIVE, sources=[])],
    cmdclass={"build_ext": BuildNative},
    zip_safe=False,
)
