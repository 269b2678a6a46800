import math

import pytest
import torch
from cases import IMPLS, ODD_ROWS, normal, row_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import GRADIENT_SUM, ULPS, assert_within_error_rule, ulp

from fairlead_kernels import KernelError, token_logprobs

# The interpreter computes with numpy, which warns of what is meant: -inf - -inf and the like.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
INF, NAN = math.inf, math.nan


def plain(logits, labels, temperature=1.0):
    """Log-probability and entropy as torch's log_softmax gives them, in the dtype of the logits."""
    logp = torch.log_softmax(logits / temperature, dim=-1)
    entropy = -(logp.exp() * logp.masked_fill(logp == -INF, 0.0)).sum(-1)
    return logp.gather(1, labels[:, None]).squeeze(1), entropy


def make(rows, vocabulary, seed=0, scale=4.0):
    generator = torch.Generator().manual_seed(seed + 1)
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    return scale * normal(rows, vocabulary, seed=seed), labels


def zeros(rows):
    return torch.zeros(rows, dtype=torch.int64)


def with_gradient(function, logits, labels, of_logprob=1.0, of_entropy=0.3, **options):
    """Both results, and the gradient of a weighted sum of them."""
    x = logits.clone().requires_grad_(True)
    logprobs, entropy = function(x, labels, **options)
    weights = row_weights(len(labels), logprobs.dtype)
    loss = ((of_logprob * logprobs + of_entropy * entropy) * weights).sum()
    return logprobs.detach(), entropy.detach(), torch.autograd.grad(loss, x)[0]


def assert_right(logits, labels, temperature, impl):
    ours = with_gradient(token_logprobs, logits, labels, temperature=temperature, impl=impl)
    other = with_gradient(plain, logits, labels, temperature=temperature)
    exact = with_gradient(plain, logits.double(), labels, temperature=temperature)
    for i, (a, b, c) in enumerate(zip(ours, other, exact, strict=True)):
        # A gradient adds terms of size up to 1 / temperature, of both signs.
        terms = torch.full_like(c, 1 / temperature) if i == 2 else None
        assert_within_error_rule(a, b, c, terms)


@pytest.mark.parametrize("impl", IMPLS)
def test_hand_worked_values(impl):
    # Weights 1, 2, 5 of 8: log-probabilities log(1/8), log(5/8);
    # entropy -(1/8 log 1/8 + 2/8 log 2/8 + 5/8 log 5/8) = 0.9002561.
    logits = torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]).log()
    logprobs, entropy = token_logprobs(logits, torch.tensor([0, 2]), impl=impl)
    exact = torch.tensor([1 / 8, 5 / 8], dtype=torch.float64).log()
    assert_within_error_rule(logprobs, exact.float(), exact)
    h = torch.full((2,), 0.9002560937381, dtype=torch.float64)
    assert_within_error_rule(entropy, h.float(), h)


@pytest.mark.parametrize("impl", IMPLS)
def test_hand_worked_gradients(impl):
    # p = 1/4, 3/4. d logp_1 / dx = (-1/4, 1 - 3/4). With log 3 the step from one to the other,
    # H = log 4 - 3/4 log 3 and dH/dx_i = -p_i (log p_i + H) = (3/16 log 3, -3/16 log 3).
    logits = torch.tensor([[0.0, math.log(3.0)]], requires_grad=True)
    logprobs, entropy = token_logprobs(logits, torch.tensor([1]), impl=impl)
    of_logprob = torch.autograd.grad(logprobs.sum(), logits, retain_graph=True)[0]
    exact = torch.tensor([[-0.25, 0.25]], dtype=torch.float64)
    assert_within_error_rule(of_logprob, exact.float(), exact, torch.ones_like(exact))
    of_entropy = torch.autograd.grad(entropy.sum(), logits)[0]
    exact = torch.tensor([[1.0, -1.0]], dtype=torch.float64) * 3 / 16 * math.log(3.0)
    assert_within_error_rule(of_entropy, exact.float(), exact, torch.ones_like(exact))


