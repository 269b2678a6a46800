import functools
import gc

import pytest
import torch
from cases import IMPLS, needs_native, normal, row_weights
from test_token_logprobs import assert_right, make, plain, with_gradient, zeros

from fairlead_kernels import token_logprobs
from fairlead_kernels.native import logprobs as native_logprobs

KERNELS = IMPLS[1:]
HALVES = [torch.bfloat16, torch.float16]
pytestmark = needs_native


@pytest.fixture(params=["avx512", "avx2", "generic"])
def instruction_set(request, monkeypatch):
    from fairlead_kernels import _native

    for name in ("logprobs_forward_cpu", "logprobs_backward_cpu"):
        chosen = functools.partial(getattr(_native, name), instruction_set=request.param)
        monkeypatch.setattr(_native, name, chosen)
    try:
        token_logprobs(torch.zeros(1, 1), zeros(1), impl="cpp")
    except ValueError as error:
        pytest.skip(str(error))
    return request.param


@pytest.mark.parametrize(("rows", "vocabulary"), [(3, 1), (3, 15), (2, 4133)])
def test_every_instruction_set_keeps_the_error_rule(instruction_set, rows, vocabulary):
    assert_right(*make(rows, vocabulary), 0.7, "cpp")


@pytest.mark.parametrize("sign", [0, -(2**31)])
@pytest.mark.parametrize("vocabulary", [40, 200])  # among the last few, and within the main loop
def test_every_nan_makes_its_row_nan(instruction_set, vocabulary, sign):
    """0x7f800001 and up: the low bits are free, and a kernel that shifts bits must not lose it."""
    rows = 600
    payloads = torch.arange(1, rows + 1, dtype=torch.int32)
    logits = normal(rows, vocabulary)
    logits[:, 33] = (payloads + 0x7F800000 + sign).view(torch.float32)
    assert logits[:, 33].isnan().all()
    for one in token_logprobs(logits, zeros(rows), impl="cpp"):
        assert one.isnan().all()


def test_far_tokens_add_nothing(instruction_set):
    """e^-1000 is 0: probability 1, entropy 0, exactly."""
    logits = torch.full((1, 70), -1000.0)
    logits[0, 40] = 0.0
    logprobs, entropy = token_logprobs(logits, torch.tensor([40]), impl="cpp")
    assert logprobs.item() == 0.0
    assert entropy.item() == 0.0


@pytest.mark.parametrize("dtype", HALVES)
def test_every_half_precision_number_is_read_as_torch_reads_it(instruction_set, dtype):
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    every = every[every.float().abs() < 1e4]
    logits = torch.cat([every, every.flip(0)[:7]]).repeat(2, 1)
    labels = torch.tensor([5, len(every) - 1])
    ours = token_logprobs(logits, labels, 500.0, impl="cpp")
    of_float = token_logprobs(logits.float(), labels, 500.0, impl="cpp")
    assert all(torch.equal(a, b) for a, b in zip(ours, of_float, strict=True))


@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_are_rounded_to_half_precision_once_and_to_nearest(instruction_set, dtype):
    """Normal numbers, denormals, what rounds to zero and what overflows."""
    scales = torch.tensor([2.0**-k for k in range(-17, 33)] + [float("nan"), -1.0])
    logits = normal(len(scales), 37).to(dtype)
    grads = []
    for x in (logits, logits.float()):
        x = x.clone().requires_grad_(True)
        token_logprobs(x, zeros(len(scales)), impl="cpp")[0].backward(scales)
        grads.append(x.grad)
    assert grads[0].dtype == dtype
    rounded = grads[1].to(dtype)
    assert torch.equal(grads[0].isnan(), rounded.isnan())
    assert torch.equal(grads[0].nan_to_num(nan=7.0), rounded.nan_to_num(nan=7.0))


