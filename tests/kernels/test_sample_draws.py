"""The numbers of `sample`: draw for draw, in distribution, and against float64."""

import math

import numpy as np
import pytest
import torch
from cases import ODD_ROWS, normal
from sampling import assert_draws_agree, probabilities
from scipy import stats
from test_sample import NATIVE, needs_native, needs_triton
from tolerances import CHI_SQUARED_LEVEL, assert_within_error_rule

from fairlead_kernels import philox_uniform, sample, token_logprobs
from fairlead_kernels.sample import CHUNK

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")

HOW = [(1.0, 0, 1.0), (0.7, 50, 1.0), (1.3, 0, 0.9), (1.0, 40, 0.5)]
OTHERS = [pytest.param("cpp", marks=needs_native), pytest.param("triton", marks=needs_triton)]


def keys(count, seed=11):
    index = torch.arange(count)
    return philox_uniform(seed, 3, index // 50, index % 50)


@needs_native
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_cpp_draws_what_the_reference_draws_on_2000_keys(how, scale):
    logits, u = normal(2000, 2 * CHUNK + 77) * scale, keys(2000)
    ours = sample(logits, u, *how, impl="cpp")
    reference = sample(logits, u, *how, impl="reference")
    assert_draws_agree(ours[0], reference[0], logits, u, *how)


@needs_triton
@pytest.mark.parametrize(
    ("how", "vocabulary"), [(HOW[0], CHUNK + 10), *((how, 60) for how in HOW[1:])]
)
def test_triton_draws_what_the_reference_draws_on_2000_keys(how, vocabulary):
    logits, u = normal(2000, vocabulary) * 2, keys(2000)
    ours = sample(logits, u, *how, impl="triton")
    reference = sample(logits, u, *how, impl="reference")
    assert_draws_agree(ours[0], reference[0], logits, u, *how)


@needs_native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cpp_draws_what_the_reference_draws_where_half_precision_has_many_ties(dtype):
    logits, u = (normal(200, 3001) * 2).to(dtype), keys(200)
    for how in HOW:
        ours, other = (sample(logits, u, *how, impl=impl)[0] for impl in ("cpp", "reference"))
        assert_draws_agree(ours, other, logits, u, *how)


@needs_native
@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "generic"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("vocabulary", [1, 7, 33, 1000, 2 * CHUNK + 3])
def test_every_instruction_set_draws_what_the_reference_draws(instruction_set, how, vocabulary):
    from fairlead_kernels import _native

    logits, u = normal(90, vocabulary), keys(90)
    logits[::3, ::2] = -math.inf
    logits[::3, 0] = 1.0
    logits[1] = math.nan
    for element, half in ((0, logits), (1, logits.bfloat16()), (2, logits.half())):
        token = torch.full((90,), -1)
        numbers = torch.full((2, 90), math.inf)
        addresses = [x.data_ptr() for x in (half, u, token, numbers[0], numbers[1])]
        try:
            _native.sample_cpu(
                *addresses, 90, vocabulary, vocabulary, element, *how, 1, instruction_set
            )
        except ValueError as error:
            pytest.skip(str(error))
        reference = sample(half, u, *how, impl="reference")
        assert_draws_agree(token, reference[0], half, u, *how)
        torch.testing.assert_close(numbers[0], reference[1], equal_nan=True)
        torch.testing.assert_close(numbers[1], reference[2], equal_nan=True)


@pytest.mark.parametrize("impl", NATIVE)
@pytest.mark.parametrize("how", [(1.0, 0, 1.0), (0.8, 7, 1.0), (1.0, 0, 0.8), (1.2, 6, 0.7)])
def test_a_million_draws_follow_the_distribution(impl, how):
    """Chi-squared against the exact, truncated distribution, ties at the threshold included."""
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0, 4.0, 2.0, 0.0, 7.0, 9.0, 2.0]]).log()
    _goodness_of_fit(impl, logits, how, draws=1_000_000)


@pytest.mark.parametrize(
    ("impl", "draws"), [("reference", 5_000), pytest.param("cpp", 200_000, marks=needs_native)]
)
def test_draws_follow_the_distribution_over_three_chunks(impl, draws):
    logits = torch.full((1, 2 * CHUNK + 6), -math.inf)
    logits[0, ::200] = normal(11)
    _goodness_of_fit(impl, logits, (0.8, 0, 0.95), draws)


