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
    prefix_mask,
    ragged,
)
from hypothesis import HealthCheck, given, settings
from tolerances import assert_within_error_rule

from fairlead_kernels import KernelError, kl_rewards
from fairlead_kernels.kl_rewards import _reference


@pytest.mark.parametrize("impl", IMPLS)
def test_score_is_added_once_at_the_last_response_token(impl):
    """Fidelity item 29, and the penalty -beta * kl at each response token."""
    logprobs = torch.tensor([[-1.0, -2.0, -3.0, 9.0], [-1.0, 9.0, 9.0, 9.0]])
    ref = torch.tensor([[-1.5, -1.5, -3.0, 7.0], [-2.0, 7.0, 7.0, 7.0]])
    mask = prefix_mask([3, 1], 4)
    scores = torch.tensor([2.0, 4.0])
    rewards, kl = kl_rewards(logprobs, ref, scores, mask, beta=0.5, impl=impl)
    # lr = 0.5, -0.5, 0 | 1; rewards = -0.5 lr, plus 2 at the third token, plus 4 at the first.
    assert torch.equal(kl, torch.tensor([[0.5, -0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]))
    assert torch.equal(rewards, torch.tensor([[-0.25, 0.25, 2.0, 0.0], [3.5, 0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_mask_with_holes_gets_the_score_at_its_last_position(impl):
    # Two vectors or more of positions; the last ones inside are 2, 33 and 39, one row has none.
    mask = torch.zeros(4, 40, dtype=torch.bool)
    for row, inside in enumerate(([0, 2], [1, 7, 33], [39], [])):
        mask[row, inside] = True
    scores = torch.tensor([1.0, 2.0, 3.0, math.nan])
    zeros = torch.zeros(4, 40)
    rewards, _ = kl_rewards(zeros, zeros, scores, mask, beta=0.5, impl=impl)
    expected = torch.zeros(4, 40)
    expected[0, 2], expected[1, 33], expected[2, 39] = 1.0, 2.0, 3.0
    assert torch.equal(rewards, expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_estimators_by_hand(impl):
    """Fidelity item 15: k1 = lr, k2 = lr^2 / 2, k3 = exp(-lr) - 1 + lr, at lr = 1/2."""
    one = torch.zeros(1, 1)
    mask = torch.ones(1, 1, dtype=torch.bool)
    expected = {"k1": 0.5, "k2": 0.125, "k3": math.exp(-0.5) - 0.5}
    for name, value in expected.items():
        _, kl = kl_rewards(one, one - 0.5, torch.zeros(1), mask, 0.1, estimator=name, impl=impl)
        exact = torch.tensor([[value]], dtype=torch.float64)
        assert_within_error_rule(kl, exact.float(), exact)


def both_signs(lowest: float, highest: float) -> torch.Tensor:
    spread = torch.logspace(lowest, highest, 5000)
    return torch.cat([spread, -spread])[None]


@pytest.mark.parametrize("impl", IMPLS)
def test_k3_is_never_negative_for_tiny_ratios(impl):
    """Fidelity item 15: exp(-lr) - 1 + lr goes negative in float32, expm1 does not."""
    log_ratio = both_signs(-12, 1)
    mask = torch.ones_like(log_ratio, dtype=torch.bool)
    _, kl = kl_rewards(
        log_ratio, torch.zeros_like(log_ratio), torch.zeros(1), mask, 0.1, "k3", impl=impl
    )
    assert bool((torch.exp(-log_ratio) - 1 + log_ratio < 0).any()), "the trap is there"
    assert bool((kl >= 0).all())


def k3(log_ratio, impl):
    mask = torch.ones_like(log_ratio, dtype=torch.bool)
    zeros, score = torch.zeros_like(log_ratio), torch.zeros(1)
    return kl_rewards(log_ratio, zeros, score, mask, 0.1, "k3", impl=impl)[1]


def check_k3(impl):
    for lowest, highest in ((-12, -1), (-6, 0), (-1, 1), (0, 1.9)):
        log_ratio = both_signs(lowest, highest)
        true = torch.expm1(-log_ratio.double()) + log_ratio.double()
        assert_within_error_rule(k3(log_ratio, impl), torch.expm1(-log_ratio) + log_ratio, true)
    # Halves of ln 2 are where the reduction changes its step.
    log_ratio = torch.arange(-120, 120)[None] * (math.log(2) / 2) * (1 + 1e-7)
    log_ratio = log_ratio.clamp(-85, 85)
    true = torch.expm1(-log_ratio.double()) + log_ratio.double()
    assert_within_error_rule(k3(log_ratio, impl), torch.expm1(-log_ratio) + log_ratio, true)


@pytest.mark.parametrize("impl", IMPLS)
def test_k3_keeps_the_error_rule_at_every_size(impl):
    check_k3(impl)


def test_k3_keeps_the_error_rule_on_every_instruction_set(instruction_set):  # noqa: F811
    check_k3("cpp")


@pytest.mark.parametrize("impl", ["cpp", "triton"])
@needs_native
@needs_interpreter
def test_k3_is_accurate_near_zero_where_expm1_is_not(impl):
    # At 2^-10 it is about lr^2 / 2 = 2^-21, of which half an ulp of lr, 2^-34, is 2^-13.
    log_ratio = torch.tensor([[2.0**-10, -(2.0**-10)]])
    true = torch.expm1(-log_ratio.double()) + log_ratio.double()
    assert_within_error_rule(k3(log_ratio, impl), true.float(), true)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # The interpreter's.
@pytest.mark.parametrize("impl", IMPLS)
def test_nan_and_infinity_inside_give_what_the_formulas_give(impl):
    log_ratio = torch.tensor([[math.nan, math.inf, -math.inf, -88.5, -89.0, -200.0, 200.0, 1e30]])
    mask = torch.ones_like(log_ratio, dtype=torch.bool)
    zeros, score = torch.zeros_like(log_ratio), torch.zeros(1)
    inf, nan = math.inf, math.nan
    k1 = [nan, inf, -inf, -88.5, -89.0, -200.0, 200.0, 1e30]
    # 1e30 squared is past float32; exp(88.5) is 2.7e38, just inside of it.
    expected = {
        "k1": k1,
        "k2": [nan, inf, inf, 88.5**2 / 2, 89.0**2 / 2, 2e4, 2e4, inf],
        "k3": [nan, inf, nan, math.exp(88.5), inf, inf, 199.0, 1e30],
    }
    for estimator, values in expected.items():
        rewards, kl = kl_rewards(log_ratio, zeros, score, mask, 2.0, estimator, impl=impl)
        exact = torch.tensor([values])
        finite = exact.isfinite()
        assert torch.equal(kl.isnan(), exact.isnan())
        assert torch.equal(kl[exact.isinf()], exact[exact.isinf()])
        assert_within_error_rule(kl[finite], exact[finite], torch.tensor([values]).double()[finite])
        assert torch.equal(rewards[~finite & ~exact.isnan()], -exact[~finite & ~exact.isnan()])


@pytest.mark.parametrize("impl", IMPLS)
def test_a_negative_per_token_kl_is_neither_clamped_nor_made_positive(impl):
    """Fidelity item 16."""
    lr = torch.tensor([[-0.75]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    rewards, kl = kl_rewards(lr, torch.zeros(1, 1), torch.zeros(1), mask, beta=2.0, impl=impl)
    assert kl.item() == -0.75
    assert rewards.item() == 1.5


@settings(max_examples=60, deadline=None)
@given(ragged())
def test_positions_outside_the_response_have_no_influence(case):
    """Fidelity item 20, in value and gradient, with NaN there."""
    mask, seed = case
    inputs = [normal(*mask.shape, seed=seed + i) for i in range(3)]
    scores = normal(len(mask), seed=seed + 3)
    for estimator in ("k1", "k2", "k3"):
        results = []
        for fill in (0.0, math.nan, math.inf):
            a, b, extra = (x.masked_fill(~mask, fill) for x in inputs)
            a.requires_grad_(True)
            rewards, kl = kl_rewards(
                a, b, scores, mask, 0.1, estimator=estimator, token_scores=extra
            )
            rewards.sum().backward()
            results.append((rewards.detach(), kl.detach(), a.grad))
        for other in results[1:]:
            assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))
        rewards, kl, grad = results[0]
        assert not bool(rewards[~mask].any() | kl[~mask].any() | grad[~mask].any())


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "given"])
def test_kernels_read_nothing_outside_the_mask(impl, estimator):
    """Fidelity item 20."""
    mask = normal(5, 43, seed=9) > 0
    inputs = [normal(5, 43, seed=i) for i in range(4)]
    clean, dirty = (
        kl_rewards(
            *(x.masked_fill(~mask, fill) for x in inputs[:2]),
            torch.ones(5),
            mask,
            0.1,
            estimator="k1" if estimator == "given" else estimator,
            kl=inputs[2].masked_fill(~mask, fill) if estimator == "given" else None,
            token_scores=inputs[3].masked_fill(~mask, fill),
            impl=impl,
        )
        for fill in (0.0, math.nan)
    )
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a, b)
        assert not bool(a[~mask].any())


def assert_the_reference_bits(mask, seed, impl):
    inputs = [normal(*mask.shape, seed=seed + i) for i in range(4)]
    scores = normal(len(mask), seed=seed + 5)
    for estimator, kl, token_scores in (
        ("k1", None, None),
        ("k2", None, inputs[3]),
        ("k1", inputs[2], None),
        ("k3", inputs[2], inputs[3]),
    ):
        ours, reference = (
            kl_rewards(*inputs[:2], scores, mask, 0.3, estimator, kl, token_scores, impl=one)
            for one in (impl, "reference")
        )
        assert all(torch.equal(a, b) for a, b in zip(ours, reference, strict=True))


@needs_native
@settings(max_examples=100, deadline=None)
@given(ragged(max_width=70))
def test_cpp_has_the_bits_of_the_reference_but_for_k3(case):
    mask, seed = case
    assert_the_reference_bits(mask, seed, "cpp")
    assert_the_reference_bits(normal(*mask.shape, seed=seed) > 0, seed, "cpp")


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=ragged(max_width=70))
def test_every_instruction_set_has_the_bits_of_the_reference(instruction_set, case):  # noqa: F811
    assert_the_reference_bits(*case, "cpp")


@needs_interpreter
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (65, 17), (2, 1025)])
def test_triton_has_the_bits_of_the_reference_across_tiles(rows, width):
    mask = normal(rows, width, seed=5) > 0
    mask[-1, 1:] = False  # The last position inside lies in a tile that comes up late.
    assert_the_reference_bits(mask, 0, "triton")


