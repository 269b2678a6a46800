import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fairlead_kernels import KernelError, gae, list_implementations, native, native_status

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_module(monkeypatch):
    monkeypatch.setattr(native, "_load", lambda: (None, "No module named '_native'"))
    monkeypatch.setattr(native, "_REPORT", "")


def test_status_says_what_is_there():
    status = native_status()
    if not status.available:
        pytest.skip(status.reason)
    assert "cpu" in status.parts
    assert status.compiler
    assert status.instruction_set in ("avx512", "avx2", "generic")
    assert bool(status.cuda_architectures) == ("cuda" in status.parts) == (not status.reason)


def test_without_the_module_everything_works_and_the_reason_is_told(no_module, monkeypatch):
    monkeypatch.setattr(native, "_REPORT", "No C++ compiler: none of c++, g++, clang++.")
    status = native_status()
    assert not status.available
    assert "No C++ compiler" in status.reason
    assert "Install Fairlead again" in status.reason
    zeros, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    gae(zeros, zeros, mask)
    with pytest.raises(KernelError, match="No C\\+\\+ compiler"):
        gae(zeros, zeros, mask, impl="cpp")
    rows = {row.impl: row for row in list_implementations() if row.op == "gae"}
    assert rows["reference"].auto
    assert "No C++ compiler" in rows["cpp"].reason


def test_without_a_build_report_the_import_error_is_told(no_module):
    assert "No module named '_native'" in native_status().reason


def build(tmp_path, **environment):
    """Runs setup.py's build of the native module, into a folder of its own."""
    return subprocess.run(
        [
            *(sys.executable, "setup.py", "-q", "build_ext"),
            *("--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")),
        ],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_install_without_a_compiler_succeeds_and_leaves_the_reason(tmp_path):
    result = build(tmp_path, CXX="/nowhere/c++")
    assert result.returncode == 0, result.stderr
    report = (tmp_path / "lib/fairlead_kernels/_native_build.txt").read_text()
    for text in (report, result.stderr):
        assert "No C++ compiler" in text
        assert "apt-get install g++" in text


def test_a_required_native_module_that_cannot_be_built_is_fatal(tmp_path):
    result = build(tmp_path, CXX="/nowhere/c++", FAIRLEAD_NATIVE="require")
    assert result.returncode != 0
    assert "FAIRLEAD_NATIVE=require" in result.stderr


def test_a_misspelt_build_variable_is_an_error(tmp_path):
    result = build(tmp_path, FAIRLEAD_NATIVE="requried")
    assert result.returncode != 0
    assert "requried is not one of" in result.stderr


def test_the_library_imports_nothing_of_the_engine():
    code = (
        "import sys, fairlead_kernels;"
        "print([m for m in sys.modules if m.split('.')[0] in"
        " ('fairlead', 'fairlead_plugins', 'triton', 'transformers')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "kernels")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
