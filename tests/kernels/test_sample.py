"""What `sample` promises, of every implementation that runs here; numbers: test_sample_draws."""

import math

import pytest
import torch
from cases import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import LARGEST_U, kept_tokens, u_of

from fairlead_kernels import list_implementations, native_status, philox_uniform, sample
from fairlead_kernels.sample import CHUNK, _first_above

# numpy warns about NaN, which triton's interpreter gives it here on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")

needs_native = pytest.mark.skipif(
    not native_status().available, reason=native_status().reason or "native module"
)
_rows = [
    r for r in list_implementations() if (r.op, r.impl, r.device) == ("sample", "triton", "cpu")
]
needs_triton = pytest.mark.skipif(not _rows[0].available, reason=_rows[0].reason or "triton")
NATIVE = ["reference", pytest.param("cpp", marks=needs_native)]
IMPLS = [*NATIVE, pytest.param("triton", marks=needs_triton)]
every_impl = pytest.mark.parametrize("impl", IMPLS)


def drawn(impl, logits, *how, draws=64):
    """The tokens that a row's draws reach, with u from 0 to next to 1."""
    u = torch.linspace(0, LARGEST_U, draws, dtype=torch.float64)
    token, _, _ = sample(logits.expand(draws, -1), u, *how, impl=impl)
    return sorted(set(token.tolist()))


@every_impl
def test_inverts_the_cumulative_distribution_in_token_order(impl):
    # Four equal tokens, the second excluded: running sums 1/3, 1/3, 2/3, 1. A draw on a boundary
    # takes the next token that has a weight.
    logits = torch.tensor([2.0, -math.inf, 2.0, 2.0]).repeat(6, 1)
    token, _, _ = sample(logits, u_of(0.0, 0.333, 1 / 3, 0.666, 2 / 3, LARGEST_U), impl=impl)
    assert token.tolist() == [0, 0, 2, 2, 3, 3]


@every_impl
@pytest.mark.parametrize("vocabulary", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_equal_logits_are_drawn_in_proportion_across_chunk_borders(impl, vocabulary):
    """Sums of ones are exact: token floor(u V), and log-prob and entropy of a uniform draw."""
    u = u_of(*[(i + 0.5) / vocabulary for i in range(0, vocabulary, 97)], 0.0, LARGEST_U)
    logits = torch.full((1, vocabulary), -7.25).expand(len(u), -1)
    token, logprob, entropy = sample(logits, u, 0.3, impl=impl)
    assert token.tolist() == [*range(0, vocabulary, 97), 0, vocabulary - 1]
    torch.testing.assert_close(logprob, torch.full_like(logprob, -math.log(vocabulary)))
    torch.testing.assert_close(entropy, torch.full_like(entropy, math.log(vocabulary)))


@every_impl
def test_top_k_keeps_the_largest_and_all_that_tie_with_the_last(impl):
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0, -math.inf]])
    assert drawn(impl, logits, 1.0, 1) == [1, 3]
    assert drawn(impl, logits, 1.0, 2) == [1, 3]
    assert drawn(impl, logits, 1.0, 3) == [1, 2, 3, 4]
    for top_k in (0, 5, 6, 1000):
        assert drawn(impl, logits, 1.0, top_k) == [0, 1, 2, 3, 4]


@every_impl
def test_zeros_of_either_sign_tie(impl):
    logits = torch.tensor([[0.0, -0.0, -1.0]])
    for how in ((1.0, 1), (1.0, 0, 0.3), (1.0, 1, 0.3)):
        assert drawn(impl, logits, *how) == [0, 1]
    assert sample(-logits.abs(), u_of(0.9), 0.0, impl=impl)[0].item() == 0


@every_impl
def test_top_p_keeps_the_smallest_set_that_reaches_its_share(impl):
    # Shares 1/16, 8/16, 2/16, 4/16, 1/16. In order of probability: 0.5, 0.75, 0.875, then the two
    # of 1/16, which tie.
    logits = torch.tensor([[1.0, 8.0, 2.0, 4.0, 1.0]]).log()
    assert drawn(impl, logits, 1.0, 0, 1e-300) == [1]
    assert drawn(impl, logits, 1.0, 0, 0.49) == [1]
    assert drawn(impl, logits, 1.0, 0, 0.51) == [1, 3]
    assert drawn(impl, logits, 1.0, 0, 0.8) == [1, 2, 3]
    assert drawn(impl, logits, 1.0, 0, 0.88) == [0, 1, 2, 3, 4]
    # At temperature 1/2 the shares are 64, 16, 4, 1, 1 of 86: 0.744, 0.930.
    assert drawn(impl, logits, 0.5, 0, 0.9) == [1, 3]


