"""The CUDA sources run by the host: right up to what only a device shows (tests/gpu)."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from cases import ODD_ROWS, needs_native, normal, prefix_mask
from filelock import FileLock
from on_host import COMPILER, LIBRARY, build, caller, load
from sampling import LARGEST_U, assert_draws_agree, u_of
from tolerances import assert_within_error_rule
from torch import Tensor

from fairlead_kernels import (
    gae,
    kl_gae_whiten,
    kl_rewards,
    native,
    philox_uniform,
    sample,
    whiten,
)
from fairlead_kernels.gae import _reference as gae_reference
from fairlead_kernels.kl_rewards import _reference as rewards_reference
from fairlead_kernels.native import kl_gae_whiten as fused
from fairlead_kernels.sample import CHUNK
from fairlead_kernels.whiten import _reference as whiten_reference

pytestmark = [
    needs_native,  # the launches in Python, which are the same, are registered with it alone
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
]
SHAPES = [*((rows, 33) for rows in ODD_ROWS), (1, 1), (3, 32), (7, 300), (5, 2600)]
HOW = [(1.0, 0, 1.0), (0.7, 50, 1.0), (1.3, 0, 0.9), (1.0, 40, 0.5), (0.0, 0, 1.0)]


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Compiled once a session, for all of its processes."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cuda_on_host"
    with FileLock(f"{directory}.lock"):
        if not (directory / LIBRARY).exists():
            build(directory)
    return load(directory)


@pytest.fixture
def host(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`impl="cpp"` runs the CUDA kernel; each kernel's launches are counted in `launched`."""
    launched: list[str] = []
    run = caller(module)

    def call(kernel: str, *args: Any) -> None:
        launched.append(kernel)
        run(kernel, *args)

    parts = fused.parts
    monkeypatch.setattr(native, "call", call)
    # On CUDA it takes the moments of rows.
    monkeypatch.setattr(fused, "parts", lambda x, count: parts(x, max(count, len(x))))
    yield module
    module.configure("yes", True)
    assert launched


@pytest.fixture(
    params=[("yes", True), ("yes", False), ("no", True), ("too large", False)],
    ids=lambda how: f"cooperative={how[0]}, {'upwards' if how[1] else 'downwards'}",
)
def grids(request: pytest.FixtureRequest, host: ModuleType) -> ModuleType:
    """Grids that meet, two launches, and a meeting that is refused; threads in both orders."""
    host.configure(*request.param)
    return host


def mask_of(rows: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mask = prefix_mask(torch.randint(0, width + 1, (rows,), generator=generator), width)
    mask[-1] = True
    return mask


def keys(count: int) -> Tensor:
    index = torch.arange(count)
    return philox_uniform(11, 3, index // 50, index % 50, impl="reference")


def check(ours: Any, plain: Any, exact: Any) -> None:
    for a, b, c in zip(ours, plain, exact, strict=True):
        assert_within_error_rule(a, b, c)


@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_gae_keeps_the_error_rule(host: Any, rows: int, width: int, upwards: bool) -> None:
    host.configure("yes", upwards)
    mask = mask_of(rows, width)
    rewards, values = (normal(rows, width, seed=i).masked_fill(~mask, math.nan) for i in (1, 2))
    plain = gae_reference(rewards, values, mask, 0.99, 0.95)
    exact = gae_reference(rewards.double(), values.double(), mask, 0.99, 0.95)
    check(gae(rewards, values, mask, 0.99, 0.95, impl="cpp"), plain, exact)


@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_rewards_keep_the_error_rule_and_the_bits_of_k1_and_k2(
    host: Any, rows: int, width: int
) -> None:
    mask = normal(rows, width, seed=9) > -0.5
    first, second, kl, token = (
        normal(rows, width, seed=i).masked_fill(~mask, math.nan) for i in range(4)
    )
    scores = normal(rows, seed=4)
    for estimator, *given in (
        ("k1", None, None),
        ("k2", None, token),
        ("k3", None, None),
        ("k1", kl, token),
    ):
        plain = rewards_reference(first, second, scores, mask, 0.1, estimator, *given)
        wide = [None if x is None else x.double() for x in (first, second, scores, *given)]
        exact = rewards_reference(*wide[:3], mask, 0.1, estimator, *wide[3:])  # type: ignore[arg-type]
        ours = kl_rewards(first, second, scores, mask, 0.1, estimator, *given, impl="cpp")  # type: ignore[arg-type]
        check(ours, plain, exact)
        if estimator == "k3":
            assert bool((ours[1] >= 0).all())
        else:
            assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 32), (127, 33), (5, 2600)])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_whitening_keeps_the_error_rule(grids: Any, rows: int, width: int, offset: float) -> None:
    mask = normal(rows, width, seed=9) > 0
    x = (normal(rows, width) * 3 + offset).masked_fill(~mask, math.nan)
    for shift_mean in (True, False):
        plain = whiten_reference(x, mask, shift_mean, 1e-8)
        exact = whiten_reference(x.double(), mask, shift_mean, 1e-8)
        check([whiten(x, mask, shift_mean, impl="cpp")], [plain], [exact])


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 32), (127, 33), (5, 2600)])
def test_the_fused_operation_keeps_the_error_rule(grids: Any, rows: int, width: int) -> None:
    mask = mask_of(rows, width)
    first, second, values, kl, token = (
        normal(rows, width, seed=i).masked_fill(~mask, math.nan) for i in range(5)
    )
    scores = normal(rows, seed=6)

    def run(wide: Any, estimator: str, *given: Tensor | None) -> Any:
        one, two, three, four, *more = (
            x if x is None else wide(x) for x in (first, second, scores, values, *given)
        )
        rewards, used = rewards_reference(one, two, three, mask, 0.1, estimator, *more)  # type: ignore[arg-type]
        advantages, returns = gae_reference(rewards, four, mask, 0.99, 0.95)
        return rewards, used, whiten_reference(advantages, mask, True, 1e-8), returns

    for estimator, *given in (("k1", None, None), ("k3", None, token), ("k1", kl, token)):
        plain = run(lambda x: x, estimator, *given)
        exact = run(lambda x: x.double(), estimator, *given)
        inputs = first, second, scores, values, mask, 0.1, 0.99, 0.95, estimator, *given
        check(kl_gae_whiten(*inputs, impl="cpp"), plain, exact)  # type: ignore[arg-type]


