import inspect
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
from hypothesis import given, settings
from tolerances import assert_within_error_rule

from fairlead_kernels import KernelError, gae, kl_gae_whiten, kl_rewards, whiten


def case(mask, seed=0):
    """Log-probs, the reference's, scores, values; a divergence and token scores."""
    first = [normal(*mask.shape, seed=seed + i) for i in range(2)]
    more = [normal(*mask.shape, seed=seed + i) for i in range(3, 6)]
    return [*first, normal(len(mask), seed=seed + 2), more[0]], more[1:]


def one_after_the_other(inputs, mask, beta, gamma, lam, estimator, kl, token_scores, impl):
    logprobs, ref_logprobs, scores, values = inputs
    rewards, used = kl_rewards(
        logprobs, ref_logprobs, scores, mask, beta, estimator, kl, token_scores, impl=impl
    )
    advantages, returns = gae(rewards, values, mask, gamma, lam, impl=impl)
    return rewards, used, whiten(advantages, mask, impl=impl), returns


def settings_of(extra):
    """Estimator, a given divergence, token scores."""
    kl, token_scores = extra
    yield "k1", None, None
    yield "k2", None, token_scores
    yield "k3", None, None
    yield "k1", kl, token_scores


@pytest.mark.parametrize("impl", IMPLS)
def test_three_tokens_by_hand(impl):
    """Fidelity items 19, 28 and 29.

    No KL, score 2, V = 1 everywhere, lambda 0.95: advantages 0.9025, 0.95, 1, returns one more. Of
    a row of one token with score 1.95 and V = 1 the advantage is 0.95. The four have the mean
    0.950625.
    """
    mask = prefix_mask([3, 1], 5)
    zeros, scores = torch.zeros(2, 5), torch.tensor([2.0, 1.95])
    rewards, kl, advantages, returns = kl_gae_whiten(
        zeros, zeros, scores, torch.ones(2, 5), mask, beta=0.02, impl=impl
    )
    expected = torch.zeros(2, 5)
    expected[0, 2], expected[1, 0] = 2.0, 1.95
    assert torch.equal(rewards, expected)
    assert torch.equal(kl, zeros)
    plain = torch.zeros(2, 5, dtype=torch.float64)
    plain[0, :3] = torch.tensor([0.9025, 0.95, 1.0])
    plain[1, 0] = 0.95
    right = torch.where(mask, plain + 1, 0.0)
    assert_within_error_rule(returns, right.float(), right)
    kept = plain[mask]
    right = torch.where(mask, (plain - 0.950625) / (kept.var(unbiased=False) + 1e-8).sqrt(), 0.0)
    # 0.9025 is rounded before the mean comes off: the ulp is one of 1 over the deviation.
    assert_within_error_rule(advantages, right.float(), right, terms=20 * torch.ones(2, 5))


def test_defaults_are_those_of_the_separate_operations():
    """Fidelity item 21."""
    parameters = inspect.signature(kl_gae_whiten).parameters
    for other in (kl_rewards, gae):
        for name, one in inspect.signature(other).parameters.items():
            if name != "impl" and one.default is not inspect.Parameter.empty:
                assert parameters[name].default == one.default


@pytest.mark.parametrize("impl", CPU_IMPLS)
@settings(max_examples=60, deadline=None)
@given(case_of=ragged(max_width=70))
def test_it_has_the_bits_of_the_separate_operations(impl, case_of):
    check_bits(*case_of, impl)


def check_bits(mask, seed, impl):
    inputs, extra = case(mask, seed)
    for estimator, kl, token_scores in settings_of(extra):
        rest = 0.1, 0.99, 0.9, estimator, kl, token_scores
        ours = kl_gae_whiten(*inputs, mask, *rest, impl=impl)
        theirs = one_after_the_other(inputs, mask, *rest, impl)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def check_error_rule(mask, impl):
    inputs, extra = case(mask)
    for estimator, kl, token_scores in settings_of(extra):

        def run(dtype, one, estimator=estimator, given=(kl, token_scores)):
            given = [None if x is None else x.to(dtype) for x in given]
            from fairlead_kernels.gae import _reference as gae_of
            from fairlead_kernels.kl_rewards import _reference as rewards_of
            from fairlead_kernels.whiten import _reference as whiten_of

            first, second, scores, values = (x.to(dtype) for x in one)
            rewards, used = rewards_of(first, second, scores, mask, 0.1, estimator, *given)
            advantages, returns = gae_of(rewards, values, mask, 0.99, 0.9)
            return rewards, used, whiten_of(advantages, mask, True, 1e-8), returns

        plain, exact = run(torch.float32, inputs), run(torch.float64, inputs)
        ours = kl_gae_whiten(*inputs, mask, 0.1, 0.99, 0.9, estimator, kl, token_scores, impl=impl)
        for a, b, c in zip(ours, plain, exact, strict=True):
            assert_within_error_rule(a, b, c)
            assert not bool(a[~mask].any())


@pytest.mark.parametrize("impl", CPU_IMPLS)
@pytest.mark.parametrize("rows", ODD_ROWS)
def test_error_rule_on_odd_shapes(impl, rows):
    check_error_rule(prefix_mask(torch.arange(rows) * 7 % 102, 101), impl)


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (17, 33), (127, 50)])
def test_every_instruction_set_keeps_the_error_rule_and_the_bits(rows, width, instruction_set):  # noqa: F811
    mask = prefix_mask(torch.arange(rows) * 7 % (width + 1), width)
    check_error_rule(mask, "cpp")
    check_bits(mask, 0, "cpp")