def test_threads_do_not_change_a_bit():
    logits, labels = make(64, 5000)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(with_gradient(token_logprobs, logits, labels, impl="cpp"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def allocated(function):
    """Bytes of every allocation on the CPU while `function` runs."""
    gc.collect()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        function()
    records = profile.profiler.kineto_results.events()
    return [e.nbytes() for e in records if e.name() == "[memory]" and e.nbytes() > 0]


def test_no_temporary_of_the_size_of_the_logits():
    logits, labels = make(50, 4000)
    inner = torch.cat([logits, logits], dim=1)[:, 100:4100].requires_grad_(True)
    results = []
    sizes = allocated(lambda: results.extend(token_logprobs(inner, labels, impl="cpp")))
    assert sizes
    assert sum(sizes) < logits.nbytes / 10
    sizes = allocated(lambda: torch.autograd.grad(results[0].sum() + results[1].sum(), inner))
    assert sum(sizes) < 1.1 * logits.nbytes


@pytest.mark.parametrize("impl", KERNELS)
def test_inplace_backward_writes_the_same_gradient_over_the_logits(impl):
    source, labels = make(7, 1500)
    source.requires_grad_(True)
    plain_way = with_gradient(token_logprobs, source.detach() * 1.0, labels, impl=impl)
    big = (source * 1.0).repeat(1, 2)
    logits = big[:, 700:2200]
    expected = torch.cat([source, source], dim=1)[:, 700:2200].detach()
    plain_way = with_gradient(token_logprobs, expected, labels, impl=impl)
    results = token_logprobs(logits, labels, impl=impl, inplace_backward=True)
    assert torch.equal(logits.detach(), expected)
    weights = row_weights(7)
    loss = ((results[0] + 0.3 * results[1]) * weights).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient, plain_way[2])
    assert gradient.data_ptr() == logits.data_ptr()
    assert torch.equal(big[:, :700].detach(), source[:, :700].detach())


@pytest.mark.parametrize("impl", KERNELS)
def test_inplace_backward_is_noticed_by_whoever_kept_the_logits(impl):
    source = normal(2, 6).requires_grad_(True)
    logits = source * 1.0
    logprobs, _ = token_logprobs(logits, zeros(2), impl=impl, inplace_backward=True)
    squares = (logits * logits).sum()
    torch.autograd.grad(logprobs.sum(), logits, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squares.backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logprobs.sum().backward()


def test_inplace_backward_reaches_the_weights_of_a_head():
    hidden, labels = normal(9, 4), make(9, 11)[1]
    grads = []
    for inplace in (False, True):
        weight = normal(11, 4, seed=1).requires_grad_(True)
        logits = torch.nn.functional.linear(hidden, weight)
        logprobs, _ = token_logprobs(logits, labels, impl="cpp", inplace_backward=inplace)
        logprobs.sum().backward()
        grads.append(weight.grad)
    assert torch.equal(*grads)


def test_inplace_backward_is_refused_where_it_would_spoil_something():
    leaf = normal(3, 4).requires_grad_(True)
    for logits in (leaf, leaf.view(6, 2)):
        with pytest.raises(ValueError, match="leaf"):
            token_logprobs(logits, zeros(len(logits)), inplace_backward=True)
    expanded = (leaf * 1.0)[:1].expand(3, 4)
    with pytest.raises(ValueError, match="overlap"):
        token_logprobs(expanded, zeros(3), inplace_backward=True)


def test_inplace_backward_is_a_permission_and_no_demand():
    source = normal(3, 4).requires_grad_(True)
    logits = source * 1.0
    logprobs, _ = token_logprobs(logits, zeros(3), impl="reference", inplace_backward=True)
    torch.autograd.grad(logprobs.sum(), logits)
    assert torch.equal(logits, source)
    # Nothing to give up where no gradient is asked for.
    token_logprobs(source.detach(), zeros(3), impl="cpp", inplace_backward=True)


def test_results_may_be_changed_in_place_before_the_backward():
    logits = normal(2, 9).requires_grad_(True)
    logprobs, entropy = token_logprobs(logits, zeros(2), impl="cpp")
    logprobs.mul_(2.0)
    entropy.zero_()
    logprobs.sum().backward()
    exact = logits.detach().double().requires_grad_(True)
    (2.0 * plain(exact, zeros(2))[0]).sum().backward()
    assert (logits.grad - exact.grad).abs().max() < 1e-6


@pytest.mark.parametrize("impl", KERNELS)
def test_a_second_derivative_is_an_error_and_not_zero(impl):
    logits = normal(2, 5).requires_grad_(True)
    logprobs, _ = token_logprobs(logits, zeros(2), impl=impl)
    (gradient,) = torch.autograd.grad(logprobs.sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative; impl='reference' has one"):
        gradient.square().sum().backward()


def test_auto_takes_cpp_on_the_cpu():
    logits, labels = make(3, 50)
    logits.requires_grad_(True)
    ours = token_logprobs(logits, labels)
    cpp = token_logprobs(logits, labels, impl="cpp")
    assert all(torch.equal(a, b) for a, b in zip(ours, cpp, strict=True))
    assert "token_logprobs" in type(ours[0].grad_fn).__name__


def block(**changes):
    rows = {"logits": torch.zeros(3, 4), "labels": zeros(3)}
    numbers = {"first": 0, "vocabulary": 4, "temperature": 1.0}
    return native_logprobs.Block(**{**rows, **numbers, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"logits": torch.zeros(4, 3).t()},
        {"logits": torch.zeros(3, 4).double()},
        {"logits": torch.zeros(3, 4, 1)},
        {"logits": torch.zeros(3, 4, device="meta")},
        {"labels": zeros(2)},
        {"labels": zeros(6)[::2]},
        {"labels": zeros(3).int()},
        {"first": 1},
        {"first": -1},
    ],
)
def test_no_address_of_a_wrong_block_leaves_python(changes):
    spoilt = block(**changes)
    outputs = torch.zeros(3), torch.zeros(3), torch.zeros(3, 4)
    with pytest.raises(ValueError, match="logprobs"):
        native_logprobs.BLOCKS.forward(spoilt, None, *outputs)
    with pytest.raises(ValueError, match="logprobs"):
        native_logprobs.BLOCKS.backward(spoilt, outputs[2], None, None, torch.zeros(3, 4))


def test_no_address_of_wrong_results_leaves_python():
    good = torch.zeros(3), torch.zeros(3), torch.zeros(3, 4)
    for i, bad in ((0, torch.zeros(2)), (1, torch.zeros(3).double()), (2, torch.zeros(3, 3))):
        given = [*good[:i], bad, *good[i + 1 :]]
        with pytest.raises(ValueError, match="logprobs"):
            native_logprobs.BLOCKS.forward(block(), None, *given)
    with pytest.raises(ValueError, match="state"):
        native_logprobs.BLOCKS.forward(block(vocabulary=8), None, *good)
    with pytest.raises(ValueError, match="state"):
        native_logprobs.BLOCKS.forward(block(vocabulary=8), torch.zeros(3, 4), *good)
    for target in (torch.zeros(3, 5), torch.zeros(4, 3).t(), torch.zeros(1, 4).expand(3, 4)):
        with pytest.raises(ValueError, match="gradient"):
            native_logprobs.BLOCKS.backward(block(), good[2], None, None, target)


def test_the_torch_operation_passes_opcheck():
    for rows, vocabulary in ((0, 4), (3, 5)):
        logits, labels = make(rows, vocabulary)
        torch.library.opcheck(
            torch.ops.fairlead_kernels.token_logprobs.default,
            (logits.requires_grad_(True), labels, 0.7, False),
        )
        torch.library.opcheck(
            torch.ops.fairlead_kernels.token_logprobs_backward.default,
            (torch.ones(rows), None, logits.detach(), labels, torch.ones(rows, 4), 0.7),
        )


def test_torch_compile_goes_through_without_a_break():
    source, labels = make(5, 60)
    source.requires_grad_(True)

    def loss(x):
        logprobs, entropy = token_logprobs(x * 1.0, labels, 0.7, inplace_backward=True)
        return (logprobs + 0.1 * entropy).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    (ours,) = torch.autograd.grad(compiled(source), source)
    (eager,) = torch.autograd.grad(loss(source), source)
    assert torch.equal(ours, eager)