def test_the_fused_operation_has_the_same_bits_however_it_is_launched(host: Any) -> None:
    mask = mask_of(41, 129)
    inputs = *(normal(41, 129, seed=i) for i in range(2)), normal(41, seed=2)
    found = []
    for cooperative, upwards in itertools.product(("yes", "no", "too large"), (True, False)):
        host.configure(cooperative, upwards)
        found.append(kl_gae_whiten(*inputs, normal(41, 129, seed=3), mask, 0.1, impl="cpp"))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize(
    ("how", "count"), [(how, 2000 if how[1:] == (0, 1.0) else 200) for how in HOW], ids=str
)
def test_draws_what_the_reference_draws(host: Any, how: tuple[Any, ...], count: int) -> None:
    """On 2,000 keys; on 200 where a threshold is looked for, which takes long here."""
    logits, u = normal(count, 1500) * 2, keys(count)
    for part, upwards in zip(torch.arange(count).chunk(2), (True, False), strict=True):
        host.configure("yes", upwards)
        ours = sample(logits[part], u[part], *how, impl="cpp")
        reference = sample(logits[part], u[part], *how, impl="reference")
        if how[0] == 0:
            assert torch.equal(ours[0], reference[0])
        else:
            assert_draws_agree(ours[0], reference[0], logits[part], u[part], *how)
        for a, b in zip(ours[1:], reference[1:], strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("upwards", [True, False])
def test_draws_from_more_chunks_than_a_warp_has_lanes(host: Any, upwards: bool) -> None:
    host.configure("yes", upwards)
    logits, u = normal(30, 40 * CHUNK + 5) * 2, keys(30)
    ours = sample(logits, u, impl="cpp")
    reference = sample(logits, u, impl="reference")
    assert_draws_agree(ours[0], reference[0], logits, u, 1.0, 0, 1.0)
    for a, b in zip(ours[1:], reference[1:], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", [1, 2, 33, CHUNK + 1])
def test_edge_cases_agree_with_the_reference(
    host: Any, dtype: torch.dtype, vocabulary: int
) -> None:
    logits = (normal(8, vocabulary) * 2).to(dtype)
    logits[0, -1] = math.nan
    logits[1] = -math.inf
    logits[2, 0] = math.inf
    logits[3] = 1.5
    logits[4, 1:] = -math.inf
    logits[5, 0] = -0.0
    logits[5, -1] = 0.0
    for u in (u_of(*[0.0] * 8), u_of(*[LARGEST_U] * 8)):
        for how in ((1.0, 0, 1.0), (0.0, 0, 1.0), (1.0, 1, 1.0), (1.0, 10**9, 1e-300)):
            ours = sample(logits, u, *how, impl="cpp")
            reference = sample(logits, u, *how, impl="reference")
            assert torch.equal(ours[0], reference[0])
            for a, b in zip(ours[1:], reference[1:], strict=True):
                torch.testing.assert_close(a, b, equal_nan=True)


def test_philox_has_the_bits_of_the_reference(host: Any) -> None:
    index = torch.arange(1000)
    for seed, iteration in ((0, 0), (1, 1), (2**64 - 1, 2**32 - 1)):
        args = (seed, iteration, index << 33, index << 20)
        assert torch.equal(
            philox_uniform(*args, impl="cpp"), philox_uniform(*args, impl="reference")
        )


def test_threads_that_do_not_wait_for_each_other_are_noticed(module: ModuleType) -> None:
    """Memory of a block is NaN until it is written."""
    for upwards, meets in itertools.product((True, False), (True, False)):
        module.configure("yes", upwards)
        x = torch.arange(64.0)
        assert module.run_turned_around(x.data_ptr(), meets) is None
        assert torch.equal(x, torch.arange(64.0).flip(0)) == meets
    module.configure("yes", True)


def test_a_kernel_that_would_hang_is_an_error(module: ModuleType) -> None:
    """A shuffle that a lane misses, and a loop without an end."""
    x = torch.ones(64)
    assert module.run_shuffle_of_one_lane(x.data_ptr()) == (
        "threads wait for others that do not come"
    )
    assert module.run_no_end(x.data_ptr()) == "a kernel does not end"
