"""What the tests of the benchmark share."""

from functools import partial

import pytest
import torch

from fairlead_kernels.bench import Benchmark, Case, workloads
from fairlead_kernels.bench.cases import _ALL
from fairlead_kernels.bench.machine import Machine
from fairlead_kernels.dispatch import registry

CPU = torch.device("cpu")
LIMITS = {"copy": 1e10, "gemm": {torch.float32: 1e11}}
MACHINES = {("cpu", n): Machine(CPU, n, **LIMITS) for n in range(1, 65)}
"""Limits that need not be measured first."""
SHAPES = {
    ("N", "V"): (7, 130),
    ("N", "D", "V"): (5, 8, 67),
    ("N", "D"): (6, 40),
    ("B", "T"): (9, 13),
    ("B", "V"): (11, 1500),
    ("B",): (70,),
    ("N", "I", "O"): (3, 12, 70),
    ("B", "H", "Hkv", "S", "D"): (5, 4, 2, 9, 8),
}
ALL = [pytest.param(one, id=f"{one.op} {one.name}") for one in workloads()]
# With those that wait for their operation: plain torch and float64 need none.
EVERY = [pytest.param(one, id=f"{one.op} {one.name}") for one in _ALL]


def make(workload, dtype=None, shape=None):
    generator = torch.Generator().manual_seed(3)
    return workload.make(shape or SHAPES[workload.axes], dtype or workload.dtypes[0], generator)


def reference(workload):
    return partial(workload.public(), impl="reference")


def find(op, name="forward"):
    return next(one for one in workloads() if (one.op, one.name) == (op, name))


def register(op, name, function, owner="acme", priority=1):
    def runs(*args, **kwargs):
        return None

    registry.register(
        op, name, function, available=runs, supports=runs, priority=priority, owner=owner
    )


def case_of(op, name="forward", shape=None):
    workload = find(op, name)
    shape = shape or SHAPES[workload.axes]
    return Case(workload, shape, workload.dtypes[0], CPU, torch.get_num_threads())


def bench(case, *impls):
    benchmark = Benchmark(impls or None, seconds=1e-3, machines=MACHINES, compiled=False)
    return {row.impl: row for row in benchmark.run_case(case)}


def spoilt(workload, at, change):
    """The reference with one of its results changed."""

    def function(**kwargs):
        results = workload.public()(**kwargs, impl="reference")
        if isinstance(results, torch.Tensor):
            return change(results)
        return (*results[:at], change(results[at]), *results[at + 1 :])

    return function


def tensors(workload):
    """Places of plain results; a dataclass of metrics comes after them."""
    return range(min(2, len(workload.outputs)))
