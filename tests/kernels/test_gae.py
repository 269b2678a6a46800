import inspect
import math

import pytest
import torch
from cases import (
    CPU_IMPLS,
    IMPLS,
    ODD_ROWS,
    needs_interpreter,
    needs_native,
    normal,
    prefix_mask,
    ragged,
)
from hypothesis import given, settings
from tolerances import assert_within_error_rule

from fairlead_kernels import KernelError, gae, kl_rewards
from fairlead_kernels.gae import _reference


def exact(rewards, values, mask, gamma, lam):
    return _reference(rewards.double(), values.double(), mask, gamma, lam)


@pytest.mark.parametrize("impl", IMPLS)
def test_three_tokens_by_hand(impl):
    """Fidelity item 28 and Fidelity item 29, from the score to the advantages.

    No KL, score 2, V = 1 everywhere, lambda 0.95: delta = 0, 0, 2 - 1 = 1, so the advantages are
    0.95^2 = 0.9025, 0.95, 1, and the returns one more each. Two positions of padding follow.
    """
    zeros, mask = torch.zeros(1, 5), prefix_mask([3], 5)
    rewards, _ = kl_rewards(zeros, zeros, torch.tensor([2.0]), mask, beta=0.02)
    advantages, returns = gae(rewards, torch.ones(1, 5), mask, lam=0.95, impl=impl)
    expected = torch.tensor([[0.9025, 0.95, 1.0, 0.0, 0.0]], dtype=torch.float64)
    assert_within_error_rule(advantages, expected.float(), expected)
    expected = torch.tensor([[1.9025, 1.95, 2.0, 0.0, 0.0]], dtype=torch.float64)
    assert_within_error_rule(returns, expected.float(), expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_discount_by_hand(impl):
    # gamma 1/2, lambda 1/2: delta_1 = 4 - 2 = 2, delta_0 = 1 + 2/2 - 3 = -1,
    # A_1 = 2, A_0 = -1 + 2/4 = -0.5; returns V + A = 2.5, 4.
    advantages, returns = gae(
        torch.tensor([[1.0, 4.0]]),
        torch.tensor([[3.0, 2.0]]),
        prefix_mask([2], 2),
        gamma=0.5,
        lam=0.5,
        impl=impl,
    )
    assert torch.equal(advantages, torch.tensor([[-0.5, 2.0]]))
    assert torch.equal(returns, torch.tensor([[2.5, 4.0]]))


def test_defaults_are_lambda_095_and_no_discount():
    """Fidelity item 21."""
    parameters = inspect.signature(gae).parameters
    assert parameters["lam"].default == 0.95
    assert parameters["gamma"].default == 1.0


@pytest.mark.parametrize("impl", CPU_IMPLS)
@settings(max_examples=60, deadline=None)
@given(case=ragged())
def test_positions_past_the_response_have_no_influence_and_are_zero(impl, case):
    """Fidelity item 20: neither rewards nor values there, NaN and infinities included."""
    mask, seed = case
    rewards, values = normal(*mask.shape, seed=seed), normal(*mask.shape, seed=seed + 1)
    clean = gae(rewards.masked_fill(~mask, 0.0), values.masked_fill(~mask, 0.0), mask, impl=impl)
    for fill in (math.nan, math.inf, 1e30):
        dirty = gae(
            rewards.masked_fill(~mask, fill), values.masked_fill(~mask, fill), mask, impl=impl
        )
        for a, b in zip(clean, dirty, strict=True):
            assert torch.equal(a, b)
            assert not bool(a[~mask].any())


@needs_native
@settings(max_examples=150, deadline=None)
@given(ragged(max_rows=70, max_width=70))
def test_cpp_has_the_bits_of_the_reference_at_ragged_lengths(case):
    mask, seed = case
    rewards, values = normal(*mask.shape, seed=seed), normal(*mask.shape, seed=seed + 1)
    ours = gae(rewards, values, mask, 0.99, 0.9, impl="cpp")
    reference = gae(rewards, values, mask, 0.99, 0.9, impl="reference")
    assert all(torch.equal(a, b) for a, b in zip(ours, reference, strict=True))


@needs_native
@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "generic"])
@pytest.mark.parametrize("rows", ODD_ROWS)
@pytest.mark.parametrize("width", [1, 7, 16, 33, 64])
def test_every_instruction_set_has_the_bits_of_the_reference(instruction_set, rows, width):
    from fairlead_kernels import _native

    generator = torch.Generator().manual_seed(rows * width)
    mask = prefix_mask(torch.randint(0, width + 1, (rows,), generator=generator), width)
    rewards, values = normal(rows, width, seed=1), normal(rows, width, seed=2)
    out = torch.full((2, rows, width), math.nan)
    tensors = (rewards, values, mask, out[0], out[1])
    addresses = [x.data_ptr() for x in tensors]
    try:
        _native.gae_cpu(*addresses, rows, width, 1.0, 0.95, 1, instruction_set)
    except ValueError as error:
        pytest.skip(str(error))
    reference = gae(rewards, values, mask, impl="reference")
    assert torch.equal(out[0], reference[0])
    assert torch.equal(out[1], reference[1])


