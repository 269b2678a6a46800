"""torch.compile goes through every public function, in one graph, and changes no result."""

import dataclasses
import os
import shutil
from types import ModuleType

import pytest
import torch
from attention import case
from cases import CPU_IMPLS, INTERPRETED, needs_native, normal, prefix_mask
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils import _pytree as pytree

import fairlead_kernels as kernels
from fairlead_kernels import native
from fairlead_kernels.dispatch import registry

TRITON = pytest.param(
    "triton",
    marks=[
        pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
        pytest.mark.skipif(
            not (INTERPRETED or torch.cuda.is_available()), reason="not interpreted, no GPU"
        ),
    ],
)
WITHOUT_TRITON = ["auto", *CPU_IMPLS]
WITH_TRITON = {row.op for row in kernels.list_implementations() if row.impl == "triton"}
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="inductor needs a C++ compiler"
)

# Functions of tensors and the implementation, whose results are those of a public function.
CALLS = {
    "token_logprobs": lambda x, label, impl: kernels.token_logprobs(x, label, 0.7, impl),
    "linear_logprobs": lambda x, weight, label, impl: kernels.linear_logprobs(
        x, weight, label, 0.7, None, impl
    ),
    "kl_rewards": lambda x, y, mask, impl: kernels.kl_rewards(
        x, y, y[:, 0], mask, 0.1, "k3", token_scores=y, impl=impl
    ),
    "gae": lambda x, y, mask, impl: kernels.gae(x, y, mask, 0.9, 0.95, impl),
    "whiten": lambda x, mask, impl: kernels.whiten(x, mask, impl=impl),
    "kl_gae_whiten": lambda x, y, mask, impl: kernels.kl_gae_whiten(
        x, y, y[:, 0], y, mask, 0.1, 0.9, impl=impl
    ),
    "ppo_policy_loss": lambda x, y, mask, impl: kernels.ppo_policy_loss(x, y, y, mask, impl=impl),
    "ppo_value_loss": lambda x, y, mask, impl: kernels.ppo_value_loss(
        x, y, 2 * y, mask, 0.2, impl=impl
    ),
    "sample": lambda x, u, impl: kernels.sample(x, u, 0.7, 5, 0.9, impl),
    "philox_uniform": lambda x, y, impl: kernels.philox_uniform(2**64 - 3, 3, x, y, impl),
    "decode_attention": lambda *args, impl: kernels.decode_attention(*args, impl=impl),
    "packed_linear": lambda x, y, impl: kernels.packed_linear(x, y, 9, impl=impl),
    "add_layer_norm": lambda *args, impl: kernels.add_layer_norm(*args, impl=impl),
    "gelu": lambda x, impl: kernels.gelu(x, impl),
    "ragged_attention": lambda *args, impl: kernels.ragged_attention(
        *args, len(args[0]), impl=impl
    ),
}
DIFFERENTIABLE = [op for op in CALLS if op not in ("sample", "philox_uniform", "decode_attention")]


def tensors_for(op, rows=4, width=6):
    """What the function of `op` in `CALLS` takes; sizes that no other dimension has."""
    x, y = normal(rows, width), normal(rows, width, seed=1)
    mask = prefix_mask(torch.arange(rows) % (width + 1), width)
    index = torch.arange(rows)
    return {
        "token_logprobs": (x, index % width),
        "linear_logprobs": (x, normal(129, width, seed=1), index),
        "whiten": (x, mask),
        "sample": (normal(rows, 40 * width), torch.rand(rows).double()),
        "philox_uniform": (index, 7 * index),
        "decode_attention": case(rows, 4, 2, width, 8),
        "packed_linear": (x, kernels.pack_weight(normal(9, width, seed=1))),
        "add_layer_norm": (x, y, *normal(2, width, seed=2)),
        "gelu": (x,),
        "ragged_attention": (
            *(normal(rows, 2, 8, seed=seed) for seed in range(3)),
            torch.tensor([0, 1, rows]),
        ),
    }.get(op, (x, y, mask))


def tensors(results):
    """The tensors of a result, its metrics among them."""
    leaves = pytree.tree_leaves(results)
    return pytree.tree_leaves([vars(x) if dataclasses.is_dataclass(x) else x for x in leaves])


def compiled(function, backend="aot_eager", **options):
    """The function in one graph, or an error; with graphs of its own."""
    torch.compiler.reset()
    return torch.compile(function, backend=backend, fullgraph=True, **options)