def _goodness_of_fit(impl, logits, how, draws):
    counts = torch.zeros(logits.shape[1], dtype=torch.int64)
    for u in keys(draws, seed=7).split(max(1, (1 << 21) // logits.shape[1])):
        token, _, _ = sample(logits.expand(len(u), -1), u, *how, impl=impl)
        counts += torch.bincount(token, minlength=logits.shape[1])
    expected = probabilities(logits[0], *how) * draws
    assert not counts.numpy()[expected == 0].any()
    possible = expected > 0
    assert stats.chisquare(counts.numpy()[possible], expected[possible]).pvalue > CHI_SQUARED_LEVEL


@pytest.mark.parametrize("impl", [*NATIVE, OTHERS[1]])
@pytest.mark.parametrize("rows", ODD_ROWS)
def test_logprob_and_entropy_by_the_error_rule(impl, rows):
    if impl == "triton" and rows > 3:
        rows = 5
    vocabulary = 32003 if rows < 10 else 1000
    if impl == "triton":
        vocabulary = 3000
    logits, u = normal(rows, vocabulary, seed=rows) * 3, keys(rows)
    for how in HOW if impl != "triton" else HOW[:2]:
        token, logprob, entropy = sample(logits, u, *how, impl=impl)
        p = torch.from_numpy(np.stack([probabilities(row, *how) for row in logits]))
        exact = p.log()
        at = token.unsqueeze(1)
        kept = logits.masked_fill(p == 0, -math.inf)
        plain = torch.log_softmax(kept / how[0], dim=1)
        assert_within_error_rule(
            logprob, plain.gather(1, at).squeeze(1), exact.gather(1, at).squeeze(1)
        )
        exact_entropy = torch.special.entr(p).sum(dim=1)
        assert_within_error_rule(entropy, torch.special.entr(plain.exp()).sum(dim=1), exact_entropy)


@pytest.mark.parametrize("impl", NATIVE)
def test_the_largest_entropy_is_not_exceeded(impl):
    """Equal logits: log K exactly, or the float32 below it."""
    for kept in range(1, 300):
        logits = torch.full((1, 301), -1.7)
        logits[0, kept:] = -math.inf if kept % 2 else -2.0
        u = torch.zeros(1, dtype=torch.float64)
        entropy = sample(logits, u, 0.9, kept, impl=impl)[2].item()
        assert entropy <= math.log(kept) < entropy + 1e-6


@pytest.mark.parametrize("impl", OTHERS)
def test_the_largest_entropy_of_any_row_is_not_exceeded(impl):
    """As above in one call; float32(log K) lies above log K for K = 2, 3, 4, 5, 6, 8 and more."""
    kept = torch.arange(1, 300)
    logits = torch.full((299, 301), -1.7).masked_fill(
        torch.arange(301) >= kept.unsqueeze(1), -math.inf
    )
    entropy = sample(logits, torch.zeros(299, dtype=torch.float64), 0.9, impl=impl)[2].double()
    assert bool((entropy <= kept.double().log()).all())
    assert bool((entropy > kept.double().log() - 1e-6).all())


def test_the_reference_has_the_bits_of_token_logprobs():
    """Fidelity item 13's ground: without truncation, the sampler's numbers are the scorer's."""
    logits, u = normal(9, 3000) * 3, keys(9)
    token, logprob, entropy = sample(logits, u, 0.7, impl="reference")
    expected = token_logprobs(logits, token, 0.7, impl="reference")
    assert torch.equal(logprob, expected[0])
    assert torch.equal(entropy, expected[1])


@needs_native
@pytest.mark.parametrize(
    ("logits", "u", "how"),
    [
        (torch.zeros(3, 4).double(), torch.zeros(3).double(), (1.0, 0, 1.0)),
        (torch.zeros(4, 3).t(), torch.zeros(3).double(), (1.0, 0, 1.0)),
        (torch.zeros(3, 0), torch.zeros(3).double(), (1.0, 0, 1.0)),
        (torch.zeros(3, 4), torch.zeros(2).double(), (1.0, 0, 1.0)),
        (torch.zeros(3, 4), torch.zeros(3), (1.0, 0, 1.0)),
        (torch.zeros(3, 4), torch.zeros(6).double()[::2], (1.0, 0, 1.0)),
        (torch.zeros(3, 4), torch.zeros(3).double(), (1.0, -1, 1.0)),
        (torch.zeros(3, 4), torch.zeros(3).double(), (1.0, 0, 0.0)),
        (torch.zeros(3, 4), torch.zeros(3).double(), (math.nan, 0, 1.0)),
    ],
)
def test_no_address_leaves_python_unchecked(logits, u, how):
    with pytest.raises(ValueError, match="sample"):
        torch.ops.fairlead_kernels.triton_sample(logits, u, *how)
    with pytest.raises(ValueError, match="sample"):
        torch.ops.fairlead_kernels.sample(logits, u, *how)


@needs_native
def test_many_threads_draw_the_same():
    logits, u = normal(37, 20_000), keys(37)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(sample(logits, u, 1.0, 0, 0.9, impl="cpp"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@needs_native
def test_the_torch_operation_passes_opcheck_and_compiles():
    for rows, vocabulary in ((0, 4), (3, 5), (4, 33)):
        torch.library.opcheck(
            torch.ops.fairlead_kernels.sample.default,
            (normal(rows, vocabulary), torch.zeros(rows).double(), 1.0, 3, 0.9),
        )
    logits, u = normal(4, 33), keys(4)

    def draw(logits, u):
        return torch.ops.fairlead_kernels.sample(logits * 2, u, 1.0, 5, 0.9)

    compiled = torch.compile(draw, backend="aot_eager", fullgraph=True)
    for ours, expected in zip(compiled(logits, u), draw(logits, u), strict=True):
        assert torch.equal(ours, expected)
