import math

import pytest
import torch
from cases import (  # noqa: F401
    CPU_IMPLS,
    IMPLS,
    ODD_ROWS,
    instruction_set,
    needs_interpreter,
    needs_native,
    normal,
    ragged,
)
from hypothesis import given, settings
from tolerances import assert_within_error_rule

from fairlead_kernels import KernelError, whiten
from fairlead_kernels.whiten import _reference


@pytest.mark.parametrize("impl", IMPLS)
def test_hand_worked_values(impl):
    """Fidelity item 19: biased variance, eps inside the root, masked positions zero.

    1, 2, 3 (and a masked 9): mean 2, biased variance 2/3, so -+ sqrt(3/2) = 1.2247449 at the ends.
    The unbiased variance, 1, would give -+ 1.
    """
    x = torch.tensor([[1.0, 2.0], [3.0, 9.0]])
    mask = torch.tensor([[True, True], [True, False]])
    end = 1 / math.sqrt(2 / 3 + 1e-8)
    exact = torch.tensor([[-end, 0.0], [end, 0.0]], dtype=torch.float64)
    assert_within_error_rule(whiten(x, mask, impl=impl), exact.float(), exact)


@pytest.mark.parametrize("impl", IMPLS)
def test_eps_is_added_to_the_variance(impl):
    # 1 and 3: variance 1, with eps 3 the root is 2.
    mask = torch.ones(2, dtype=torch.bool)
    result = whiten(torch.tensor([1.0, 3.0]), mask, eps=3.0, impl=impl)
    assert torch.equal(result, torch.tensor([-0.5, 0.5]))


@pytest.mark.parametrize("impl", IMPLS)
def test_the_mean_is_kept_when_asked(impl):
    """Fidelity item 18: reward whitening divides by the deviation and keeps the mean."""
    x = torch.tensor([1.0, 2.0, 3.0, 9.0])
    mask = torch.tensor([True, True, True, False])
    end = 1 / math.sqrt(2 / 3 + 1e-8)
    exact = torch.tensor([2 - end, 2.0, 2 + end, 0.0], dtype=torch.float64)
    assert_within_error_rule(whiten(x, mask, shift_mean=False, impl=impl), exact.float(), exact)


@pytest.mark.parametrize("impl", CPU_IMPLS)
@pytest.mark.parametrize("shift_mean", [True, False])
@settings(max_examples=60, deadline=None)
@given(case=ragged())
def test_masked_positions_have_no_influence(impl, shift_mean, case):
    """Fidelity item 19 and Fidelity item 20: zero again afterwards, NaN there never read."""
    mask, seed = case
    x = normal(*mask.shape, seed=seed)
    clean = whiten(x.masked_fill(~mask, 0.0), mask, shift_mean, impl=impl)
    dirty = whiten(x.masked_fill(~mask, math.nan), mask, shift_mean, impl=impl)
    assert torch.equal(clean, dirty)
    assert not bool(clean[~mask].any())


def plainly(x, mask):
    kept, result = x[mask], torch.zeros_like(x)
    result[mask] = (kept - kept.mean()) * torch.rsqrt(kept.var(unbiased=False) + 1e-8)
    return result


def check_error_rule(rows, width, offset, impl):
    x = normal(rows, width) * 3 + offset
    mask = normal(rows, width, seed=1) > 0
    mask[0, 0] = True
    for shift_mean in (True, False):
        exact = _reference(x.double(), mask, shift_mean, 1e-8)
        # The reference: plain torch takes the mean off once, and is worse far from 0.
        plain = _reference(x, mask, shift_mean, 1e-8)
        assert_within_error_rule(whiten(x, mask, shift_mean, impl=impl), plain, exact)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("rows", ODD_ROWS)
@pytest.mark.parametrize("offset", [0.0, 100.0, -3e5])
def test_error_rule_with_a_mean_far_from_zero(impl, rows, offset):
    check_error_rule(rows, 127, offset, impl)


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_error_rule_on_every_instruction_set(instruction_set, offset):  # noqa: F811
    for rows, width in ((1, 1), (3, 5), (127, 131)):
        check_error_rule(rows, width, offset, "cpp")


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_reference_keeps_the_error_rule_against_plain_torch(offset):
    x, mask = normal(257, 127) * 3 + offset, normal(257, 127, seed=1) > 0
    exact = _reference(x.double(), mask, True, 1e-8)
    assert_within_error_rule(whiten(x, mask, impl="reference"), plainly(x, mask), exact)