def assert_same(ours, expected):
    ours, expected = tensors(ours), tensors(expected)
    assert len(ours) == len(expected) > 0
    for one, other in zip(ours, expected, strict=True):
        assert torch.equal(one, other)


def test_every_public_function_is_here():
    assert set(CALLS) == set(registry.operations())


@pytest.mark.parametrize("impl", WITHOUT_TRITON)
@pytest.mark.parametrize("op", CALLS)
def test_a_function_compiles_in_one_graph_and_gives_the_same(op, impl):
    compiles_and_gives_the_same(op, impl)


@pytest.mark.parametrize("impl", [TRITON])
@pytest.mark.parametrize("op", sorted(WITH_TRITON))
def test_a_triton_kernel_compiles_in_one_graph_and_gives_the_same(op, impl):
    compiles_and_gives_the_same(op, impl)


def compiles_and_gives_the_same(op, impl):
    device = "cuda" if impl == "triton" and not INTERPRETED else "cpu"
    args = [one.to(device) for one in tensors_for(op)]

    def call(*args):
        return CALLS[op](*args, impl=impl)

    with torch.no_grad():
        assert_same(compiled(call)(*args), call(*args))


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_the_gradient_is_the_same(op):
    """Of a kernel that has one, or of the reference, which `auto` then takes."""
    first, *others = tensors_for(op)

    def loss(first):
        return tensors(CALLS[op](first, *others, impl="auto"))[0].pow(3).sum()

    gradients = []
    for function in (loss, compiled(loss)):
        leaf = first.clone().requires_grad_()
        function(leaf).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)
    assert bool(gradients[0].any())


@needs_native
@pytest.mark.parametrize("op", CALLS)
def test_a_graph_with_a_kernel_serves_other_shapes_too(op):
    def call(*args):
        return CALLS[op](*args, impl="cpp")

    counter = CompileCounterWithBackend("aot_eager")
    graph = compiled(call, counter, dynamic=True)
    for rows, width in ((4, 6), (5, 7), (13, 10)):
        args = tensors_for(op, rows, width)
        assert_same(graph(*args), call(*args))
    # Where a mask's last dimension or a default argument is special, torch compiles once more.
    assert counter.frame_count <= 2


@pytest.mark.parametrize("impl", CPU_IMPLS)
def test_an_iteration_that_goes_up_does_not_compile_again(impl):
    index = torch.arange(3)

    def draw(iteration):
        return kernels.philox_uniform(7, iteration, index, index, impl)

    counter = CompileCounterWithBackend("aot_eager")
    graph = compiled(draw, counter)
    for iteration in range(3, 9):
        assert torch.equal(graph(iteration), draw(iteration))
    assert counter.frame_count == 2  # the first as a constant, all others as a variable