@pytest.mark.parametrize("impl", ["reference", IMPLS[1]])
@pytest.mark.parametrize("rows", ODD_ROWS)
@pytest.mark.parametrize("vocabulary", [1, 2, 17, 1000, 1025])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_error_rule_in_value_and_gradient(impl, rows, vocabulary, temperature):
    """Fidelity item 10: temperature divides the logits. Fidelity item 33: tight tolerances."""
    assert_right(*make(rows, vocabulary), temperature, impl)


@pytest.mark.parametrize("impl", IMPLS[1:])
@pytest.mark.parametrize(
    ("rows", "vocabulary"), [(1, 1), (3, 2), (29, 17), (3, 1000), (5, 4099), (3, 32003)]
)
def test_error_rule_over_several_blocks(impl, rows, vocabulary):
    assert_right(*make(rows, vocabulary), 1.3, impl)


@pytest.mark.parametrize("impl", IMPLS[1:])
@pytest.mark.parametrize("slope", [0.05, -0.05])
def test_error_rule_where_every_block_has_a_new_largest_logit(impl, slope):
    """Rising logits rescale the sums at every block; falling ones never do."""
    logits = slope * torch.arange(5000.0).repeat(2, 1) + normal(2, 5000)
    assert_right(logits, torch.tensor([0, 4999]), 1.0, impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_arithmetic_is_float32_whatever_the_input(impl, dtype):
    if dtype == torch.float64 and impl != "reference":
        with pytest.raises(KernelError, match="float64"):
            token_logprobs(torch.zeros(1, 2, dtype=dtype), zeros(1), impl=impl)
        return
    logits, labels = make(3, 2050)
    logits = logits.to(dtype)
    ours = token_logprobs(logits, labels, impl=impl)
    of_float = token_logprobs(logits.float(), labels, impl=impl)
    for a, b in zip(ours, of_float, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("impl", IMPLS)
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3000),
    st.sampled_from([0.0, 1e-7, 1e-3, 1.0, 30.0, 1e4, 1e30, 3e38]),
    st.sampled_from([1.0, 0.25, 3.0, 1e-40, 1e30]),
    st.integers(0, 2**16),
)
def test_logprob_is_never_positive_and_entropy_stays_within_log_v(impl, v, scale, t, seed):
    """Fidelity item 33: exact bounds, near-uniform and one-hot distributions included."""
    logits, labels = make(3, v, seed)
    logits = (scale * (logits / 16).clamp(-1, 1)).requires_grad_(True)
    labels[0] = logits[0].argmax()
    logprobs, entropy = token_logprobs(logits, labels, t, impl=impl)
    assert bool((logprobs <= 0).all())
    assert bool((entropy >= 0).all())
    assert bool((entropy.double() <= math.log(v)).all())
    assert not bool((torch.signbit(entropy) & (entropy == 0)).any())
    if t < 1e-37:  # Gradients go by 1 / t.
        return
    (logprobs[logprobs > -INF].sum() + entropy.sum()).backward()
    assert not bool(logits.grad.isnan().any())


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("v", [3, 5, 11, 97, 1000, 50257])
def test_uniform_logits_do_not_overshoot_log_v(impl, v):
    """Fidelity item 33: log V rounded to float32 lies above log V for some V."""
    _, entropy = token_logprobs(torch.zeros(1, v), zeros(1), impl=impl)
    assert math.log(v) * (1 - 1e-6) <= entropy.item() <= math.log(v)