@pytest.mark.parametrize("impl", IMPLS)
def test_an_outlier_that_comes_first_spoils_nothing(impl):
    """Sums about the first element are as good as about the mean, however far off it is."""
    x = normal(3, 5000)
    x[0, 0] = 1e4
    mask = torch.ones_like(x, dtype=torch.bool)
    exact = _reference(x.double(), mask, True, 1e-8)
    assert_within_error_rule(whiten(x, mask, impl=impl), _reference(x, mask, True, 1e-8), exact)


@pytest.mark.parametrize("impl", IMPLS)
def test_stretches_without_a_position_are_passed_over(impl):
    """4,096 positions are summed on their own: the first and the last of these have none inside."""
    x = normal(3, 4096)
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[1, 10:20] = True
    exact = _reference(x.double(), mask, True, 1e-8)
    result = whiten(x, mask, impl=impl)
    assert_within_error_rule(result, _reference(x, mask, True, 1e-8), exact)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # The interpreter's.
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_or_infinity_inside_makes_every_position_inside_nan(impl, bad):
    x, mask = normal(3, 3000), normal(3, 3000, seed=1) > 0
    x[1, 7], mask[1, 7] = bad, True
    result = whiten(x, mask, impl=impl)
    assert torch.equal(result.isnan(), mask)
    assert not bool(result[~mask].any())


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_mask_gives_zeros_and_a_constant_gives_its_mean(impl):
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    for shift_mean in (True, False):
        result = whiten(torch.full((2, 2), math.nan), nothing, shift_mean, impl=impl)
        assert torch.equal(result, torch.zeros(2, 2))
    constant = torch.full((2, 2), 4.0)
    assert torch.equal(whiten(constant, ~nothing, impl=impl), torch.zeros(2, 2))
    assert torch.equal(whiten(constant, ~nothing, shift_mean=False, impl=impl), constant)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(0,), (0, 5), (2, 0)])
def test_empty_inputs(impl, shape):
    assert whiten(torch.zeros(shape), torch.zeros(shape).bool(), impl=impl).shape == shape


@pytest.mark.parametrize("impl", IMPLS)
def test_half_precision_and_strided_inputs_give_what_plain_ones_give(impl):
    x, mask = normal(7, 5).t().half(), (normal(5, 14) > 0)[:, ::2]
    ours = whiten(x, mask, impl=impl)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, whiten(x.float().contiguous(), mask.contiguous(), impl=impl))


@needs_native
def test_the_bits_do_not_depend_on_the_number_of_threads():
    # Enough for two threads to be worth waking.
    x, mask = normal(700, 1000), normal(700, 1000, seed=1) > 0
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(whiten(x, mask, impl="cpp"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@needs_native
@needs_interpreter
def test_kernels_refuse_inputs_that_need_a_gradient_and_auto_has_one():
    x, mask = normal(4).requires_grad_(), torch.ones(4, dtype=torch.bool)
    for impl in ("cpp", "triton"):
        with pytest.raises(KernelError, match="no gradient"):
            whiten(x, mask, impl=impl)
    assert whiten(x, mask).requires_grad


def test_wrong_arguments_are_errors():
    with pytest.raises(ValueError, match="mask"):
        whiten(torch.zeros(2), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="boolean"):
        whiten(torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match="eps"):
        whiten(torch.zeros(2), torch.ones(2, dtype=torch.bool), eps=-1.0)


@needs_native
@pytest.mark.parametrize(
    ("x", "mask"),
    [
        (torch.zeros(4).double(), torch.zeros(4).bool()),
        (torch.zeros(8)[::2], torch.zeros(4).bool()),
        (torch.zeros(4), torch.zeros(5).bool()),
        (torch.zeros(4), torch.zeros(4)),
        (torch.zeros(4), torch.zeros(8).bool()[::2]),
    ],
)
def test_no_address_leaves_python_unchecked(x, mask):
    ops = torch.ops.fairlead_kernels
    for launch in (ops.whiten, ops.triton_whiten):
        with pytest.raises(ValueError, match="whiten"):
            launch(x, mask, True, 1e-8)


@needs_native
def test_the_torch_operation_passes_opcheck():
    for shape in ((0,), (5, 7)):
        x, mask = normal(*shape), normal(*shape, seed=1) > 0
        torch.library.opcheck(torch.ops.fairlead_kernels.whiten.default, (x, mask, True, 1e-8))
