"""What is written once of a torch operation, and every Triton kernel as one."""

import dataclasses

import pytest
import torch
from attention import case
from cases import INTERPRETED, normal, prefix_mask
from torch.utils import _pytree as pytree

import fairlead_kernels as kernels
from fairlead_kernels import list_implementations
from fairlead_kernels._torch_op import TorchOp, unlike
from fairlead_kernels.dispatch import registry
from fairlead_kernels.triton import launcher
from fairlead_kernels.whiten import OPERATION as WHITEN

DEVICE = "cpu" if INTERPRETED else "cuda"
OPS = torch.ops.fairlead_kernels

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.skipif(
        not (INTERPRETED or torch.cuda.is_available()), reason="triton is not interpreted, no GPU"
    ),
]


@pytest.fixture(autouse=True)
def fresh_graphs():
    """torch.compile gives up on a function that it has compiled for many inputs."""
    torch.compiler.reset()


def floats(count, *shape):
    return [normal(*shape, seed=i) for i in range(count)]


def mask_of(rows, width):
    return prefix_mask(torch.arange(rows) % (width + 1), width)


# The arguments that an implementation gets, for a number of rows; the first tensor is floating but
# for philox_uniform.
ARGUMENTS = {
    "token_logprobs": lambda n: (normal(n, 7), torch.arange(n) % 7, 0.7),
    "linear_logprobs": lambda n: (
        *(normal(n, 4), normal(128, 4, seed=1), torch.arange(n), 0.7),
        *(normal(128, seed=2), 8_000),  # of 14 rows, chunks of 7 by 64
    ),
    "kl_rewards": lambda n: (
        *(*floats(2, n, 5), normal(n), mask_of(n, 5)),
        *(0.1, "k3", None, normal(n, 5, seed=4)),
    ),
    "gae": lambda n: (*floats(2, n, 5), mask_of(n, 5), 0.9, 0.95),
    "whiten": lambda n: (normal(n, 5), mask_of(n, 5), True, 1e-8),
    "kl_gae_whiten": lambda n: (
        *(*floats(2, n, 5), normal(n), normal(n, 5, seed=3), mask_of(n, 5)),
        *(0.1, 0.9, 0.95, "k1", normal(n, 5, seed=4), None),
    ),
    "ppo_policy_loss": lambda n: (*floats(3, n, 5), mask_of(n, 5), 0.2),
    "ppo_value_loss": lambda n: (*floats(3, n, 5), mask_of(n, 5), None if n == 3 else 0.2),
    "sample": lambda n: (normal(n, 33), torch.rand(n).double(), 0.7, 5, 0.9),
    "philox_uniform": lambda n: (2**64 - 3, 3, torch.arange(n), torch.arange(n) * 7),
    "decode_attention": lambda n: (normal(4, n, 8).transpose(0, 1), *case(n, 4, 2, 20, 8)[1:], 0.3),
}
# What the torch operation takes after, or instead of, the arguments above.
TORCH_ARGUMENTS = {
    "token_logprobs": lambda *args: (*args, False),
    "linear_logprobs": lambda hidden, weight, labels, temperature, bias, memory: (
        *(hidden, weight, bias, labels, temperature, memory, True),
    ),
    "ppo_policy_loss": lambda *args: (*args, True),
    "ppo_value_loss": lambda *args: (*args, True),
    "philox_uniform": lambda seed, *args: (seed - 2**64, *args),
}
DIFFERENTIABLE = ("token_logprobs", "linear_logprobs", "ppo_policy_loss", "ppo_value_loss")


def arguments(op, rows):
    return [one.to(DEVICE) if isinstance(one, torch.Tensor) else one for one in ARGUMENTS[op](rows)]


def tensors(results):
    """The tensors of an operation's results, its metrics among them."""
    leaves = pytree.tree_leaves(results)
    return pytree.tree_leaves([vars(x) if dataclasses.is_dataclass(x) else x for x in leaves])


def through_triton(op, *args):
    """The implementation as the public function calls it, in the middle of a graph."""
    at = next(i for i, one in enumerate(args) if isinstance(one, torch.Tensor))
    args = [*args[:at], args[at] * 1, *args[at + 1 :]]
    return registry.call(op, "triton", *args)


def test_every_triton_kernel_is_here():
    assert set(ARGUMENTS) == {row.op for row in list_implementations() if row.impl == "triton"}


@pytest.mark.parametrize("rows", [0, 3, 14])
@pytest.mark.parametrize("op", ARGUMENTS)
def test_the_torch_operation_passes_opcheck(op, rows):
    args = arguments(op, rows)
    args = TORCH_ARGUMENTS.get(op, lambda *same: same)(*args)
    if op in DIFFERENTIABLE:
        args[0].requires_grad_()
    torch.library.opcheck(getattr(OPS, f"triton_{op}").default, tuple(args))


@pytest.mark.parametrize("op", ARGUMENTS)
def test_torch_compile_goes_through_without_a_break(op):
    args = arguments(op, 6)
    graph = torch.compile(through_triton, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        compiled, plain = tensors(graph(op, *args)), tensors(through_triton(op, *args))
    assert len(compiled) == len(plain) > 0
    for ours, expected in zip(compiled, plain, strict=True):
        assert torch.equal(ours.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_torch_compile_goes_through_the_gradient_as_well(op):
    first, *others = arguments(op, 6)

    def loss(first):
        return 0.5 * through_triton(op, first, *others)[0].sum()

    gradients = []
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        leaf = first.clone().requires_grad_()
        function(leaf).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)
    assert bool(gradients[0].any())


def test_a_graph_needs_no_call_before_it():
    """The kernel's module is imported when the graph runs, not when it is traced."""
    fresh = WHITEN.define("fresh_whiten", launcher("whiten:whiten"))
    args = arguments("whiten", 3)
    compiled = torch.compile(lambda *args: fresh(*args), backend="eager", fullgraph=True)
    assert torch.equal(compiled(*args), kernels.whiten(*args[:2], impl="triton"))


def test_an_operation_asks_its_check_before_every_launch():
    launched = []

    def launch(x, mask):
        launched.append(x)
        return x.clone()

    operation = TorchOp(
        "(Tensor x, Tensor mask) -> Tensor",
        lambda x, mask: torch.empty_like(x),
        lambda x, mask: unlike(x, mask=mask),
    )
    run = operation.define("checked_clone", launch)
    x, mask = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(run(x, mask), x)
    for wrong in ((x, mask.float()), (x, mask[:1]), (x.t(), mask.t()), (x.double(), mask)):
        with pytest.raises(ValueError, match=r"^checked_clone: .* must be "):
            run(*wrong)
    assert len(launched) == 1
