"""Compiles every Triton kernel for a GPU that need not be here, and says what each takes of it.

    python tests/kernels/compile_triton.py 90      # the compute capability, without its dot

Run in a process of its own, without TRITON_INTERPRET. Prints JSON: by kernel, a list of registers a
thread, bytes of stack a thread (spilled registers) and bytes of shared memory.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from attention import case
from cases import normal, prefix_mask
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from fairlead_kernels.decode_attention import LARGEST_GROUP
from fairlead_kernels.dispatch import registry

FOUND: dict[str, list[dict[str, int]]] = {}
FLOATS = (torch.float32, torch.bfloat16)


class Absent:
    """A driver of a GPU that is not here, as far as compiling asks one."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


def usage(cubin: bytes) -> dict[str, int]:
    """What the assembler says of a compiled kernel."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    numbers = dict(re.findall(r"(REG|STACK):(\d+)", said))
    return {"registers": int(numbers["REG"]), "stack": int(numbers["STACK"])}


def compiled(run: Any) -> Any:
    """`JITFunction.run` that compiles and does not launch."""

    def instead(self: Any, *args: Any, grid: Any, warmup: bool, **more: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **more)
        name = f"{self.fn.__module__.rpartition('.')[2]}.{self.fn.__name__}"
        taken = {**usage(kernel.asm["cubin"]), "shared": kernel.metadata.shared}
        if taken not in FOUND.setdefault(name, []):
            FOUND[name].append(taken)
        return kernel

    return instead


def call(op: str, *args: Any) -> None:
    """Call the implementation, and its gradient where it has one."""
    (function,) = [one.function for one in registry._implementations[op] if one.name == "triton"]
    results = function(*args)
    first = results if isinstance(results, torch.Tensor) else results[0]
    if first.requires_grad:
        first.sum().backward()


def credit(rows: int, width: int) -> None:
    """Rewards, advantages, whitening and losses."""
    mask = prefix_mask(torch.arange(rows) % (width + 1), width)
    one, two, three = (normal(rows, width, seed=i) for i in range(3))
    scores = normal(rows)
    for given in (("k1", None, None), ("k3", None, one), ("k1", three, None)):
        call("kl_rewards", one, two, scores, mask, 0.1, *given)
        call("kl_gae_whiten", one, two, scores, three, mask, 0.1, 0.99, 0.95, *given)
    call("gae", one, two, mask, 0.99, 0.95)
    call("whiten", one, mask, True, 1e-8)
    call("whiten", one, mask, False, 1e-8)
    for op, clip in (("ppo_policy_loss", 0.2), ("ppo_value_loss", 0.2), ("ppo_value_loss", None)):
        call(op, one.requires_grad_(), two, three, mask, clip)


def words(rows: int, vocabulary: int) -> None:
    """Log-probs and draws."""
    labels = torch.arange(rows) % vocabulary
    u = torch.rand(rows, dtype=torch.float64)
    for dtype in FLOATS:
        logits = torch.empty(rows, vocabulary, dtype=dtype)
        for how in ((1.0, 0, 1.0), (0.7, 5, 0.9), (1.3, 0, 0.9), (0.0, 0, 1.0)):
            call("sample", logits, u, *how)
        call("token_logprobs", logits.requires_grad_(), labels, 0.7)
        hidden = torch.empty(rows, 8, dtype=dtype, requires_grad=True)
        weight = torch.empty(vocabulary, 8, dtype=dtype, requires_grad=True)
        call("linear_logprobs", hidden, weight, labels, 0.7, None, 1 << 20)


def attention(heads: int, shared: int, dim: int, positions: int) -> None:
    """Decoding."""
    for dtype in FLOATS:
        if heads // shared * dim * dtype.itemsize > LARGEST_GROUP:
            continue  # it says that it cannot
        query, keys, values, lengths = case(3, heads, shared, positions, dim)
        wide = (one.to(dtype) for one in (query, keys, values))
        call("decode_attention", *wide, lengths, 0.3)


def main(capability: int) -> None:
    driver.set_active(Absent(capability))
    JITFunction.run = compiled(JITFunction.run)
    for width in (5, 1024):
        credit(16, width)
    words(8, 131_072)
    for heads, shared, dim in ((4, 4, 64), (32, 4, 64), (4, 1, 128), (16, 1, 128), (32, 1, 128)):
        attention(heads, shared, dim, 400)
    index = torch.arange(5)
    call("philox_uniform", 2**64 - 3, 3, index, index)
    print(json.dumps(FOUND))


if __name__ == "__main__":
    main(int(sys.argv[1]))