@pytest.mark.parametrize("impl", IMPLS)
def test_excluded_tokens_have_no_probability_and_no_nan(impl):
    logits = torch.tensor([[0.0, -INF, 0.0], [-INF, 3.0, -INF]], requires_grad=True)
    logprobs, entropy = token_logprobs(logits, torch.tensor([2, 1]), impl=impl)
    # Two equal tokens left: log(1/2) and entropy log 2. One left: certainty.
    half = torch.tensor([-math.log(2), 0.0])
    assert torch.equal(logprobs.detach(), half)
    assert torch.equal(entropy.detach(), -half)
    (logprobs.sum() + entropy.sum()).backward()
    # d logp_2 / dx = onehot - p = (-1/2, 0, 1/2); a certain row has none; entropies are flat there.
    assert torch.equal(logits.grad, torch.tensor([[-0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("impl", IMPLS)
def test_whole_blocks_of_excluded_tokens_change_nothing(impl):
    logits, labels = make(2, 40)
    bound = 3100
    padded = torch.full((2, 2 * bound + 40), -INF)
    padded[:, bound : bound + 40] = logits
    few = with_gradient(token_logprobs, logits, labels, impl=impl)
    many = with_gradient(token_logprobs, padded, labels + bound, impl=impl)
    exact = with_gradient(plain, logits.double(), labels)
    for a, b, c in zip(few[:2], many[:2], exact[:2], strict=True):
        assert_within_error_rule(b, a, c)
    assert not bool(many[2][:, :bound].any())
    assert not bool(many[2][:, bound + 40 :].any())
    ones = torch.ones_like(exact[2])
    assert_within_error_rule(many[2][:, bound : bound + 40], few[2], exact[2], ones)


@pytest.mark.parametrize("impl", IMPLS)
def test_an_excluded_label_is_minus_infinity_without_a_gradient_through_it(impl):
    logits = torch.tensor([[0.0, -INF, 0.0]]).repeat(2, 1).requires_grad_(True)
    logprobs, entropy = token_logprobs(logits, torch.tensor([1, 0]), impl=impl)
    assert logprobs[0].item() == -INF
    # The second row's label is there: onehot - p = (1/2, 0, -1/2).
    (logprobs.sum() + entropy.sum()).backward()
    assert torch.equal(logits.grad, torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, -0.5]]))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("at", [0, 1500, 2999])
@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("rest", [0.0, -INF])
def test_nan_and_infinity_give_nan_to_their_row_alone(impl, at, bad, rest):
    logits = torch.zeros(3, 3000)
    logits[1] = rest
    logits[1, at] = bad
    logits.requires_grad_(True)
    logprobs, entropy = token_logprobs(logits, zeros(3), impl=impl)
    for one in (logprobs, entropy):
        assert one.isnan().tolist() == [False, True, False]
    (logprobs + entropy).sum().backward()
    assert logits.grad.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("impl", IMPLS)
def test_a_row_without_a_finite_logit_is_nan(impl):
    logits = torch.full((1, 1500), -INF)
    for one in token_logprobs(logits, zeros(1), impl=impl):
        assert one.isnan().all()


@pytest.mark.parametrize("impl", IMPLS[1:])
def test_a_row_without_upstream_gradient_gets_zeros_even_where_it_is_nan(impl):
    logits = torch.tensor([[1.0, 2.0], [NAN, 2.0]], requires_grad=True)
    logprobs, entropy = token_logprobs(logits, zeros(2), impl=impl)
    mask = torch.tensor([True, False])
    (torch.where(mask, logprobs, 0.0) + torch.where(mask, entropy, 0.0)).sum().backward()
    assert bool(logits.grad[0].any())
    assert torch.equal(logits.grad[1], torch.zeros(2))


@pytest.mark.parametrize("impl", IMPLS)
def test_vocabulary_gradients_sum_to_zero(impl):
    """Fidelity item 33."""
    logits, labels = make(16, 5000)
    logits.requires_grad_(True)
    logprobs, entropy = token_logprobs(logits, labels, impl=impl)
    (logprobs + entropy).sum().backward()
    assert bool((logits.grad.double().sum(dim=1).abs() < GRADIENT_SUM).all())


@pytest.mark.parametrize("impl", IMPLS)
def test_gradients_of_both_results_add_up(impl):
    logits, labels = make(5, 1300)
    both = with_gradient(token_logprobs, logits, labels, 2.0, 0.5, impl=impl)[2]
    first = with_gradient(token_logprobs, logits, labels, 2.0, 0.0, impl=impl)[2]
    second = with_gradient(token_logprobs, logits, labels, 0.0, 0.5, impl=impl)[2]
    exact = with_gradient(plain, logits.double(), labels, 2.0, 0.5)[2]
    assert_within_error_rule(both, first + second, exact, torch.full_like(exact, 4.0))


@pytest.mark.parametrize("impl", IMPLS)
def test_rows_do_not_depend_on_each_other_or_their_order(impl):
    """Fidelity item 33: bitwise, since no matrix product is involved."""
    logits, labels = make(33, 700)
    whole = token_logprobs(logits, labels, impl=impl)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(3))
    shuffled = token_logprobs(logits[order], labels[order], impl=impl)
    one = token_logprobs(logits[7:8], labels[7:8], impl=impl)
    for a, b, c in zip(whole, shuffled, one, strict=True):
        assert torch.equal(a[order], b)
        assert torch.equal(a[7:8], c)