@pytest.mark.parametrize("impl", CPU_IMPLS)
@pytest.mark.parametrize("rows", ODD_ROWS)
def test_error_rule_on_odd_shapes(impl, rows):
    width = 301
    mask = prefix_mask(
        torch.randint(0, width + 1, (rows,), generator=torch.Generator().manual_seed(rows)), width
    )
    rewards, values = normal(rows, width, seed=1), normal(rows, width, seed=2)
    plain = _reference(rewards, values, mask, 1.0, 0.95)
    true = exact(rewards, values, mask, 1.0, 0.95)
    for ours, other, right in zip(gae(rewards, values, mask, impl=impl), plain, true, strict=True):
        assert_within_error_rule(ours, other, right)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_empty_batch_and_empty_response(impl, shape):
    zeros = torch.zeros(shape)
    advantages, returns = gae(zeros, zeros, zeros.bool(), impl=impl)
    assert advantages.shape == returns.shape == shape


@pytest.mark.parametrize("impl", IMPLS)
def test_non_contiguous_and_half_precision_inputs(impl):
    rewards, values = normal(40, 30, seed=1).t(), normal(30, 80, seed=2)[:, ::2].bfloat16()
    mask = prefix_mask(torch.arange(30), 40)
    strided = mask.t().contiguous().t()
    assert not rewards.is_contiguous()
    assert not strided.is_contiguous()
    ours = gae(rewards, values, strided, impl=impl)
    plain = gae(rewards.contiguous(), values.float().contiguous(), mask, impl="reference")
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


@needs_interpreter
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 2), (65, 17), (2, 1025)])
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 1.0), (1, 0)])
def test_triton_keeps_the_error_rule_across_tiles(rows, width, gamma, lam):
    """A tile has 1,024 positions: shapes of one row and several tiles, and of several rows each."""
    mask = prefix_mask(torch.arange(rows) * 7 % (width + 1), width)
    mask[-1] = True
    rewards, values = (normal(rows, width, seed=i).masked_fill(~mask, math.nan) for i in (1, 2))
    plain = _reference(rewards, values, mask, gamma, lam)
    true = _reference(rewards.double(), values.double(), mask, gamma, lam)
    ours = gae(rewards, values, mask, gamma, lam, impl="triton")
    for a, b, c in zip(ours, plain, true, strict=True):
        assert_within_error_rule(a, b, c)
        assert not bool(a[~mask].any())


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_and_infinity_inside_reach_what_comes_before_them_and_nothing_else(impl):
    rewards = torch.tensor([[1.0, math.nan, 1.0], [1.0, 1.0, math.inf], [1.0, 1.0, 1.0]])
    mask = torch.ones(3, 3, dtype=torch.bool)
    advantages, _ = gae(rewards, torch.zeros(3, 3), mask, lam=0.5, impl=impl)
    assert advantages[0].isnan().tolist() == [True, True, False]
    assert advantages[1].isinf().all()
    assert advantages[2].isfinite().all()


