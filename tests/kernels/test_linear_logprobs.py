import math

import pytest
import torch
import torch.nn.functional as F
from cases import IMPLS, needs_native, normal, row_weights
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_token_logprobs import plain, zeros
from test_token_logprobs_native import allocated
from tolerances import CHUNK_ULPS, assert_within_error_rule, ulp

from fairlead_kernels import KernelError, linear_logprobs, token_logprobs
from fairlead_kernels._linear_logprob_ops import Chunks

KERNELS = IMPLS[1:]
INF, NAN = math.inf, math.nan
# Small enough for many chunks, some chunks kept, and all in one.
MEMORIES = [8_000, 25_000, 1 << 28]
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


def make(rows, width, vocabulary, bias=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows)
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    hidden, weight = normal(rows, width, seed=1), normal(vocabulary, width, seed=2)
    inputs = [hidden, weight, normal(vocabulary, seed=3)] if bias else [hidden, weight]
    return [one.to(dtype) for one in inputs], labels


def by_logits(hidden, weight, labels, temperature=1.0, bias=None):
    logits = F.linear(hidden, weight, bias)
    return plain(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels, temperature)


def run(function, inputs, labels, **options):
    """Both results, and the gradients of a weighted sum with respect to every input."""
    inputs = [one.clone().requires_grad_(True) for one in inputs]
    bias = inputs[2] if len(inputs) > 2 else None
    logprobs, entropy = function(inputs[0], inputs[1], labels, bias=bias, **options)
    weights = row_weights(len(labels), logprobs.dtype)
    loss = ((logprobs + 0.3 * entropy) * weights).sum()
    return [logprobs.detach(), entropy.detach(), *torch.autograd.grad(loss, inputs)]


def sizes(inputs, labels, temperature):
    """What is added up in each result: an ulp of a sum with cancellation is one of this."""
    hidden, weight, *bias = (one.double() for one in inputs)
    logp = torch.log_softmax(F.linear(hidden, weight, *bias) / temperature, dim=-1)
    entropy = -(logp.exp() * logp).sum(-1, keepdim=True)
    # |onehot - p| and 0.3 |p (log p + H)| with nothing taken from anything.
    parts = F.one_hot(labels, len(weight)) + logp.exp() * (1 + 0.3 * (entropy - logp))
    parts *= row_weights(len(labels), torch.float64).abs().unsqueeze(1) / temperature
    of_logits = F.linear(hidden.abs(), weight.abs(), *(one.abs() for one in bias)).amax(1)
    of_rows = 1 + of_logits / temperature
    of_inputs = [parts @ weight.abs(), parts.t() @ hidden.abs(), parts.sum(0)]
    return [of_rows, of_rows, *of_inputs[: len(inputs)]]


