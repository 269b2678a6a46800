"""The workloads, a module a group of operations.

A workload whose operation this version of the library does not have is not offered.
"""

from __future__ import annotations

from fairlead_kernels.bench.cases import (
    attention,
    credit,
    linear,
    logprobs,
    loss,
    sampling,
    training,
)
from fairlead_kernels.bench.workload import Workload

__all__ = ["workloads"]

_ALL: tuple[Workload, ...] = (
    *logprobs.WORKLOADS,
    *credit.WORKLOADS,
    *loss.WORKLOADS,
    *sampling.WORKLOADS,
    *attention.WORKLOADS,
    *linear.WORKLOADS,
    *training.WORKLOADS,
)


def workloads() -> list[Workload]:
    """Every workload that can be run here, by operation."""
    return [one for one in _ALL if one.offered()]