@pytest.mark.parametrize("impl", CPU_IMPLS)
def test_rows_do_not_depend_on_their_neighbours(impl):
    """Fidelity item 33: bitwise, in any batch and order."""
    mask = prefix_mask(torch.arange(1, 38), 37)
    rewards, values = normal(37, 37, seed=1), normal(37, 37, seed=2)
    whole = gae(rewards, values, mask, impl=impl)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))[:11]
    part = gae(rewards[order], values[order], mask[order], impl=impl)
    assert all(torch.equal(a[order], b) for a, b in zip(whole, part, strict=True))


def test_a_mask_with_a_hole_is_an_error():
    zeros = torch.zeros(1, 3)
    for row in ([True, False, True], [False, True, True]):
        with pytest.raises(ValueError, match="contiguous prefix"):
            gae(zeros, zeros, torch.tensor([row]))


def test_wrong_arguments_are_errors():
    zeros, mask = torch.zeros(2, 3), prefix_mask([1, 2], 3)
    with pytest.raises(ValueError, match="values"):
        gae(zeros, torch.zeros(2, 4), mask)
    with pytest.raises(ValueError, match="boolean"):
        gae(zeros, zeros, mask.long())
    with pytest.raises(ValueError, match="gamma"):
        gae(zeros, zeros, mask, gamma=math.nan)


@needs_native
@needs_interpreter
def test_kernels_refuse_inputs_that_need_a_gradient_and_auto_does_not_take_them():
    rewards = torch.zeros(1, 2, requires_grad=True)
    mask = prefix_mask([2], 2)
    for impl in ("cpp", "triton"):
        with pytest.raises(KernelError, match="no gradient"):
            gae(rewards, torch.zeros(1, 2), mask, impl=impl)
    advantages, _ = gae(rewards, torch.zeros(1, 2), mask)
    advantages.sum().backward()
    # d(A_0 + A_1) / dr = 1, 1 + lambda.
    assert torch.equal(rewards.grad, torch.tensor([[1.0, 1.95]]))


@needs_native
@pytest.mark.parametrize(
    ("values", "mask"),
    [
        (torch.zeros(4, 3), torch.zeros(3, 4, dtype=torch.bool)),
        (torch.zeros(3, 4).double(), torch.zeros(3, 4, dtype=torch.bool)),
        (torch.zeros(4, 3).t(), torch.zeros(3, 4, dtype=torch.bool)),
        (torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.uint8)),
        (torch.zeros(3, 4), torch.zeros(3, 5, dtype=torch.bool)[:, :4]),
    ],
)
def test_no_address_leaves_python_unchecked(values, mask):
    with pytest.raises(ValueError, match="gae"):
        torch.ops.fairlead_kernels.triton_gae(torch.zeros(3, 4), values, mask, 1.0, 0.95)
    with pytest.raises(ValueError, match="gae"):
        torch.ops.fairlead_kernels.gae(torch.zeros(3, 4), values, mask, 1.0, 0.95)


@needs_native
def test_the_torch_operation_passes_opcheck():
    for rows, width in ((0, 4), (3, 5), (17, 33)):
        mask = prefix_mask(torch.arange(rows) % (width + 1), width)
        torch.library.opcheck(
            torch.ops.fairlead_kernels.gae.default,
            (normal(rows, width), normal(rows, width, seed=1), mask, 1.0, 0.95),
        )


@pytest.mark.parametrize(("name", "value"), [("gamma", 1.01), ("lam", -0.1), ("lam", math.inf)])
def test_a_discount_outside_0_to_1_is_an_error(name, value):
    """A scan over time would multiply it up to infinity past the end of a response."""
    zeros, mask = torch.zeros(2, 3), prefix_mask([1, 2], 3)
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\], got {value}"):
        gae(zeros, zeros, mask, **{name: value})
