"""The native module: whether it is there, and its kernels as torch operations.

`fairlead_kernels._native` takes addresses and no tensors, so that one build works with every torch.
What it is given is checked here, before an address leaves Python.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from fairlead_kernels.dispatch import OWN, registry

__all__ = ["NativeStatus", "native_status"]

_MODULE = "fairlead_kernels._native"
# setup.py leaves the reason here when it could not build the module.
_REPORT = Path(__file__).with_name("_native_build.txt")
_PRIORITY = 100


@dataclass(frozen=True)
class NativeStatus:
    """What there is of the native module.

    Attributes:
        available: Whether it was imported.
        parts: Of `cpu` and `cuda`, those that were built in.
        compiler: The compilers that built it; empty without it.
        instruction_set: What the CPU kernels use on this processor; empty without the module.
        cuda_architectures: What the CUDA kernels were compiled for; empty without that part.
        reason: Why the module, or its CUDA part, is missing and what to do; empty otherwise.
    """

    available: bool
    parts: tuple[str, ...] = ()
    compiler: str = ""
    instruction_set: str = ""
    cuda_architectures: str = ""
    reason: str = ""


@lru_cache(maxsize=1)
def _load() -> tuple[ModuleType | None, str]:
    """The native module, or None and the error."""
    try:
        return importlib.import_module(_MODULE), ""
    except ImportError as error:
        return None, str(error)


def _build_report() -> str:
    try:
        return _REPORT.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def native_status() -> NativeStatus:
    """Whether the native module is here, with which parts, or why not and what to do."""
    module, error = _load()
    report = _build_report()
    if module is None:
        why = report or f"{_MODULE} cannot be imported: {error}."
        advice = (
            "Install Fairlead again (pip install -e . in a checkout) where a C++ compiler is; "
            "FAIRLEAD_NATIVE=require shows the whole error."
        )
        return NativeStatus(available=False, reason=f"{why} {advice}")
    has_cuda = hasattr(module, "gae_cuda")
    missing = "The CUDA part was not built: nvcc was not found, or FAIRLEAD_CUDA=0 was set."
    return NativeStatus(
        available=True,
        parts=("cpu", "cuda") if has_cuda else ("cpu",),
        compiler=module.compiler,
        instruction_set=module.cpu_instruction_set(),
        cuda_architectures=module.cuda_architectures,
        reason="" if has_cuda else report or missing,
    )


def _cpu_available() -> str | None:
    module, _ = _load()
    return None if module is not None else f"no native module: {native_status().reason}"


def _cuda_available() -> str | None:
    status = native_status()
    if "cuda" not in status.parts:
        return f"no native CUDA kernels: {status.reason}"
    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def _check_gae(rewards: Tensor, values: Tensor, response_mask: Tensor) -> str | None:
    """Why these tensors' memory is not what the kernel reads, or None."""
    if rewards.dim() != 2 or rewards.dtype != torch.float32:
        return f"rewards must be float32 [B, T], got {tuple(rewards.shape)} {rewards.dtype}"
    if values.shape != rewards.shape or values.dtype != torch.float32:
        return f"values must be float32 {tuple(rewards.shape)}, got {tuple(values.shape)}"
    if response_mask.shape != rewards.shape or response_mask.dtype != torch.bool:
        return f"response_mask must be boolean {tuple(rewards.shape)}"
    if values.device != rewards.device or response_mask.device != rewards.device:
        return "rewards, values and response_mask must be on one device"
    if not (rewards.is_contiguous() and values.is_contiguous() and response_mask.is_contiguous()):
        return "rewards, values and response_mask must be contiguous"
    return None


def _supports_gae(
    device: str, rewards: Tensor, values: Tensor, response_mask: Tensor
) -> str | None:
    if rewards.device.type != device:
        return f"it runs on {device} tensors, these are on {rewards.device}"
    if torch.is_grad_enabled() and (rewards.requires_grad or values.requires_grad):
        return "it has no gradient, and an input requires one"
    return _check_gae(rewards, values, response_mask)


def _launch_gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    problem = _check_gae(rewards, values, response_mask)
    if problem is not None:
        raise ValueError(f"gae: {problem}")
    module, error = _load()
    if module is None:
        raise RuntimeError(error)
    advantages, returns = torch.empty_like(rewards), torch.empty_like(rewards)
    rows, cols = rewards.shape
    addresses = (
        rewards.data_ptr(),
        values.data_ptr(),
        response_mask.data_ptr(),
        advantages.data_ptr(),
        returns.data_ptr(),
    )
    if rewards.device.type == "cpu":
        module.gae_cpu(*addresses, rows, cols, gamma, lam)
        return advantages, returns
    with torch.cuda.device(rewards.device):
        stream = torch.cuda.current_stream(rewards.device).cuda_stream
        module.gae_cuda(*addresses, rows, cols, gamma, lam, rewards.get_device(), stream)
    return advantages, returns


def _fake_gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rewards), torch.empty_like(rewards)


# A library of its own rather than torch.library.custom_op: the same operation to torch.compile and
# opcheck, without that wrapper's cost a call. (torch leaves these three methods untyped.)
_library = torch.library.Library(OWN, "DEF")
_library.define(
    "gae(Tensor rewards, Tensor values, Tensor response_mask, float gamma, float lam)"
    " -> (Tensor, Tensor)",
    tags=(torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag),
)
for _key in ("CPU", "CUDA"):
    _library.impl("gae", _launch_gae, _key)
torch.library.register_fake(f"{OWN}::gae", _fake_gae, lib=_library)


def _gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    advantages, returns = torch.ops.fairlead_kernels.gae(rewards, values, response_mask, gamma, lam)
    return advantages, returns


def _register(name: str, device: str) -> None:
    def supports(
        rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
    ) -> str | None:
        return _supports_gae(device, rewards, values, response_mask)

    registry.register(
        "gae",
        name,
        _gae,
        available=_cpu_available if device == "cpu" else _cuda_available,
        supports=supports,
        priority=_PRIORITY,
        owner=OWN,
    )


_register("cpp", "cpu")
_register("cuda", "cuda")
