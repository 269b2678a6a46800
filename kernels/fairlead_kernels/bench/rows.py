"""What a benchmark writes down: a row for each way to run an operation on some inputs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

__all__ = ["COLUMNS", "Row", "Status"]

Status = Literal["timed", "wrong", "failed", "skipped"]
Kind = Literal["implementation", "baseline"]


@dataclass(frozen=True)
class Row:
    """One way to run an operation, on inputs of one kind and shape. None: not measured.

    Attributes:
        op: The operation.
        workload: On inputs of which kind, forward or with the backward.
        impl: The implementation's name, or the baseline's.
        kind: Whether it is an implementation of the library's or a plugin's, or a baseline.
        owner: The package or plugin that brings it; empty for a baseline.
        status: `timed`; `wrong` or `failed`, and therefore not timed; `skipped`: it cannot run.
        reason: Why it was not timed; of one that was, what is worth knowing.
        device: The device type.
        dtype: Of the inputs.
        shape: Its numbers.
        axes: Their names.
        threads: On the CPU.
        median_ms: Milliseconds a call.
        p20_ms: A fifth of the samples were faster.
        p80_ms: A fifth of the samples were slower.
        samples: How many there were.
        device_ms: On CUDA, what the device itself works on a call.
        peak_bytes: Memory beyond the inputs, results included.
        max_error: The largest error of any result against float64.
        eager_error: Plain torch's.
        errors: By result: the error, plain torch's, and what the rule allows.
        bytes: The least that must be moved, by formula.
        flops: The least arithmetic, by formula.
        fraction_of_copy: The bytes a second that makes, of the measured copy's.
        fraction_of_gemm: The FLOP a second, of the measured matrix product's; where it is one.
        floor_ms: What bytes and FLOP take at the measured limits.
        fraction_of_roofline: The floor by the median. Above 1 where data stay in a cache.
        speedup_vs_eager: Eager's median by this one; below 1 it is a loss.
        speedup_vs_compile: The same against torch.compile.
    """

    op: str
    workload: str
    impl: str
    kind: Kind
    owner: str
    status: Status
    reason: str
    device: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    threads: int | None = None
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    samples: int | None = None
    device_ms: float | None = None
    peak_bytes: int | None = None
    max_error: float | None = None
    eager_error: float | None = None
    errors: dict[str, tuple[float, float, float]] | None = None
    bytes: int | None = None
    flops: int | None = None
    fraction_of_copy: float | None = None
    fraction_of_gemm: float | None = None
    floor_ms: float | None = None
    fraction_of_roofline: float | None = None
    speedup_vs_eager: float | None = None
    speedup_vs_compile: float | None = None

    @property
    def bad(self) -> bool:
        """Whether it is wrong, or broke off."""
        return self.status in ("wrong", "failed")

    @property
    def loss(self) -> bool:
        """Whether it is slower than eager."""
        return self.speedup_vs_eager is not None and self.speedup_vs_eager < 1

    @property
    def size(self) -> str:
        """The shape for people."""
        return " ".join(f"{axis}={n}" for axis, n in zip(self.axes, self.shape, strict=True))

    @property
    def place(self) -> str:
        """The device for people, with the threads of a CPU."""
        return self.device if self.threads is None else f"{self.device}, threads={self.threads}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON: six digits, and null for a number that is not finite."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    def as_cells(self) -> list[str]:
        """For CSV, in the order of `COLUMNS`."""
        values = self.as_dict()
        cells = {"shape": "x".join(map(str, self.shape)), "axes": "x".join(self.axes)}
        return [
            cells.get(name, "" if values[name] is None else str(values[name])) for name in COLUMNS
        ]


COLUMNS = tuple(field.name for field in fields(Row) if field.name != "errors")
"""The columns of a CSV file."""


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
