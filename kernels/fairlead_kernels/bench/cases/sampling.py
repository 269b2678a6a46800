"""Drawing tokens, and the uniform numbers for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fairlead_kernels.bench.cases.inputs import normal, uniform
from fairlead_kernels.bench.draws import judge_draws
from fairlead_kernels.bench.judge import Judge, Verdict
from fairlead_kernels.bench.workload import (
    Baseline,
    Cost,
    Function,
    Inputs,
    Outputs,
    Shape,
    Workload,
)

__all__ = ["WORKLOADS"]


def _make(
    shape: Shape,
    dtype: torch.dtype,
    generator: torch.Generator,
    scale: float,
    cut: dict[str, float],
) -> Inputs:
    rows, vocabulary = shape
    logits = normal(rows, vocabulary, dtype=dtype, generator=generator).mul_(scale)
    return Inputs({"logits": logits, "u": uniform(rows, generator=generator), **cut})


def _eager(logits: Tensor, u: Tensor, top_k: int = 0, top_p: float = 1.0) -> tuple[Tensor, Tensor]:
    """Draws with torch's own generator; `u` is not used."""
    if top_k:
        least = logits.topk(min(top_k, logits.shape[1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p < 1:
        ordered, index = logits.sort(descending=True)
        probabilities = ordered.float().softmax(dim=-1)
        excess = probabilities.cumsum(dim=-1) - probabilities >= top_p
        logits = logits.masked_fill(torch.zeros_like(excess).scatter(1, index, excess), -math.inf)
    probabilities = logits.float().softmax(dim=-1)
    token = torch.multinomial(probabilities, 1)
    return token.squeeze(1), probabilities.gather(1, token).log().squeeze(1)


def _softmax(inputs: Inputs) -> Callable[[], object]:
    logits = inputs.kwargs["logits"]
    return lambda: logits.softmax(dim=-1)


def _cost(inputs: Inputs) -> Cost:
    logits = inputs.kwargs["logits"]
    return Cost(logits.nbytes + 24 * logits.shape[0], 5 * logits.numel())


def _within(inputs: Inputs, outputs: Outputs) -> list[str]:
    problems = []
    if bool((outputs["logprob"] > 0).any()):
        problems.append("a log-probability is above 0")
    entropy, most = outputs["entropy"].double(), math.log(inputs.kwargs["logits"].shape[1])
    if bool(((entropy < 0) | (entropy > most)).any()):
        problems.append("an entropy is not in [0, log V]")
    return problems


def _make_philox(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    index = torch.arange(shape[0], device=generator.device)
    return Inputs({"seed": 7, "iteration": 3, "sequence": index // 64, "position": index % 64})


def _torch_rand(seed: int, iteration: int, sequence: Tensor, position: Tensor) -> Tensor:
    """As many numbers of torch's own generator, which are no function of a key."""
    return torch.rand(sequence.shape, dtype=torch.float64, device=sequence.device)


def _same_bits(workload: Workload, inputs: Inputs) -> Judge:
    """The numbers are pinned to the bit: the reference is the only right answer."""
    kwargs = inputs.kwargs
    exact: Tensor = workload.public()(**kwargs, impl="reference")

    def judge(function: Function) -> Verdict:
        actual = workload.call(function, inputs)["u"]
        if actual.shape == exact.shape and torch.equal(actual, exact):
            return Verdict((), 0.0, 0.0)
        same_shape = actual.shape == exact.shape
        error = float((actual - exact).abs().max()) if same_shape else math.nan
        return Verdict(("u has other bits than the reference",), error, 0.0)

    return judge


_CUTS: tuple[tuple[str, dict[str, float]], ...] = (
    ("", {}),
    ("top-p 0.9, ", {"top_p": 0.9}),
    ("top-k 50, ", {"top_k": 50}),
)

WORKLOADS = (
    *(
        Workload(
            op="sample",
            name=f"{said}{law}",
            axes=("B", "V"),
            shapes={"cpu": ((64, 50257),), "cuda": ((512, 131072),)},
            make=partial(_make, scale=scale, cut=cut),
            outputs=("token", "logprob", "entropy"),
            eager=_eager,
            cost=_cost,
            check=_within,
            judge=judge_draws,
            swept=("B", "V"),
            needs=tuple(cut),
            baselines=(Baseline("one softmax", _softmax, "draws nothing"),),
        )
        for said, cut in _CUTS
        for law, scale in (("N(0,1)", 1.0), ("4 N(0,1)", 4.0))
    ),
    Workload(
        op="philox_uniform",
        name="forward",
        axes=("B",),
        shapes={"cpu": ((4096,),), "cuda": ((65536,),)},
        make=_make_philox,
        outputs=("u",),
        eager=_torch_rand,
        cost=lambda inputs: Cost(24 * inputs.kwargs["sequence"].numel(), 0),
        dtypes=(torch.float64,),
        cuda_dtype=torch.float64,
        judge=_same_bits,
        swept=("B",),
    ),
)