@pytest.mark.parametrize("impl", CPU_IMPLS)
@pytest.mark.parametrize("rows", ODD_ROWS)
def test_error_rule_on_odd_shapes(impl, rows):
    mask = normal(rows, 33, seed=4) > -1
    inputs = [normal(rows, 33, seed=i) * 0.1 for i in range(2)] + [normal(rows, seed=3)]
    for estimator in ("k1", "k2", "k3"):
        plain = _reference(*inputs, mask, 0.02, estimator, None, None)
        exact = _reference(*(x.double() for x in inputs), mask, 0.02, estimator, None, None)
        ours = kl_rewards(*inputs, mask, 0.02, estimator, impl=impl)
        for a, b, c in zip(ours, plain, exact, strict=True):
            assert_within_error_rule(a, b, c)


@settings(max_examples=60, deadline=None)
@given(ragged())
def test_each_row_with_a_response_gets_its_score_exactly_once(case):
    """Fidelity item 29: with beta 0 a row's rewards are its score and zeros."""
    mask, seed = case
    scores = normal(len(mask), seed=seed)
    zeros = torch.zeros(mask.shape)
    rewards, _ = kl_rewards(zeros, zeros, scores, mask, beta=0.0)
    assert torch.equal(rewards.sum(dim=1), scores.masked_fill(~mask.any(dim=1), 0.0))
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        if length:
            assert rewards[row, length - 1] == scores[row]