@every_impl
def test_top_p_takes_its_share_of_what_top_k_left(impl):
    # Top-k leaves 8 and 4 of 16: the first has 2/3 of that, and 1/2 of the whole.
    logits = torch.tensor([[1.0, 8.0, 2.0, 4.0, 1.0]]).log()
    assert drawn(impl, logits, 1.0, 2, 0.6) == [1]
    assert drawn(impl, logits, 1.0, 2, 0.7) == [1, 3]


@every_impl
def test_logprob_and_entropy_are_those_of_the_truncated_distribution(impl):
    # 8 and 4 are left: probabilities 2/3 and 1/3.
    logits = torch.tensor([[1.0, 8.0, 2.0, 4.0, 1.0]]).log().expand(2, -1)
    token, logprob, entropy = sample(logits, u_of(0.5, 0.9), 1.0, 0, 0.7, impl=impl)
    assert token.tolist() == [1, 3]
    torch.testing.assert_close(logprob, torch.tensor([2 / 3, 1 / 3]).log())
    expected = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    torch.testing.assert_close(entropy, torch.full((2,), expected))


@pytest.mark.parametrize("impl", NATIVE)
@settings(max_examples=150)
@given(
    st.one_of(st.integers(1, 40), st.integers(CHUNK - 2, 2 * CHUNK + 10)),
    st.integers(0, 2**16),
    st.sampled_from([0.0, 0.3, 0.999, LARGEST_U]),
    st.sampled_from([0.0, 1.0, 200.0]),
    st.sampled_from([0.0, 0.5, 0.999]),
    st.sampled_from([0, 1, 3, 50, 1500]),
    st.sampled_from([1e-9, 0.4, 0.9, 1 - 1e-9, 1.0]),
)
def test_excluded_and_cut_off_tokens_are_never_drawn(
    impl, vocabulary, seed, u, scale, excluded_share, top_k, top_p
):
    """Fidelity item 33's exactness, at u = 0 and next to 1 too, with ties."""
    chance = torch.rand(1, vocabulary, generator=torch.Generator().manual_seed(seed))
    excluded = chance < excluded_share
    excluded[0, seed % vocabulary] = False
    # Halves: several tokens have the same logit.
    logits = (normal(1, vocabulary, seed=seed) * scale * 2).round() / 2
    logits = logits.masked_fill(excluded, -math.inf)
    for temperature in (1.0, 0.7, 0.0):
        token, logprob, entropy = sample(logits, u_of(u), temperature, top_k, top_p, impl=impl)
        allowed = kept_tokens(logits[0], temperature or 1e-9, top_k, top_p)
        assert allowed[int(token)]
        assert -math.inf < logprob.item() <= 0
        assert 0 <= entropy.item() <= math.log(max(1, allowed.sum()))


@every_impl
@pytest.mark.parametrize("only", [0, 5, CHUNK - 1, CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize("how", [(), (0.7, 3, 1.0), (0.7, 0, 0.5), (0.0,)])
def test_the_only_token_left_is_drawn(impl, only, how):
    logits = torch.full((1, 2 * CHUNK + 4), -math.inf)
    logits[0, only] = -3.0
    token, logprob, entropy = sample(
        logits.expand(3, -1), u_of(0.0, 0.5, LARGEST_U), *how, impl=impl
    )
    assert token.tolist() == [only] * 3
    assert logprob.tolist() == entropy.tolist() == [0.0] * 3


@every_impl
@pytest.mark.parametrize("u", [0.0, LARGEST_U])
def test_a_chunk_without_weight_is_never_drawn(impl, u):
    # e^-200 is 0 in float32: neither the first chunk nor the last has a weight.
    logits = torch.full((1, 3 * CHUNK), -200.0)
    logits[0, CHUNK + 7] = 0.0
    assert sample(logits, u_of(u), impl=impl)[0].item() == CHUNK + 7


@every_impl
@pytest.mark.parametrize("how", [(), (0.7, 1), (0.7, 0, 0.5), (0.7, 2, 0.5), (0.0,)])
def test_a_row_without_a_distribution_gives_nan_and_token_0_and_harms_no_other(impl, how):
    logits = normal(6, CHUNK + 5)
    clean = sample(logits, u_of(*[0.9] * 6), *how, impl=impl)
    logits[0, 3] = logits[1, CHUNK + 1] = math.nan
    logits[2, CHUNK] = math.inf
    logits[3] = -math.inf
    logits[4] = math.nan
    token, logprob, entropy = sample(logits, u_of(*[0.9] * 6), *how, impl=impl)
    assert token.tolist()[:5] == [0] * 5
    assert bool(logprob[:5].isnan().all())
    assert bool(entropy[:5].isnan().all())
    for ours, expected in zip((token, logprob, entropy), clean, strict=True):
        assert torch.equal(ours[5:], expected[5:])


@every_impl
def test_temperature_sharpens_the_distribution(impl):
    # Weights 1 and 3; at temperature 1/2 they are 1 and 9: running sum 0.1.
    logits = torch.tensor([[1.0, 3.0]]).log().expand(2, -1)
    token, _, _ = sample(logits, u_of(0.09, 0.11), 0.5, impl=impl)
    assert token.tolist() == [0, 1]


@every_impl
def test_temperature_zero_takes_the_lowest_of_the_largest(impl):
    logits = torch.tensor([[1.0, 5.0, 5.0], [2.0, 2.0, 2.0], [-math.inf, 0.0, -1.0]])
    for rest in ((), (2, 0.5)):
        token, logprob, entropy = sample(logits, u_of(0.99, 0.99, 0.0), 0.0, *rest, impl=impl)
        assert token.tolist() == [1, 0, 1]
        assert torch.equal(logprob, torch.zeros(3))
        assert torch.equal(entropy, torch.zeros(3))


@every_impl
@pytest.mark.parametrize("how", [(), (0.7, 40, 0.8)])
def test_a_draw_does_not_depend_on_its_batch(impl, how):
    """Fidelity item 14: nor on its slot; bit for bit."""
    logits, u = normal(20, 1300), torch.linspace(0, 0.999, 20, dtype=torch.float64)
    whole = sample(logits, u, *how, impl=impl)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))[:7]
    part = sample(logits[order], u[order], *how, impl=impl)
    assert all(torch.equal(a[order], b) for a, b in zip(whole, part, strict=True))


