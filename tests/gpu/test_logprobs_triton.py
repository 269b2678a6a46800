import math

import pytest
import torch
import torch.nn.functional as F
from cases import normal, row_weights
from tolerances import assert_within_error_rule

from fairlead_kernels import linear_logprobs, token_logprobs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def plain(logits, labels, temperature=1.0):
    logp = torch.log_softmax(logits / temperature, dim=-1)
    entropy = -(logp.exp() * logp.masked_fill(logp == -math.inf, 0.0)).sum(-1)
    return logp.gather(1, labels[:, None]).squeeze(1), entropy


def make(rows, vocabulary, scale=4.0):
    generator = torch.Generator().manual_seed(rows)
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    return scale * normal(rows, vocabulary), labels


def run(function, logits, labels, **options):
    x = logits.clone().requires_grad_(True)
    logprobs, entropy = function(x, labels, **options)
    weights = row_weights(len(labels), logprobs.dtype).to(logprobs.device)
    loss = ((logprobs + 0.3 * entropy) * weights).sum()
    gradient = torch.autograd.grad(loss, x)[0]
    return [one.detach().cpu() for one in (logprobs, entropy, gradient)]


@pytest.mark.parametrize("rows", [1, 3, 127, 257])
@pytest.mark.parametrize("vocabulary", [1, 2, 17, 1000, 32003])
def test_error_rule_in_value_and_gradient(rows, vocabulary):
    logits, labels = make(rows, vocabulary)
    ours = run(token_logprobs, logits.cuda(), labels.cuda(), temperature=0.7, impl="triton")
    other = run(plain, logits.cuda(), labels.cuda(), temperature=0.7)
    exact = run(plain, logits.double(), labels, temperature=0.7)
    for i, (a, b, c) in enumerate(zip(ours, other, exact, strict=True)):
        assert_within_error_rule(a, b, c, torch.full_like(c, 3 / 0.7) if i == 2 else None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_float32_inside_and_gradients_are_rounded_once(dtype):
    logits, labels = make(33, 5000)
    logits, labels = logits.to(dtype).cuda(), labels.cuda()
    ours = run(token_logprobs, logits, labels, impl="triton")
    of_float = run(token_logprobs, logits.float(), labels, impl="triton")
    assert torch.equal(ours[0], of_float[0])
    assert torch.equal(ours[1], of_float[1])
    assert torch.equal(ours[2], of_float[2].to(dtype))


def test_bounds_are_exact():
    """Fidelity item 33."""
    for vocabulary in (1, 2, 3, 11, 50257):
        for scale in (0.0, 1e-7, 1e-3, 1.0, 30.0, 1e4):
            logits, labels = make(64, vocabulary, scale)
            labels[:32] = logits[:32].argmax(1)
            logprobs, entropy = token_logprobs(logits.cuda(), labels.cuda(), impl="triton")
            assert bool((logprobs <= 0).all())
            assert bool((entropy >= 0).all())
            assert bool((entropy.double() <= math.log(vocabulary)).all())


def test_excluded_tokens_nan_and_infinity():
    inf, nan = math.inf, math.nan
    logits = torch.zeros(6, 9000)
    logits[0, :8998] = -inf
    logits[1, 8500] = nan
    logits[2, 8500] = inf
    logits[3] = -inf
    logits[4, 0] = -inf
    labels = torch.tensor([8999, 0, 0, 0, 0, 1], device="cuda")
    logits = logits.cuda().requires_grad_(True)
    logprobs, entropy = token_logprobs(logits, labels, impl="triton")
    assert logprobs.isnan().tolist() == [False, True, True, True, False, False]
    assert entropy.isnan().tolist() == [False, True, True, True, False, False]
    assert logprobs[0].item() == pytest.approx(-math.log(2))
    assert logprobs[4].item() == -inf
    (logprobs[[0, 4, 5]] + entropy[[0, 4, 5]]).sum().backward()
    assert not bool(logits.grad.isnan().any())
    assert not bool(logits.grad[0, :8998].any())
    assert not bool(logits.grad[1:4].any())


def test_a_label_outside_the_vocabulary_is_never_read_and_gives_nan():
    labels = torch.tensor([0, 5, -1], device="cuda")
    logprobs, _ = token_logprobs(torch.zeros(3, 5, device="cuda"), labels, impl="triton")
    assert logprobs.isnan().tolist() == [False, True, True]


def test_strided_logits_are_not_copied_and_may_be_written_over():
    big = normal(65, 9001).cuda().requires_grad_(True)
    labels = make(65, 9000)[1].cuda()
    expected = run(token_logprobs, big.detach()[:, 1:], labels, impl="triton")
    logits = (big * 1.0)[:, 1:]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    logprobs, entropy = token_logprobs(logits, labels, impl="triton", inplace_backward=True)
    assert torch.cuda.max_memory_allocated() - before < logits.nbytes / 10
    weights = row_weights(65).cuda()
    (gradient,) = torch.autograd.grad(((logprobs + 0.3 * entropy) * weights).sum(), logits)
    assert torch.cuda.max_memory_allocated() - before < logits.nbytes / 10
    assert gradient.data_ptr() == logits.data_ptr()
    assert torch.equal(gradient.cpu(), expected[2])


def test_auto_takes_it_and_it_runs_in_the_current_stream():
    logits, labels = (one.cuda() for one in make(33, 5000))
    expected = token_logprobs(logits, labels, impl="triton")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        late = logits * 1.0
        results = token_logprobs(late, labels)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("memory", [200_000, 1 << 28])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_keeps_the_error_rule(dtype, memory):
    hidden, weight, bias = normal(130, 64, seed=1), normal(3001, 64, seed=2), normal(3001, seed=3)
    labels = make(130, 3001)[1]

    def results(function, cast, device, **options):
        inputs = [one.to(dtype).to(cast).to(device) for one in (hidden, weight, bias)]
        inputs = [one.requires_grad_(True) for one in inputs]
        logprobs, entropy = function(
            inputs[0], inputs[1], labels.to(device), bias=inputs[2], **options
        )
        weights = row_weights(130, logprobs.dtype).to(device)
        grads = torch.autograd.grad(((logprobs + 0.3 * entropy) * weights).sum(), inputs)
        return [one.detach().cpu() for one in (logprobs, entropy, *grads)]

    def by_logits(hidden, weight, labels, bias):
        return plain(F.linear(hidden, weight, bias), labels)

    ours = results(linear_logprobs, dtype, "cuda", impl="triton", memory_bytes=memory)
    other = results(linear_logprobs, dtype, "cuda", impl="reference")
    exact = results(by_logits, torch.float64, "cpu")
    for a, b, c in zip(ours, other, exact, strict=True):
        assert_within_error_rule(a.float(), b.float(), c, torch.full_like(c, c.abs().max()))


def test_the_head_never_holds_all_logits():
    hidden, weight = normal(512, 64).cuda(), normal(30_000, 64).cuda()
    labels, memory = make(512, 30_000)[1].cuda(), 8 << 20
    inputs = hidden.requires_grad_(True), weight.requires_grad_(True)

    def gradients():
        logprobs, _ = linear_logprobs(*inputs, labels, impl="triton", memory_bytes=memory)
        torch.autograd.grad(logprobs.sum(), inputs)

    gradients()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradients()
    spent = torch.cuda.max_memory_allocated() - before
    assert spent < memory + hidden.nbytes + weight.nbytes + (4 << 20) < 512 * 30_000 * 4
