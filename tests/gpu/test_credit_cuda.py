"""Rewards, advantages, whitening and PPO's losses on a device, in CUDA and in compiled triton."""

import math

import pytest
import torch
from cases import ODD_ROWS, normal, prefix_mask
from tolerances import assert_within_error_rule

from fairlead_kernels import (
    gae,
    kl_gae_whiten,
    kl_rewards,
    native_status,
    ppo_policy_loss,
    ppo_value_loss,
    whiten,
)
from fairlead_kernels.gae import _reference as gae_reference
from fairlead_kernels.kl_rewards import _reference as rewards_reference
from fairlead_kernels.ppo_loss import _policy_reference, _value_reference
from fairlead_kernels.whiten import _reference as whiten_reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
no_cuda_part = "cuda" not in native_status().parts
IMPLS = [
    pytest.param("cuda", marks=pytest.mark.skipif(no_cuda_part, reason="no native CUDA kernels")),
    "triton",
]
SHAPES = [*((rows, 33) for rows in ODD_ROWS), (1, 1), (3, 32), (7, 300), (5, 2600), (1500, 129)]


def mask_of(rows, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = prefix_mask(torch.randint(0, width + 1, (rows,), generator=generator), width)
    mask[-1] = True
    return mask


def on_device(*tensors):
    return [x.cuda() if isinstance(x, torch.Tensor) else x for x in tensors]


def check(ours, plain, exact):
    for a, b, c in zip(ours, plain, exact, strict=True):
        assert_within_error_rule(a.cpu(), b, c)


@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_triton_gae_keeps_the_error_rule(rows, width):
    mask = mask_of(rows, width)
    rewards, values = (normal(rows, width, seed=i).masked_fill(~mask, math.nan) for i in (1, 2))
    plain = gae_reference(rewards, values, mask, 0.99, 0.95)
    exact = gae_reference(rewards.double(), values.double(), mask, 0.99, 0.95)
    check(gae(*on_device(rewards, values, mask), 0.99, 0.95, impl="triton"), plain, exact)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_rewards_keep_the_error_rule_and_the_bits_of_k1_and_k2(impl, rows, width):
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
        exact = rewards_reference(*wide[:3], mask, 0.1, estimator, *wide[3:])
        inputs = on_device(first, second, scores, mask, 0.1, estimator, *given)
        ours = kl_rewards(*inputs, impl=impl)
        check(ours, plain, exact)
        if estimator == "k3":
            assert bool((ours[1] >= 0).all())
        else:
            assert all(torch.equal(a.cpu(), b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_whitening_keeps_the_error_rule(impl, rows, width, offset):
    mask = normal(rows, width, seed=9) > 0
    x = (normal(rows, width) * 3 + offset).masked_fill(~mask, math.nan)
    for shift_mean in (True, False):
        plain = whiten_reference(x, mask, shift_mean, 1e-8)
        exact = whiten_reference(x.double(), mask, shift_mean, 1e-8)
        check([whiten(*on_device(x, mask), shift_mean, impl=impl)], [plain], [exact])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_the_fused_operation_keeps_the_error_rule(impl, rows, width):
    mask = mask_of(rows, width)
    first, second, values, kl, token = (
        normal(rows, width, seed=i).masked_fill(~mask, math.nan) for i in range(5)
    )
    scores = normal(rows, seed=6)

    def run(wide, estimator, *given):
        one, two, three, four, *more = (
            x if x is None else wide(x) for x in (first, second, scores, values, *given)
        )
        rewards, used = rewards_reference(one, two, three, mask, 0.1, estimator, *more)
        advantages, returns = gae_reference(rewards, four, mask, 0.99, 0.95)
        return rewards, used, whiten_reference(advantages, mask, True, 1e-8), returns

    for estimator, *given in (("k1", None, None), ("k3", None, token), ("k1", kl, token)):
        plain = run(lambda x: x, estimator, *given)
        exact = run(lambda x: x.double(), estimator, *given)
        inputs = on_device(first, second, scores, values, mask)
        rest = on_device(0.1, 0.99, 0.95, estimator, *given)
        ours = kl_gae_whiten(*inputs, *rest, impl=impl)
        check(ours, plain, exact)
        again = kl_gae_whiten(*inputs, *rest, impl=impl)
        assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_empty_batch(impl, shape):
    zeros = torch.zeros(shape, device="cuda")
    scores = zeros[:, :0].sum(1)
    results = kl_gae_whiten(zeros, zeros, scores, zeros, zeros.bool(), 0.1, impl=impl)
    rewards, _ = kl_rewards(zeros, zeros, scores, zeros.bool(), 0.1, impl=impl)
    for one in (*results, rewards, whiten(zeros, zeros.bool(), impl=impl)):
        assert one.shape == shape


@pytest.mark.parametrize("impl", IMPLS)
def test_they_run_in_the_current_stream(impl):
    mask = mask_of(33, 65)
    inputs = on_device(*(normal(33, 65, seed=i) for i in range(2)), normal(33, seed=2))
    values, mask = normal(33, 65, seed=3).cuda(), mask.cuda()
    expected = kl_gae_whiten(*inputs, values, mask, 0.1, impl=impl)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        results = kl_gae_whiten(*inputs, values * 1.0, mask, 0.1, impl=impl)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize(
    ("function", "reference"),
    [(ppo_policy_loss, _policy_reference), (ppo_value_loss, _value_reference)],
)
@pytest.mark.parametrize("rows", ODD_ROWS)
def test_triton_losses_keep_the_error_rule(function, reference, rows):
    mask = normal(rows, 33, seed=9) > -0.5
    inputs = [(normal(rows, 33, seed=i) * 0.3).masked_fill(~mask, math.nan) for i in range(3)]

    def outcome(one, first, *rest):
        first = first.detach().clone().requires_grad_()
        loss, weight, metrics = one(first, *rest)
        loss.backward()
        return [x.detach().cpu() for x in (loss, weight, *vars(metrics).values(), first.grad)]

    def triton(*args):
        return function(*args, impl="triton")

    plain = outcome(reference, *inputs, mask, 0.25)
    exact = outcome(reference, *(x.double() for x in inputs), mask, 0.25)
    ours = outcome(triton, *on_device(*inputs, mask), 0.25)
    for a, b, c in zip(ours[:-1], plain, exact, strict=False):
        terms = torch.maximum(mask.sum() * 2.0, c.abs().float())
        assert_within_error_rule(a, b, c.double(), terms=terms)
    assert_within_error_rule(ours[-1], plain[-1], exact[-1])


@pytest.mark.skipif(no_cuda_part, reason="no native CUDA kernels")
def test_the_torch_operations_pass_opcheck():
    mask = mask_of(17, 33).cuda()
    first, second, values = (normal(17, 33, seed=i).cuda() for i in range(3))
    scores = normal(17, seed=4).cuda()
    ops = torch.ops.fairlead_kernels
    rewards = (first, second, scores, mask, 0.1, "k3", None, values)
    torch.library.opcheck(ops.kl_rewards.default, rewards)
    torch.library.opcheck(ops.whiten.default, (first, mask, True, 1e-8))
    fused = (first, second, scores, values, mask, 0.1, 1.0, 0.95, "k1", None, None)
    torch.library.opcheck(ops.kl_gae_whiten.default, fused)