@every_impl
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_layout_and_half_precision_give_the_numbers_of_float32(impl, dtype):
    values = (normal(5, 1100) * 3).to(dtype)
    values[:, ::5] = -math.inf
    values[0, 1], values[0, 2] = 6e-8, -6e-8  # Subnormal in float16.
    u = torch.linspace(0, 0.999, 10, dtype=torch.float64)[::2]
    how = (0.7, 60, 0.8)
    expected = sample(values.float(), u.clone(), *how, impl=impl)
    wide = torch.full((5, 1200), 50.0, dtype=dtype)
    wide[:, 90:1190] = values
    for logits in (values, values.t().contiguous().t(), wide[:, 90:1190]):
        ours = sample(logits, u, *how, impl=impl)
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@every_impl
def test_results_carry_no_gradient_and_empty_batches_pass(impl):
    logits = torch.zeros(2, 3, requires_grad=True)
    assert not any(x.requires_grad for x in sample(logits, u_of(0.0, 0.5), impl=impl))
    for how in ((), (0.0,), (1.0, 2, 0.5)):
        token, logprob, entropy = sample(torch.zeros(0, 3), u_of(), *how, impl=impl)
        assert token.shape == logprob.shape == entropy.shape == (0,)
        assert (token.dtype, logprob.dtype) == (torch.int64, torch.float32)


def test_wrong_arguments_are_errors():
    with pytest.raises(ValueError, match="temperature"):
        sample(torch.zeros(1, 2), u_of(0.0), -1.0)
    with pytest.raises(ValueError, match="float64"):
        sample(torch.zeros(1, 2), torch.zeros(1))
    with pytest.raises(ValueError, match="logits"):
        sample(torch.zeros(1, 0), u_of(0.0))
    for top_k in (-1, 1.5, True):
        with pytest.raises(ValueError, match="top_k"):
            sample(torch.zeros(1, 2), u_of(0.0), top_k=top_k)
    for top_p in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="top_p"):
            sample(torch.zeros(1, 2), u_of(0.0), top_p=top_p)


def test_numbers_from_philox_make_the_draw_a_function_of_its_key():
    """Fidelity item 14, end to end: the same key in another batch draws the same token."""
    index = torch.arange(20)
    u = philox_uniform(3, 1, index, index % 4)
    logits = normal(1, 50).expand(20, -1)
    whole = sample(logits, u, top_p=0.9)
    again = sample(logits[:1], philox_uniform(3, 1, index[7:8], index[7:8] % 4), top_p=0.9)
    assert again[0].item() == whole[0][7].item()


def test_a_target_that_rounding_left_unreached_takes_the_last_token_with_weight():
    # Running sums 1, 3, 3: none exceeds 3, and the third token has no weight.
    weights = torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64)
    index, before = _first_above(weights, u_of(3.0))
    assert index.item() == 1
    assert before.item() == 1.0


@pytest.mark.parametrize("u", [-0.1, 1.0, math.nan])
def test_a_number_outside_0_to_1_is_an_error(u):
    with pytest.raises(ValueError, match=r"u must be in \[0, 1\)"):
        sample(torch.tensor([[-math.inf, 0.0]]), u_of(u))


def test_a_temperature_that_float32_takes_for_0_is_an_error():
    with pytest.raises(ValueError, match="1e-46 is 0 in float32"):
        sample(torch.zeros(1, 2), u_of(0.5), 1e-46)
