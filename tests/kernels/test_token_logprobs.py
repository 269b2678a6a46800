import math

import pytest
import torch
from cases import ODD_ROWS, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import GRADIENT_SUM, assert_within_error_rule

from fairlead_kernels import token_logprobs


def plain(logits, labels, temperature=1.0):
    """Log-probability and entropy as torch's log_softmax gives them, in the dtype of the logits."""
    logp = torch.log_softmax(logits / temperature, dim=-1)
    entropy = -(logp.exp() * logp.masked_fill(logp == -math.inf, 0.0)).sum(-1)
    return logp.gather(1, labels[:, None]).squeeze(1), entropy


def make(rows, vocabulary, seed=0, scale=4.0):
    labels = torch.randint(
        0, vocabulary, (rows,), generator=torch.Generator().manual_seed(seed + 1)
    )
    return scale * normal(rows, vocabulary, seed=seed), labels


def test_hand_worked_values():
    # Weights 1, 2, 5 of 8: log-probabilities log(1/8), log(5/8);
    # entropy -(1/8 log 1/8 + 2/8 log 2/8 + 5/8 log 5/8) = 0.9002561.
    logits = torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]).log()
    logprobs, entropy = token_logprobs(logits, torch.tensor([0, 2]))
    exact = torch.tensor([1 / 8, 5 / 8], dtype=torch.float64).log()
    assert_within_error_rule(logprobs, exact.float(), exact)
    h = torch.full((2,), 0.9002560937381, dtype=torch.float64)
    assert_within_error_rule(entropy, h.float(), h)


@pytest.mark.parametrize("rows", ODD_ROWS)
@pytest.mark.parametrize("vocabulary", [1, 2, 17, 1025])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_error_rule_in_value_and_gradient(rows, vocabulary, temperature):
    """Fidelity item 10: temperature divides the logits. Fidelity item 33: tight tolerances."""
    logits, labels = make(rows, vocabulary)
    results = {}
    for name, function, x in (
        ("ours", token_logprobs, logits.clone()),
        ("plain", plain, logits.clone()),
        ("exact", plain, logits.double()),
    ):
        x.requires_grad_(True)
        logprobs, entropy = function(x, labels, temperature)
        weights = torch.linspace(-1, 1, rows, dtype=x.dtype)
        ((logprobs + 0.3 * entropy) * weights).sum().backward()
        results[name] = (logprobs.detach(), entropy.detach(), x.grad)
    for i, (ours, other, exact) in enumerate(
        zip(*(results[k] for k in ("ours", "plain", "exact")), strict=True)
    ):
        # A gradient adds terms of size up to 1 / temperature, of both signs.
        terms = torch.full_like(exact, 1 / temperature) if i == 2 else None
        assert_within_error_rule(ours, other, exact, terms)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_arithmetic_is_float32_whatever_the_input(dtype):
    logits, labels = make(3, 40)
    logits = logits.to(dtype)
    for ours, of_float in zip(
        token_logprobs(logits, labels), token_logprobs(logits.float(), labels), strict=True
    ):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, of_float)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 3000),
    st.sampled_from([0.0, 1e-7, 1e-3, 1.0, 30.0, 1e4, 1e30]),
    st.sampled_from([1.0, 0.25, 3.0]),
    st.integers(0, 2**16),
)
def test_logprob_is_never_positive_and_entropy_stays_within_log_v(v, scale, temperature, seed):
    """Fidelity item 33: exact bounds, near-uniform and one-hot distributions included."""
    logits, labels = make(4, v, seed, scale)
    labels[0] = logits[0].argmax()
    logprobs, entropy = token_logprobs(logits, labels, temperature)
    assert bool((logprobs <= 0).all())
    assert bool((entropy >= 0).all())
    assert bool((entropy.double() <= math.log(v)).all())
    assert not bool((torch.signbit(entropy) & (entropy == 0)).any())


@pytest.mark.parametrize("v", [3, 5, 11, 97, 1000, 50257])
def test_uniform_logits_do_not_overshoot_log_v(v):
    """Fidelity item 33: log V rounded to float32 lies above log V for some V."""
    _, entropy = token_logprobs(torch.zeros(1, v), torch.zeros(1, dtype=torch.int64))
    assert math.log(v) * (1 - 1e-6) <= entropy.item() <= math.log(v)


def test_excluded_tokens_have_no_probability_and_no_nan():
    logits = torch.tensor([[0.0, -math.inf, 0.0], [-math.inf, 3.0, -math.inf]], requires_grad=True)
    logprobs, entropy = token_logprobs(logits, torch.tensor([2, 1]))
    # Two equal tokens left: log(1/2) and entropy log 2. One left: certainty.
    half = torch.tensor([-math.log(2), 0.0])
    assert torch.equal(logprobs.detach(), half)
    assert torch.equal(entropy.detach(), -half)
    (logprobs.sum() + entropy.sum()).backward()
    # d logp_2 / dx = onehot - p = (-1/2, 0, 1/2); a certain row has none; entropies are flat there.
    assert torch.equal(logits.grad, torch.tensor([[-0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]))


def test_an_excluded_label_is_minus_infinity_without_nan_gradients():
    logits = torch.tensor([[0.0, -math.inf]], requires_grad=True)
    logprobs, _ = token_logprobs(logits, torch.tensor([1]))
    assert logprobs.item() == -math.inf
    logprobs.sum().backward()
    assert torch.equal(logits.grad, torch.zeros(1, 2))


def test_nan_logits_are_not_taken_for_excluded_tokens():
    logprobs, entropy = token_logprobs(
        torch.tensor([[0.0, math.nan, 1.0]]), torch.zeros(1, dtype=torch.int64)
    )
    assert logprobs.isnan().all()
    assert entropy.isnan().all()


def test_vocabulary_gradients_sum_to_zero():
    """Fidelity item 33."""
    logits, labels = make(16, 5000)
    logits.requires_grad_(True)
    logprobs, entropy = token_logprobs(logits, labels)
    (logprobs + entropy).sum().backward()
    assert bool((logits.grad.double().sum(dim=1).abs() < GRADIENT_SUM).all())


def test_rows_do_not_depend_on_each_other_or_their_order():
    """Fidelity item 33: bitwise, since no matrix product is involved."""
    logits, labels = make(33, 700)
    whole = token_logprobs(logits, labels)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(3))
    shuffled = token_logprobs(logits[order], labels[order])
    one = token_logprobs(logits[7:8], labels[7:8])
    for a, b, c in zip(whole, shuffled, one, strict=True):
        assert torch.equal(a[order], b)
        assert torch.equal(a[7:8], c)


def test_padding_the_vocabulary_with_excluded_tokens_stays_within_the_rule():
    """Fidelity item 33."""
    logits, labels = make(8, 500)
    padded = torch.nn.functional.pad(logits, (0, 524), value=-math.inf)
    exact = plain(logits.double(), labels)
    for ours, other, true in zip(
        token_logprobs(padded, labels), plain(logits, labels), exact, strict=True
    ):
        assert_within_error_rule(ours, other, true)


def test_empty_batch():
    logprobs, entropy = token_logprobs(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
    assert logprobs.shape == entropy.shape == (0,)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_an_error(temperature):
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), temperature)


def test_wrong_shapes_and_dtypes_are_errors():
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="logits"):
        token_logprobs(torch.zeros(2, 2, 2), labels)
    with pytest.raises(ValueError, match="labels"):
        token_logprobs(torch.zeros(3, 2), labels)
    with pytest.raises(ValueError, match="labels"):
        token_logprobs(torch.zeros(2, 2), labels.float())