@pytest.mark.parametrize("impl", IMPLS)
def test_hand_worked_values(impl):
    # The weight is the identity, so the logits are log 1, log 2, log 5, the last by the bias:
    # log-probabilities log(1/8), log(5/8); the entropy as for token_logprobs.
    hidden = torch.tensor([[1.0, 2.0, 1.0]] * 2).log()
    bias = torch.tensor([1.0, 1.0, 5.0]).log()
    logprobs, entropy = linear_logprobs(
        hidden, torch.eye(3), torch.tensor([0, 2]), bias=bias, impl=impl
    )
    exact = torch.tensor([1 / 8, 5 / 8], dtype=torch.float64).log()
    assert_within_error_rule(logprobs, exact.float(), exact)
    h = torch.full((2,), 0.9002560937381, dtype=torch.float64)
    assert_within_error_rule(entropy, h.float(), h)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("rows", "width", "vocabulary"), [(1, 1, 1), (3, 5, 2), (5, 16, 301), (9, 24, 701)]
)
@pytest.mark.parametrize("memory", MEMORIES)
def test_error_rule_in_value_and_gradient(impl, rows, width, vocabulary, memory):
    assert_error_rule(impl, rows, width, vocabulary, memory)


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("memory", MEMORIES)
def test_error_rule_with_two_threads(impl, memory):
    """Torch's products add up in another order then, in some places term by term."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert_error_rule(impl, 9, 24, 701, memory)
    finally:
        torch.set_num_threads(before)


def assert_error_rule(impl, rows, width, vocabulary, memory):
    for bias in (False, True):
        inputs, labels = make(rows, width, vocabulary, bias)
        ours = run(linear_logprobs, inputs, labels, temperature=3.0, impl=impl, memory_bytes=memory)
        other = run(by_logits, inputs, labels, temperature=3.0)
        exact = run(by_logits, [one.double() for one in inputs], labels, temperature=3.0)
        terms = sizes(inputs, labels, 3.0)
        for a, b, c, size in zip(ours, other, exact, terms, strict=True):
            assert_within_error_rule(a, b, c, size)


@needs_native
@pytest.mark.parametrize(("rows", "vocabulary"), [(127, 2), (257, 1000), (3, 32003)])
def test_error_rule_on_larger_odd_shapes(rows, vocabulary):
    inputs, labels = make(rows, 8, vocabulary)
    ours = run(linear_logprobs, inputs, labels, impl="cpp", memory_bytes=200_000)
    other = run(by_logits, inputs, labels)
    exact = run(by_logits, [one.double() for one in inputs], labels)
    for a, b, c, size in zip(ours, other, exact, sizes(inputs, labels, 1.0), strict=True):
        assert_within_error_rule(a, b, c, size)


@pytest.mark.parametrize("impl", KERNELS)
def test_results_do_not_depend_on_the_chunks(impl):
    """Fidelity item 33: to a stated tolerance, as matrix products are involved."""
    inputs, labels = make(11, 12, 500)
    terms = sizes(inputs, labels, 1.0)
    # What is off by so much in a logit is so in proportion in a probability and a gradient.
    terms = [*terms[:2], *(size * terms[0].max() for size in terms[2:])]
    whole = run(linear_logprobs, inputs, labels, impl=impl)
    for memory in (4_000, 9_000, 30_000, 90_000):
        parts = run(linear_logprobs, inputs, labels, impl=impl, memory_bytes=memory)
        for a, b, size in zip(whole, parts, terms, strict=True):
            assert bool(((a - b).abs() <= CHUNK_ULPS * ulp(size)).all())


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("memory", [8_000, 1 << 28])
def test_in_half_precision_it_is_as_near_as_the_head_in_half_precision(impl, memory):
    for dtype in (torch.bfloat16, torch.float16):
        inputs, labels = make(9, 16, 300, dtype=dtype)
        ours = run(linear_logprobs, inputs, labels, impl=impl, memory_bytes=memory)
        other = run(linear_logprobs, inputs, labels, impl="reference")
        exact = run(by_logits, [one.double() for one in inputs], labels)
        for a, b, c in zip(ours, other, exact, strict=True):
            assert a.dtype == b.dtype
            assert_within_error_rule(a.float(), b.float(), c)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 9000),
    st.integers(1, 60_000),
    st.sampled_from([2, 4]),
    st.integers(1 << 20, 1 << 28) | st.integers(1, 10_000).map(lambda few: few * 1000),
    st.booleans(),
)
def test_chunks_cover_every_logit_once_within_the_memory(rows, vocabulary, itemsize, memory, keep):
    assume(rows * vocabulary * itemsize < 4000 * memory)  # Not millions of chunks.
    chunks = Chunks.plan(rows, vocabulary, itemsize, memory, keep)
    covered, expected = 0, 0
    previous = None
    for chunk in chunks:
        height, width = chunk.shape()
        assert chunk.index == expected
        assert 0 < height <= chunks.high
        assert 0 < width <= chunks.wide
        starts = (chunk.token, chunk.row)
        assert previous is None or starts > previous
        previous, covered, expected = starts, covered + height * width, expected + 1
    assert covered == rows * vocabulary
    smallest = min(64, vocabulary)
    assert chunks.area() * itemsize <= max(memory // 4, smallest * itemsize)
    assert chunks.kept * chunks.area() * itemsize <= memory - memory // 4
    assert chunks.kept == 0 or keep
    assert chunks.kept <= expected


def test_the_planned_chunks_at_the_size_of_gpt2():
    # 256 MiB: 64 MiB for a chunk of 4,096 rows are 4,096 tokens, of which 50,257 make 13 chunks;
    # of equal size, in multiples of 64, they are 3,904 wide. 192 MiB keep 3 of them.
    chunks = Chunks.plan(4096, 50257, 4, 256 << 20, keep=True)
    assert (chunks.high, chunks.wide, chunks.kept) == (4096, 3904, 3)
    assert len(list(chunks)) == 13


@needs_native
def test_what_is_kept_and_what_is_computed_again_give_the_same():
    inputs, labels = make(20, 8, 900)
    hidden, weight, bias = (one.requires_grad_(True) for one in inputs)
    grads = []
    for keep in (True, False):
        logprobs, entropy, _, kept = torch.ops.fairlead_kernels.linear_logprobs(
            hidden, weight, bias, labels, 1.0, 60_000, keep
        )
        assert bool(kept.numel()) == keep
        grads.append(
            torch.autograd.grad((logprobs + entropy).sum(), inputs, retain_graph=True)
            + torch.autograd.grad((logprobs + entropy).sum(), inputs)
        )
    for with_kept, without in zip(*grads, strict=True):
        assert (with_kept - without).abs().max() < 1e-4
    # A second backward has what the first had.
    assert all(torch.equal(a, b) for a, b in zip(grads[0][:3], grads[0][3:], strict=True))


@needs_native
def test_memory_stays_within_what_was_given():
    inputs, labels = make(64, 16, 5000, bias=False)
    hidden, weight = (one.requires_grad_(True) for one in inputs)
    memory, logits = 160_000, 64 * 5000 * 4
    small = 100_000  # Results, labels, gradients of hidden.
    results = []
    spent = allocated(
        lambda: results.extend(linear_logprobs(hidden, weight, labels, memory_bytes=memory))
    )
    assert sum(spent) < memory + small < logits / 4
    spent = allocated(lambda: torch.autograd.grad(results[0].sum(), (hidden, weight)))
    assert sum(spent) < memory / 4 + weight.nbytes + small
    with torch.no_grad():
        spent = allocated(lambda: linear_logprobs(hidden, weight, labels, memory_bytes=memory))
    assert sum(spent) < memory / 4 + small


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True)]
)
def test_a_gradient_alone_is_the_one_among_all(impl, wanted):
    inputs, labels = make(6, 5, 150)
    alone = [one.clone().requires_grad_(want) for one, want in zip(inputs, wanted, strict=True)]
    every = [one.clone().requires_grad_(True) for one in inputs]
    for hidden, weight, bias in (alone, every):
        logprobs, entropy = linear_logprobs(
            hidden, weight, labels, bias=bias, impl=impl, memory_bytes=8_000
        )
        (logprobs + entropy).sum().backward()
    for one, among, want in zip(alone, every, wanted, strict=True):
        assert (one.grad is not None) == want
        assert not want or torch.equal(one.grad, among.grad)


@pytest.mark.parametrize("impl", IMPLS)
def test_tokens_excluded_by_the_bias_have_no_probability_and_no_nan(impl):
    hidden, weight = torch.zeros(2, 3, requires_grad=True), torch.ones(200, 3, requires_grad=True)
    bias = torch.full((200,), -INF)
    bias[[7, 150]] = 0.0
    bias.requires_grad_(True)
    logprobs, entropy = linear_logprobs(
        hidden, weight, torch.tensor([150, 8]), bias=bias, impl=impl, memory_bytes=2_048
    )
    # Two tokens are left in either row, at even odds; the second row's label is not one of them.
    assert logprobs.tolist() == [pytest.approx(-math.log(2), abs=1e-7), -INF]
    assert entropy.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-7)
    (logprobs.sum() + entropy.sum()).backward()
    expected = torch.zeros(200)
    expected[7], expected[150] = -0.5, 0.5
    assert torch.equal(bias.grad, expected)
    assert torch.equal(weight.grad, torch.zeros(200, 3))
    assert torch.equal(hidden.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_stays_in_its_row(impl):
    inputs, labels = make(4, 3, 200)
    inputs[0][2, 1] = NAN
    for one in linear_logprobs(
        inputs[0], inputs[1], labels, bias=inputs[2], impl=impl, memory_bytes=4_000
    ):
        assert one.isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize("impl", KERNELS)
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 300), st.sampled_from([0.0, 1e-4, 1.0, 1e4]), st.integers(0, 2**16))
def test_logprob_is_never_positive_and_entropy_stays_within_log_v(impl, v, scale, seed):
    """Fidelity item 33: exact, over several chunks too."""
    hidden, weight = scale * normal(2, 4, seed=seed), normal(v, 4, seed=seed + 1)
    labels = (hidden @ weight.t()).argmax(1)
    for memory in (2_048, 1 << 20):
        logprobs, entropy = linear_logprobs(hidden, weight, labels, impl=impl, memory_bytes=memory)
        assert bool((logprobs <= 0).all())
        assert bool((entropy >= 0).all())
        assert bool((entropy.double() <= math.log(v)).all())


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_batch_has_zero_gradients_of_the_right_shape(impl):
    hidden, weight = torch.zeros(0, 3, requires_grad=True), torch.ones(5, 3, requires_grad=True)
    bias = torch.zeros(5, requires_grad=True)
    logprobs, entropy = linear_logprobs(hidden, weight, zeros(0), bias=bias, impl=impl)
    assert logprobs.shape == entropy.shape == (0,)
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad.shape == (0, 3)
    assert torch.equal(weight.grad, torch.zeros(5, 3))
    assert torch.equal(bias.grad, torch.zeros(5))


@pytest.mark.parametrize("impl", KERNELS)
def test_inputs_of_any_stride(impl):
    inputs, labels = make(5, 6, 130)
    strided = [inputs[0].t().contiguous().t(), inputs[1].repeat(1, 2)[:, :6], inputs[2]]
    spaced = torch.stack([labels, labels], dim=1)[:, 0]
    same = run(linear_logprobs, inputs, labels, impl=impl, memory_bytes=8_000)
    hidden, weight, bias = strided
    ours = linear_logprobs(hidden, weight, spaced, bias=bias, impl=impl, memory_bytes=8_000)
    for a, b in zip(ours, same, strict=False):
        assert (a - b).abs().max() < 1e-5


@pytest.mark.parametrize("impl", IMPLS)
def test_under_autocast_the_product_is_the_head_s(impl):
    (hidden, weight), labels = make(5, 16, 90, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_logprobs(hidden, weight, labels, impl=impl)
        logits = F.linear(hidden, weight)
        assert logits.dtype == torch.bfloat16
    other, exact = plain(logits.float(), labels), plain(logits.double(), labels)
    for a, b, c in zip(ours, other, exact, strict=True):
        assert_within_error_rule(a, b, c)


@needs_native
@pytest.mark.parametrize("label", [-1, 200])
def test_a_label_outside_the_vocabulary_is_an_error(label):
    (hidden, weight), _ = make(2, 3, 200, bias=False)
    for memory in (2_048, 1 << 20):
        with pytest.raises(IndexError, match=rf"label {label} of row 1.*\[0, 200\)"):
            linear_logprobs(
                hidden, weight, torch.tensor([0, label]), impl="cpp", memory_bytes=memory
            )


def test_wrong_arguments_are_errors():
    hidden, weight, labels = torch.zeros(2, 3), torch.zeros(5, 3), zeros(2)
    for match, wrong in (
        ("hidden", (torch.zeros(2, 3, 1), weight, labels)),
        ("weight", (hidden, torch.zeros(5, 4), labels)),
        ("weight", (hidden, weight.double(), labels)),
        ("weight", (hidden, torch.zeros(0, 3), labels)),
        ("labels", (hidden, weight, zeros(3))),
        ("labels", (hidden, weight, labels.int())),
        ("temperature", (hidden, weight, labels, 0.0)),
        ("bias", (hidden, weight, labels, 1.0, torch.zeros(4))),
        ("bias", (hidden, weight, labels, 1.0, torch.zeros(5).double())),
    ):
        with pytest.raises(ValueError, match=match):
            linear_logprobs(*wrong)
    with pytest.raises(ValueError, match="memory_bytes"):
        linear_logprobs(hidden, weight, labels, memory_bytes=0)
    with pytest.raises(KernelError, match="float64"):
        linear_logprobs(hidden.double(), weight.double(), labels, impl="triton")


@needs_native
def test_auto_takes_cpp_on_the_cpu():
    (hidden, weight), labels = make(3, 4, 50, bias=False)
    ours, cpp = (linear_logprobs(hidden, weight, labels, impl=i) for i in ("auto", "cpp"))
    assert all(torch.equal(a, b) for a, b in zip(ours, cpp, strict=True))
    logprobs, _ = linear_logprobs(hidden.requires_grad_(True), weight, labels)
    assert "linear_logprobs" in type(logprobs.grad_fn).__name__


@needs_native
def test_a_second_derivative_is_an_error_and_not_zero():
    (hidden, weight), labels = make(3, 4, 50, bias=False)
    hidden.requires_grad_(True)
    logprobs, _ = linear_logprobs(hidden, weight, labels)
    (gradient,) = torch.autograd.grad(logprobs.sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative; impl='reference' has one"):
        gradient.square().sum().backward()


@needs_native
def test_the_torch_operation_passes_opcheck():
    inputs, labels = make(3, 4, 150)
    given = [one.requires_grad_(True) for one in inputs]
    torch.library.opcheck(
        torch.ops.fairlead_kernels.linear_logprobs.default, (*given, labels, 0.7, 8_000, True)
    )


@needs_native
def test_torch_compile_goes_through_without_a_break():
    inputs, labels = make(3, 4, 150)
    hidden, weight, bias = (one.requires_grad_(True) for one in inputs)

    def loss(hidden):
        logprobs, entropy = linear_logprobs(hidden * 1.0, weight, labels, 0.7, bias)
        return (logprobs + 0.1 * entropy).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    ours = torch.autograd.grad(compiled(hidden), (hidden, weight, bias))
    eager = torch.autograd.grad(loss(hidden), (hidden, weight, bias))
    assert all(torch.equal(a, b) for a, b in zip(ours, eager, strict=True))


@pytest.mark.parametrize("impl", KERNELS)
def test_it_is_token_logprobs_of_the_logits(impl):
    """One chunk: the same product, the same kernel, the same bits."""
    (hidden, weight), labels = make(9, 7, 64, bias=False)
    ours = linear_logprobs(hidden, weight, labels, 0.9, impl=impl)
    logits = torch.mm(hidden, weight.t())
    for a, b in zip(ours, token_logprobs(logits, labels, 0.9, impl=impl), strict=True):
        assert torch.equal(a, b)