@needs_interpreter
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 65), (2, 1025)])
def test_triton_keeps_the_error_rule_across_tiles(rows, width):
    mask = prefix_mask(torch.arange(rows) * 7 % (width + 1), width)
    mask[-1] = True
    check_error_rule(mask, "triton")


@pytest.mark.parametrize("impl", IMPLS)
def test_positions_past_the_response_have_no_influence_and_are_zero(impl):
    """Fidelity item 20."""
    mask = prefix_mask([0, 1, 16, 17, 40, 41], 41)
    inputs, extra = case(mask)
    for estimator, kl, token_scores in list(settings_of(extra))[-2:]:
        results = []
        for fill in (0.0, math.nan, math.inf):
            dirty = [x.masked_fill(~mask, fill) if x.dim() == 2 else x for x in inputs]
            given = [None if x is None else x.masked_fill(~mask, fill) for x in (kl, token_scores)]
            results.append(
                kl_gae_whiten(*dirty, mask, 0.1, 1.0, 0.95, estimator, *given, impl=impl)
            )
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
        assert not any(bool(x[~mask].any()) for x in results[0])


@pytest.mark.parametrize("impl", IMPLS)
def test_a_nan_inside_spoils_its_row_before_it_and_all_advantages(impl):
    mask = prefix_mask([3, 2], 3)
    inputs, _ = case(mask)
    inputs[3][0, 1] = math.nan
    rewards, kl, advantages, returns = kl_gae_whiten(*inputs, mask, 0.1, impl=impl)
    assert rewards.isfinite().all()
    assert kl.isfinite().all()
    assert returns[0].isnan().tolist() == [True, True, False]
    assert returns[1].isfinite().all()
    assert torch.equal(advantages.isnan(), mask)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (2, 3)])
def test_empty_batch_and_empty_responses(impl, shape):
    zeros = torch.zeros(shape)
    results = kl_gae_whiten(zeros, zeros, zeros[:, :0].sum(1), zeros, zeros.bool(), 0.1, impl=impl)
    assert all(torch.equal(x, zeros) for x in results)


@pytest.mark.parametrize("impl", IMPLS)
def test_half_precision_and_strided_inputs_give_what_plain_ones_give(impl):
    mask = prefix_mask([3, 0, 5, 2], 5)
    strided = mask.t().contiguous().t()
    inputs, _ = case(mask)
    inputs[0] = inputs[0].bfloat16()
    odd = [x.t().contiguous().t() if x.dim() == 2 else x for x in inputs]
    assert not odd[1].is_contiguous()
    ours = kl_gae_whiten(*odd, strided, 0.1, impl=impl)
    plain = kl_gae_whiten(*(x.float() for x in inputs), mask, 0.1, impl=impl)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


@needs_native
def test_the_bits_do_not_depend_on_the_number_of_threads():
    mask = prefix_mask(torch.arange(700) + 300, 1000)
    inputs, _ = case(mask)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(kl_gae_whiten(*inputs, mask, 0.1, impl="cpp"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_native
@needs_interpreter
def test_kernels_refuse_inputs_that_need_a_gradient_and_auto_has_one():
    mask = prefix_mask([2, 3], 3)
    inputs, _ = case(mask)
    inputs[0].requires_grad_()
    for impl in ("cpp", "triton"):
        with pytest.raises(KernelError, match="no gradient"):
            kl_gae_whiten(*inputs, mask, 0.1, impl=impl)
    assert kl_gae_whiten(*inputs, mask, 0.1)[0].requires_grad


def test_wrong_arguments_are_errors():
    zeros, scores, mask = torch.zeros(2, 3), torch.zeros(2), prefix_mask([1, 2], 3)
    for wrong, match in (
        ({"values": torch.zeros(2, 4)}, "values"),
        ({"scores": torch.zeros(3)}, "scores"),
        ({"response_mask": mask.long()}, "boolean"),
        ({"response_mask": mask.flip(1)}, "contiguous prefix"),
        ({"beta": math.inf}, "beta"),
        ({"lam": math.nan}, "lam"),
        ({"estimator": "k4"}, "k1, k2, k3"),
    ):
        right = {"scores": scores, "values": zeros, "response_mask": mask, "beta": 0.1}
        with pytest.raises(ValueError, match=f"kl_gae_whiten: .*{match}"):
            kl_gae_whiten(zeros, zeros, **{**right, **wrong})


@needs_native
@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (0, torch.zeros(12)),
        (1, torch.zeros(3, 4).double()),
        (2, torch.zeros(4)),
        (3, torch.zeros(4, 3).t()),
        (4, torch.zeros(3, 5).bool()),
        (8, "k4"),
        (9, torch.zeros(4, 3)),
        (10, torch.zeros(3, 8)[:, ::2]),
    ],
)
def test_no_address_leaves_python_unchecked(place, wrong):
    zeros, mask = torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.bool)
    args = [zeros, zeros, torch.zeros(3), zeros, mask, 0.1, 1.0, 0.95, "k1", None, None]
    args[place] = wrong
    ops = torch.ops.fairlead_kernels
    for launch in (ops.kl_gae_whiten, ops.triton_kl_gae_whiten):
        with pytest.raises(ValueError, match="kl_gae_whiten"):
            launch(*args)


@needs_native
def test_the_torch_operation_passes_opcheck():
    for rows in (0, 3):
        mask = prefix_mask(torch.arange(rows), 9)
        inputs, extra = case(mask)
        torch.library.opcheck(
            torch.ops.fairlead_kernels.kl_gae_whiten.default,
            (*inputs, mask, 0.1, 1.0, 0.95, "k2", None, extra[0]),
        )