@needs_compiler
@pytest.mark.slow
def test_inductor_compiles_them_one_after_the_other():
    """From the draw to the losses, with torch's own compiled code around the kernels."""
    logits, values = normal(4, 6, 33), normal(4, 6, seed=1)
    mask, index = prefix_mask([6, 0, 2, 3], 6), torch.arange(24)

    def step(logits, values):
        u = kernels.philox_uniform(7, 3, index // 6, index % 6)
        token, drawn, _ = kernels.sample(logits.detach().view(24, 33), u)
        logprobs, _ = kernels.token_logprobs(logits.view(24, 33) * 1.5, token)
        logprobs, old = logprobs.view(4, 6), drawn.view(4, 6)
        _, _, advantages, returns = kernels.kl_gae_whiten(
            old, old * 1.1, values[:, 0], values, mask, 0.1
        )
        policy, weight, _ = kernels.ppo_policy_loss(logprobs, old, advantages, mask)
        value, _, _ = kernels.ppo_value_loss(values, values + 0.1, returns, mask)
        return (policy + value) / weight, token

    logits.requires_grad_()
    losses, gradients, drawn = [], [], []
    for function in (step, compiled(step, "inductor")):
        loss, token = function(logits, values)
        losses.append(loss.detach())
        gradients.append(*torch.autograd.grad(loss, logits))
        drawn.append(token)
    assert torch.equal(*drawn)
    # inductor fuses, and so rounds in other places.
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


# Calls with values that are errors outside a graph, with what a graph makes of them.
BEYOND = {
    "philox_uniform": (
        lambda index: kernels.philox_uniform(7, 3, index - 1, index << 33),
        "sequence must be",
    ),
    "sample": (lambda index: kernels.sample(torch.eye(3), index.double()), "u must be"),
    "gae": (
        lambda index: kernels.gae(torch.eye(3), torch.eye(3), index.expand(3, 3) > 0),
        "contiguous prefix",
    ),
    "kl_gae_whiten": (
        lambda index: kernels.kl_gae_whiten(
            *(torch.eye(3), torch.eye(3), torch.ones(3), torch.eye(3)), index.expand(3, 3) > 0, 0.1
        ),
        "contiguous prefix",
    ),
    "decode_attention": (
        lambda index: kernels.decode_attention(
            *(torch.ones(3, 1, 8), torch.ones(3, 1, 2, 8), torch.ones(3, 1, 2, 8)),
            *(3 * index - 1, 0.5, "reference"),
        ),
        "lengths must be",
    ),
}


@pytest.mark.parametrize("op", BEYOND)
def test_a_graph_does_not_look_at_values(op):
    call, error = BEYOND[op]
    index = torch.arange(3)
    with pytest.raises(ValueError, match=error):
        call(index)
    graph = compiled(call)
    assert all(bool(one.isfinite().all()) for one in tensors(graph(index)))


def test_a_length_outside_the_cache_is_taken_for_the_nearest_in_a_graph():
    query, keys, values, _ = case(2, 2, 2, 5, 8)

    def attend(lengths):
        return kernels.decode_attention(query, keys, values, lengths, impl="reference")

    graph = compiled(attend)
    assert torch.equal(graph(torch.tensor([-1, 9])), attend(torch.tensor([0, 5])))


@needs_native
def test_what_a_kernel_checks_itself_is_an_error_in_a_graph_too():
    query, keys, values, _ = case(2, 2, 2, 5, 8)

    def attend(lengths):
        return kernels.decode_attention(query, keys, values, lengths, impl="cpp")

    with pytest.raises(ValueError, match="lengths must be within"):
        compiled(attend)(torch.tensor([-1, 9]))


def test_in_a_graph_philox_takes_the_low_bits():
    def draw(sequence, position):
        return kernels.philox_uniform(7, 3, sequence, position)

    sequence, position = torch.arange(3), torch.arange(3)
    graph = compiled(draw)
    assert torch.equal(graph(sequence, position + 2**32), draw(sequence, position))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: kernels.whiten(x, x), "the mask must be boolean, got .2, 3. torch.float32"),
        (lambda x: kernels.whiten(x, x > 0, eps=-1.0), "eps must not be negative, got -1.0"),
        (lambda x: kernels.whiten(x, x > 0, impl="fats"), "registered: reference, "),
    ],
)
def test_what_is_wrong_beside_the_values_is_told_while_it_compiles(call, message):
    with pytest.raises(torch._dynamo.exc.Unsupported, match=message):
        compiled(call)(normal(2, 3))


def without_cuda():
    module, error = native._load()
    if module is None:
        return module, error
    smaller = ModuleType("_native")
    kept = {name: one for name, one in vars(module).items() if not name.endswith("_cuda")}
    vars(smaller).update(kept)
    return smaller, error


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("there", ["nothing", "no CUDA part"])
def test_auto_compiles_where_native_code_is_missing(there, gradient, monkeypatch):
    """Then the reasons why kernels cannot run are formed in the graph's trace."""
    loaded = (None, "No module named '_native'") if there == "nothing" else without_cuda()
    monkeypatch.setattr(native, "_load", lambda: loaded)
    x, mask = tensors_for("whiten")
    x.requires_grad_(gradient)
    assert_same(compiled(kernels.whiten)(x, mask), kernels.whiten(x, mask))


def test_auto_compiles_with_a_plugins_kernel(monkeypatch):
    kept = {op: list(found) for op, found in registry._implementations.items()}
    monkeypatch.setattr(registry, "_implementations", kept)
    x, mask = tensors_for("whiten")
    graph = compiled(kernels.whiten)
    assert_same(graph(x, mask), kernels.whiten(x, mask))
    kernels.register_implementation(
        *("whiten", "sevens", lambda x, mask, shift_mean, eps: torch.full_like(x, 7.0)),
        available=lambda: None,
        supports=lambda x, *_: None if x.dim() == 2 else "two dimensions",
        priority=1000,
        owner="acme",
    )
    assert_same(graph(x, mask), torch.full_like(x, 7.0))
    assert_same(graph(x[0], mask[0]), kernels.whiten(x[0], mask[0], impl="auto"))
