import math

import numpy as np
import pytest
import torch
from cases import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tolerances import CHI_SQUARED_LEVEL

from fairlead_kernels import philox_uniform, sample, token_logprobs
from fairlead_kernels.sample import CHUNK, _first_above

LARGEST_U = 1 - 2.0**-53


def u_of(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_inverts_the_cumulative_distribution_in_token_order():
    # Weights 1/4, 1/2, 1/4: running sums 1/4, 3/4, 1. A draw on a boundary takes the next token.
    logits = torch.tensor([1.0, 2.0, 1.0]).log().repeat(6, 1)
    token, _, _ = sample(logits, u_of(0.0, 0.2, 0.25, 0.5, 0.75, LARGEST_U))
    assert token.tolist() == [0, 0, 1, 1, 2, 2]


def test_logprob_and_entropy_are_those_of_token_logprobs():
    """Fidelity item 13's ground: the sampler's numbers are the scorer's, bit for bit."""
    logits, u = normal(9, 3000) * 3, torch.linspace(0, 0.999, 9, dtype=torch.float64)
    token, logprob, entropy = sample(logits, u, 0.7)
    expected = token_logprobs(logits, token, 0.7, impl="reference")
    assert torch.equal(logprob, expected[0])
    assert torch.equal(entropy, expected[1])


@pytest.mark.parametrize("vocabulary", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_agrees_with_a_direct_inversion_across_chunk_borders(vocabulary):
    rows = 200
    logits = normal(1, vocabulary).expand(rows, -1) * 2
    u = philox_uniform(0, 0, torch.arange(rows), torch.zeros(rows, dtype=torch.int64))
    token, _, _ = sample(logits, u)
    weights = np.exp((logits[0] - logits[0].max()).numpy()).astype(np.float64)
    running = np.cumsum(weights)
    assert token.tolist() == np.searchsorted(running, u.numpy() * running[-1], "right").tolist()


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 2 * CHUNK + 10),
    st.integers(0, 2**16),
    st.sampled_from([0.0, 0.3, 0.999, LARGEST_U]),
    st.sampled_from([0.0, 1.0, 200.0]),
    st.booleans(),
)
def test_excluded_tokens_are_never_drawn(vocabulary, seed, u, scale, few):
    """Fidelity item 33's exactness, at u = 0 and next to 1 too."""
    kept = torch.rand(1, vocabulary, generator=torch.Generator().manual_seed(seed))
    excluded = kept < (0.999 if few else 0.5)
    excluded[0, seed % vocabulary] = False
    logits = (normal(1, vocabulary, seed=seed) * scale).masked_fill(excluded, -math.inf)
    for temperature in (1.0, 0.0):
        token, logprob, _ = sample(logits, u_of(u), temperature)
        assert not bool(excluded[0, token])
        assert -math.inf < logprob.item() <= 0


@pytest.mark.parametrize("only", [0, 5, CHUNK - 1, CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize("u", [0.0, 0.5, LARGEST_U])
def test_the_only_token_left_is_drawn(only, u):
    logits = torch.full((1, 2 * CHUNK + 4), -math.inf)
    logits[0, only] = -3.0
    token, logprob, entropy = sample(logits, u_of(u))
    assert token.item() == only
    assert logprob.item() == entropy.item() == 0


def test_draws_follow_the_distribution():
    """Chi-squared at 1e5 draws, over two chunks."""
    draws, vocabulary = 100_000, CHUNK + 6
    weights = torch.zeros(vocabulary)
    weights[:4] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    weights[-6:] = torch.tensor([5.0, 1.0, 0.5, 2.0, 1.0, 0.5])
    logits = weights.log()
    index = torch.arange(draws)
    u = philox_uniform(7, 1, index // 50, index % 50)
    counts = torch.zeros(vocabulary, dtype=torch.int64)
    for part in u.split(4000):
        token, _, _ = sample(logits.expand(len(part), -1), part)
        counts += torch.bincount(token, minlength=vocabulary)
    possible = weights > 0
    assert not bool(counts[~possible].any())
    expected = (weights / weights.sum() * draws)[possible].double().numpy()
    assert stats.chisquare(counts[possible].numpy(), expected).pvalue > CHI_SQUARED_LEVEL


def test_temperature_sharpens_the_distribution():
    # Weights 1 and 3; at temperature 1/2 they are 1 and 9: running sum 0.1.
    logits = torch.tensor([[1.0, 3.0]]).log().expand(2, -1)
    token, _, _ = sample(logits, u_of(0.09, 0.11), 0.5)
    assert token.tolist() == [0, 1]


def test_temperature_zero_takes_the_lowest_of_the_largest():
    logits = torch.tensor([[1.0, 5.0, 5.0], [2.0, 2.0, 2.0], [-math.inf, 0.0, -1.0]])
    token, logprob, entropy = sample(logits, u_of(0.99, 0.99, 0.0), 0.0)
    assert token.tolist() == [1, 0, 1]
    assert torch.equal(logprob, torch.zeros(3))
    assert torch.equal(entropy, torch.zeros(3))


def test_a_draw_does_not_depend_on_its_batch():
    """Fidelity item 14: nor on its slot."""
    logits, u = normal(40, 2500), torch.linspace(0, 0.999, 40, dtype=torch.float64)
    whole = sample(logits, u)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:13]
    part = sample(logits[order], u[order])
    assert all(torch.equal(a[order], b) for a, b in zip(whole, part, strict=True))


def test_results_carry_no_gradient_and_empty_batches_pass():
    logits = torch.zeros(2, 3, requires_grad=True)
    assert not any(x.requires_grad for x in sample(logits, u_of(0.0, 0.5)))
    for temperature in (1.0, 0.0):
        token, logprob, entropy = sample(torch.zeros(0, 3), u_of(), temperature)
        assert token.shape == logprob.shape == entropy.shape == (0,)


def test_wrong_arguments_are_errors():
    with pytest.raises(ValueError, match="temperature"):
        sample(torch.zeros(1, 2), u_of(0.0), -1.0)
    with pytest.raises(ValueError, match="float64"):
        sample(torch.zeros(1, 2), torch.zeros(1))
    with pytest.raises(ValueError, match="logits"):
        sample(torch.zeros(1, 0), u_of(0.0))


def test_a_target_that_rounding_left_unreached_takes_the_last_token_with_weight():
    # Running sums 1, 3, 3: none exceeds 3, and the third token has no weight.
    weights = torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64)
    index, before = _first_above(weights, u_of(3.0))
    assert index.item() == 1
    assert before.item() == 1.0