@pytest.mark.parametrize("impl", IMPLS)
def test_strided_views_give_the_same_bits(impl):
    logits, labels = make(6, 1100)
    big = torch.full((3, 3, 1203), NAN)
    inner = big[:, 1:, 50:1150]
    inner.copy_(logits.view(3, 2, 1100))
    # Row stride 1203, the first dimension picked out: no view [N, V] of it would be contiguous.
    for view, chosen in ((inner[:, 0], slice(0, None, 2)), (logits.t().contiguous().t(), slice(6))):
        assert not view.is_contiguous()
        ours = with_gradient(token_logprobs, view, labels[chosen], impl=impl)
        same = with_gradient(token_logprobs, logits[chosen], labels[chosen], impl=impl)
        assert all(torch.equal(a, b) for a, b in zip(ours, same, strict=True))
    spaced = torch.stack([labels, labels], dim=1)[:, 0]
    for a, b in zip(
        token_logprobs(logits, spaced, impl=impl),
        token_logprobs(logits, labels, impl=impl),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_batch(impl):
    logits = torch.zeros(0, 5, requires_grad=True)
    logprobs, entropy = token_logprobs(logits, zeros(0), impl=impl)
    assert logprobs.shape == entropy.shape == (0,)
    (logprobs.sum() + entropy.sum()).backward()
    assert logits.grad.shape == (0, 5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, NAN, INF])
def test_a_temperature_that_is_not_positive_is_an_error(temperature):
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(torch.zeros(1, 2), zeros(1), temperature)


def test_wrong_shapes_and_dtypes_are_errors():
    with pytest.raises(ValueError, match="logits"):
        token_logprobs(torch.zeros(2, 2, 2), zeros(2))
    with pytest.raises(ValueError, match="labels"):
        token_logprobs(torch.zeros(3, 2), zeros(2))
    with pytest.raises(ValueError, match="labels"):
        token_logprobs(torch.zeros(2, 2), zeros(2).float())


@pytest.mark.parametrize("label", [-1, 5, -100])
def test_a_label_outside_the_vocabulary_is_never_read(label):
    logits, labels = torch.zeros(2, 5), torch.tensor([0, label])
    for impl in IMPLS:
        name = impl if isinstance(impl, str) else impl.values[0]
        if name == "cpp":
            with pytest.raises(IndexError, match=rf"label {label} of row 1.*\[0, 5\)"):
                token_logprobs(logits, labels, impl="cpp")
        elif name == "triton":
            assert token_logprobs(logits, labels, impl="triton")[0].isnan().tolist() == [0, 1]


def test_ulp_of_a_probability_over_its_whole_range():
    """exp, denormals included: the gradient of the other of two tokens is -p = -1 / (1 + e^d)."""
    d = torch.linspace(0.0, 103.5, 20_001)
    logits = torch.stack([torch.zeros_like(d), -d], dim=1).requires_grad_(True)
    token_logprobs(logits, zeros(len(d)))[0].sum().backward()
    exact = torch.sigmoid(-d.double())
    assert bool(((-logits.grad[:, 1].double() - exact).abs() <= ULPS * ulp(exact)).all())