@pytest.mark.parametrize("impl", IMPLS)
def test_a_row_without_response_ignores_a_nan_score(impl):
    zeros, score = torch.zeros(1, 2), torch.tensor([math.nan])
    rewards, _ = kl_rewards(zeros, zeros, score, prefix_mask([0], 2), 0.1, impl=impl)
    assert torch.equal(rewards, zeros)


@pytest.mark.parametrize("impl", IMPLS)
def test_given_kl_and_token_scores_are_used(impl):
    mask = prefix_mask([2], 3)
    rewards, kl = kl_rewards(
        torch.full((1, 3), 5.0),
        torch.zeros(1, 3),
        torch.tensor([1.0]),
        mask,
        beta=0.5,
        kl=torch.tensor([[2.0, 4.0, math.nan]]),
        token_scores=torch.tensor([[10.0, 20.0, math.nan]]),
        impl=impl,
    )
    assert torch.equal(kl, torch.tensor([[2.0, 4.0, 0.0]]))
    # -0.5 * 2 + 10 and -0.5 * 4 + 20 + 1.
    assert torch.equal(rewards, torch.tensor([[9.0, 19.0, 0.0]]))


@pytest.mark.parametrize("impl", IMPLS)
def test_half_precision_and_strided_inputs_give_what_plain_ones_give(impl):
    logprobs, ref = normal(9, 6, seed=1).t(), normal(6, 18, seed=2)[:, ::2].bfloat16()
    mask = prefix_mask(torch.arange(6), 9).t().contiguous().t()
    scores = normal(12, seed=3)[::2]
    assert not mask.is_contiguous()
    ours = kl_rewards(logprobs, ref, scores, mask, 0.1, impl=impl)
    plain = kl_rewards(
        logprobs.contiguous(), ref.float().contiguous(), scores.contiguous(), mask, 0.1
    )
    for a, b in zip(ours, plain, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_empty_batch_and_empty_response(impl, shape):
    zeros = torch.zeros(shape)
    rewards, kl = kl_rewards(zeros, zeros, torch.zeros(shape[0]), zeros.bool(), 0.1, impl=impl)
    assert rewards.shape == kl.shape == shape


@needs_native
@needs_interpreter
def test_kernels_refuse_inputs_that_need_a_gradient():
    zeros, mask = torch.zeros(1, 2), prefix_mask([2], 2)
    for impl in ("cpp", "triton"):
        with pytest.raises(KernelError, match="no gradient"):
            kl_rewards(zeros.clone().requires_grad_(), zeros, zeros[:, 0], mask, 0.1, impl=impl)


def test_wrong_arguments_are_errors():
    zeros, mask = torch.zeros(2, 3), prefix_mask([1, 2], 3)
    with pytest.raises(ValueError, match="k1, k2, k3"):
        kl_rewards(zeros, zeros, torch.zeros(2), mask, 0.1, estimator="k4")
    with pytest.raises(ValueError, match="scores"):
        kl_rewards(zeros, zeros, torch.zeros(3), mask, 0.1)
    with pytest.raises(ValueError, match="boolean"):
        kl_rewards(zeros, zeros, torch.zeros(2), mask.float(), 0.1)
    with pytest.raises(ValueError, match="beta"):
        kl_rewards(zeros, zeros, torch.zeros(2), mask, math.nan)


@needs_native
@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (1, torch.zeros(4, 3)),
        (1, torch.zeros(3, 4).double()),
        (1, torch.zeros(4, 3).t()),
        (2, torch.zeros(4)),
        (2, torch.zeros(6)[::2]),
        (3, torch.zeros(3, 4, dtype=torch.uint8)),
        (5, "k4"),
        (6, torch.zeros(3, 5)),
        (7, torch.zeros(3, 8)[:, ::2]),
    ],
)
def test_no_address_leaves_python_unchecked(place, wrong):
    zeros, mask = torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.bool)
    args = [zeros, zeros, torch.zeros(3), mask, 0.1, "k1", None, None]
    args[place] = wrong
    ops = torch.ops.fairlead_kernels
    for launch in (ops.kl_rewards, ops.triton_kl_rewards):
        with pytest.raises(ValueError, match="kl_rewards"):
            launch(*args)


@needs_native
def test_the_torch_operation_passes_opcheck():
    for rows, width, extra in ((0, 4, None), (3, 17, normal(3, 17, seed=2))):
        mask = prefix_mask(torch.arange(rows) % (width + 1), width)
        x = normal(rows, width), normal(rows, width, seed=1), normal(rows)
        torch.library.opcheck(
            torch.ops.fairlead_kernels.kl_rewards.default, (*x, mask, 0.1, "k3", None, extra)
        )
