"""Log-probabilities: from logits, and from hidden states without the logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fairlead_kernels.bench.cases.inputs import normal
from fairlead_kernels.bench.workload import Baseline, Cost, Inputs, Outputs, Shape, Workload, wide

__all__ = ["WORKLOADS"]


def _labels(rows: int, vocabulary: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, vocabulary, (rows,), generator=generator, device=generator.device)


def _logits(shape: Shape, dtype: torch.dtype, generator: torch.Generator, backward: bool) -> Inputs:
    rows, vocabulary = shape
    kwargs = {
        "logits": normal(rows, vocabulary, dtype=dtype, generator=generator).mul_(2),
        "labels": _labels(rows, vocabulary, generator),
    }
    if not backward:
        return Inputs(kwargs)
    upstream = {"logprobs": normal(rows, dtype=torch.float32, generator=generator)}
    return Inputs(kwargs, upstream, ("logits",))


def _eager(logits: Tensor, labels: Tensor) -> Tensor:
    logprobs = torch.log_softmax(logits, dim=-1, dtype=wide(logits))
    return logprobs.gather(1, labels.unsqueeze(1)).squeeze(1)


def _plain(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logprobs = torch.log_softmax(logits, dim=-1, dtype=wide(logits))
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return logprobs.gather(1, labels.unsqueeze(1)).squeeze(1), entropy


def _cost(inputs: Inputs) -> Cost:
    logits = inputs.kwargs["logits"]
    # Forward and backward each read the logits, and the backward writes their gradient.
    passes = 3 if inputs.leaves else 1
    results = 16 * logits.shape[0]
    return Cost(passes * logits.numel() * logits.element_size() + results, 5 * logits.numel())


def _within(vocabulary: int, outputs: Outputs) -> list[str]:
    problems = []
    if bool((outputs["logprobs"] > 0).any()):
        problems.append("a log-probability is above 0")
    if "entropy" in outputs:
        entropy = outputs["entropy"].double()
        if bool(((entropy < 0) | (entropy > math.log(vocabulary))).any()):
            problems.append("an entropy is not in [0, log V]")
    return problems


def _linear(shape: Shape, dtype: torch.dtype, generator: torch.Generator, backward: bool) -> Inputs:
    rows, width, vocabulary = shape
    kwargs = {
        "hidden": normal(rows, width, dtype=dtype, generator=generator),
        # Logits of about N(0, 4), as a language model's.
        "weight": normal(vocabulary, width, dtype=dtype, generator=generator).mul_(
            2 / math.sqrt(width)
        ),
        "labels": _labels(rows, vocabulary, generator),
    }
    if not backward:
        return Inputs(kwargs)
    upstream = {"logprobs": normal(rows, dtype=torch.float32, generator=generator)}
    return Inputs(kwargs, upstream, ("hidden", "weight"))


def _linear_eager(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return _eager(hidden @ weight.t(), labels)


def _linear_plain(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return _plain(hidden @ weight.t(), labels)


def _linear_cost(inputs: Inputs) -> Cost:
    hidden, weight = inputs.kwargs["hidden"], inputs.kwargs["weight"]
    # The floor forms the logits once; recomputing them in the backward is a choice.
    passes = 3 if inputs.leaves else 1
    moved = (hidden.numel() + weight.numel()) * hidden.element_size()
    flops = 2 * hidden.numel() * weight.shape[0]
    moved = (2 if inputs.leaves else 1) * moved + 16 * hidden.shape[0]
    return Cost(moved, passes * flops, products=True)


def _liger(inputs: Inputs) -> Callable[[], object]:
    from liger_kernel.transformers import LigerCrossEntropyLoss

    # It writes the gradient over the logits, so that it gets a copy of its own.
    own = inputs.kwargs["logits"].detach().clone()
    labels, upstream = inputs.kwargs["labels"], inputs.upstream["logprobs"]
    loss = LigerCrossEntropyLoss(reduction="none")

    def call() -> object:
        logits = own.detach().requires_grad_()
        return torch.autograd.grad(loss(logits, labels), [logits], [upstream])

    call()
    return call


def _liger_linear(inputs: Inputs) -> Callable[[], object]:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
    leaves = [inputs.kwargs[name].detach().requires_grad_() for name in ("weight", "hidden")]

    def call() -> object:
        return torch.autograd.grad(loss(*leaves, inputs.kwargs["labels"]), leaves)

    call()
    return call


# Of a vocabulary as large: more rows are more of the same, and float64 products of them all take
# longer than everything that is timed.
_GATED_ROWS = 512
_BOTH = ((False, "forward"), (True, "forward+backward"))

WORKLOADS = (
    *(
        Workload(
            op="token_logprobs",
            name=name,
            axes=("N", "V"),
            shapes={"cpu": ((2048, 32000),), "cuda": ((8192, 151936),)},
            make=partial(_logits, backward=backward),
            outputs=("logprobs", "entropy"),
            eager=_eager,
            plain=_plain,
            cost=_cost,
            cuda_dtype=torch.bfloat16,
            split=("logits", "labels"),
            check=lambda inputs, outputs: _within(inputs.kwargs["logits"].shape[1], outputs),
            swept=("N", "V"),
            baselines=(Baseline("liger_kernel", _liger),) if backward else (),
        )
        for backward, name in _BOTH
    ),
    *(
        Workload(
            op="linear_logprobs",
            name=name,
            axes=("N", "D", "V"),
            shapes={"cpu": ((4096, 768, 50257),), "cuda": ((8192, 2048, 151936),)},
            make=partial(_linear, backward=backward),
            outputs=("logprobs", "entropy"),
            eager=_linear_eager,
            plain=_linear_plain,
            cost=_linear_cost,
            cuda_dtype=torch.bfloat16,
            split=("hidden", "labels"),
            check=lambda inputs, outputs: _within(inputs.kwargs["weight"].shape[0], outputs),
            gated=lambda shape: (min(shape[0], _GATED_ROWS), *shape[1:]),
            swept=("N", "V"),
            baselines=(
                (Baseline("liger_kernel", _liger_linear, "one summed loss, no log-probs"),)
                if backward
                else ()
            ),
        )
        for backward, name in _BOTH
    ),
)
