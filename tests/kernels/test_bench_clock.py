"""The clock, memory and the machine."""

import ctypes
import time
from functools import partial

import pytest
import torch
from benches import (
    CPU,
)

from fairlead_kernels.bench.machine import Machine, provenance
from fairlead_kernels.bench.memory import peak_bytes
from fairlead_kernels.bench.timing import measure, quantile
from fairlead_kernels.bench.workload import Cost


def test_calls_are_timed_in_turns_of_changing_order():
    order = []

    def slow(name):
        order.append(name)
        time.sleep(0.012)  # longer than a turn: one sample in each

    found = measure({"a": partial(slow, "a"), "b": partial(slow, "b")}, CPU, seconds=1e-6)
    # Warm-up, a look at how long each takes, and the fewest turns, three.
    assert "".join(order) == "aabb" + "abbaab"
    assert all(len(samples.seconds) == 3 for samples in found.values())
    assert all(seconds >= 0.012 for seconds in found["a"].seconds)
    assert measure({}, CPU) == {}


def test_a_quick_call_is_timed_many_at_a_time():
    count = []
    found = measure({"": lambda: count.append(1)}, CPU, seconds=1e-6)
    assert len(count) > 10 * len(found[""].seconds) > 0


def test_quantiles_by_hand():
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([0.0, 10.0], 0.2) == pytest.approx(2.0)
    assert quantile([4.0], 0.8) == 4.0


def test_peak_memory_is_what_is_held_at_a_time():
    x = torch.zeros(1 << 20)

    def two_at_a_time():
        y = x + 1
        y = y * 2
        return y + 1

    mib = 1 << 20
    assert 8 * mib <= peak_bytes(two_at_a_time, CPU) < 9 * mib
    assert 4 * mib <= peak_bytes(lambda: x + 1, CPU) < 5 * mib
    assert peak_bytes(lambda: x.add_(1), CPU) < mib


def test_limits_are_measured_once_and_the_floor_is_the_higher_of_two():
    machine = Machine(CPU, 1)
    machine.measure(torch.float32, products=False)
    assert machine.copy > 1e7
    assert machine.gemm == {}
    before = machine.copy
    machine.measure(torch.float32, products=True)
    assert machine.copy == before
    assert machine.gemm[torch.float32] > 1e7
    known = Machine(CPU, 1, copy=100.0, gemm={torch.float32: 10.0})
    # 200 bytes at 100 a second; 50 FLOP at 10 a second.
    assert known.floor(Cost(200, 50), torch.float32) == 2.0
    assert known.floor(Cost(200, 50, products=True), torch.float32) == 5.0
    assert known.floor(Cost(200, 10, products=True), torch.float32) == 2.0


def test_provenance_names_what_the_numbers_depend_on():
    facts = provenance("fairlead bench kernels")
    assert facts["command"] == "fairlead bench kernels"
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["cpus"] >= 1
    assert {"commit", "cpu", "gpus", "driver", "cuda", "date", "native"} <= set(facts)


def test_memory_that_torch_does_not_know_of_is_seen():
    def native():
        block = ctypes.create_string_buffer(1)
        ctypes.resize(block, 64 << 20)
        ctypes.memset(block, 1, 64 << 20)

    native()
    assert 60 << 20 <= peak_bytes(native, CPU) < 80 << 20
