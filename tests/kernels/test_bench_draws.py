"""The sampler's gate."""

import math

import pytest
import torch
from benches import (
    find,
    make,
    reference,
    spoilt,
)

from fairlead_kernels.bench.draws import EDGE
from fairlead_kernels.bench.judge import judge_for
from fairlead_kernels.bench.workload import Inputs
from fairlead_kernels.token_logprobs import largest_entropy


def draw(logits, u, top_k=0, top_p=1.0):
    """A sampler in float32 weights: top-k, top-p, and the inverse of the distribution."""
    if top_k:
        least = logits.topk(min(top_k, logits.shape[1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p < 1:
        ordered, order = logits.softmax(1).double().sort(1, descending=True)
        out = torch.zeros_like(logits, dtype=torch.bool)
        out.scatter_(1, order, ordered.cumsum(1) - ordered >= top_p)
        logits = logits.masked_fill(out, -math.inf)
    logprobs = logits.log_softmax(1)
    running = logprobs.exp().double().cumsum(1)
    token = torch.searchsorted(running, (u * running[:, -1]).unsqueeze(1), right=True).squeeze(1)
    entropy = -(logprobs.exp() * logprobs.masked_fill(logprobs == -math.inf, 0)).sum(1)
    return token, logprobs.gather(1, token.unsqueeze(1)).squeeze(1), entropy


def cut(top_k=0, top_p=1.0, scale=1.0):
    """The sampler's workload with truncation, whether or not the library can do it yet."""
    workload = find("sample", "N(0,1)")
    kwargs = {**make(workload, shape=(200, 1500)).kwargs, "top_k": top_k, "top_p": top_p}
    return workload, Inputs({**kwargs, "logits": kwargs["logits"] * scale})


CUTS = [{}, {"top_p": 0.9}, {"top_k": 50}, {"top_k": 40, "top_p": 0.5}, {"top_p": 0.9, "scale": 4}]


@pytest.mark.parametrize("settings", CUTS)
def test_a_sampler_is_right_with_any_truncation(settings):
    workload, inputs = cut(**settings)
    verdict = judge_for(workload, inputs)(draw)
    assert verdict.problems == ()
    assert verdict.remark == ""


@pytest.mark.parametrize("settings", CUTS)
def test_a_draw_of_the_next_token_is_wrong(settings):
    workload, inputs = cut(**settings)

    def next_token(**kwargs):
        token, logprob, entropy = draw(**kwargs)
        return token.clone().index_add_(0, torch.tensor([3]), torch.tensor([1])), logprob, entropy

    problems = judge_for(workload, inputs)(next_token).problems
    assert problems[0] == "1 of 200 draws are not those of the sampler"


@pytest.mark.parametrize("settings", CUTS[1:])
def test_a_sampler_that_does_not_truncate_is_wrong(settings):
    workload, inputs = cut(**settings)
    whole = judge_for(workload, inputs)(lambda logits, u, **_: draw(logits, u))
    assert "draws are not those of the sampler" in whole.problems[0]
    # The log-probability must be that of the distribution drawn from.
    found = judge_for(workload, inputs)(
        lambda **kwargs: (draw(**kwargs)[0], *draw(kwargs["logits"], kwargs["u"])[1:])
    )
    assert [problem.split()[0] for problem in found.problems] == ["logprob", "entropy"]


def test_a_draw_within_rounding_of_an_edge_is_let_through_and_counted():
    # Two tokens of probability 1/2: their edge lies at 0.5.
    workload = find("sample", "N(0,1)")
    logits, entropy = torch.zeros(2, 2), torch.full((2,), largest_entropy(2))
    logprob = -entropy

    def verdict(off):
        u = torch.tensor([0.5 - off, 0.5 + off], dtype=torch.float64)
        judge = judge_for(workload, Inputs({"logits": logits, "u": u}))
        return judge(lambda **_: (torch.tensor([1, 0]), logprob, entropy))

    assert verdict(EDGE / 2).problems == ()
    assert verdict(EDGE / 2).remark == "2 draws within rounding of an edge"
    assert verdict(EDGE * 2).problems == ("2 of 2 draws are not those of the sampler",)


def test_a_token_that_is_none_is_wrong():
    workload, inputs = cut()
    rest = draw(**inputs.kwargs)[1:]
    for token in (torch.full((200,), 1500), torch.full((200,), -1), torch.zeros(200)):
        assert judge_for(workload, inputs)(lambda token=token, **_: (token, *rest)).problems


def test_uniform_numbers_are_right_to_the_bit():
    workload = find("philox_uniform")
    judge = judge_for(workload, make(workload))
    assert judge(reference(workload)).problems == ()
    assert judge(spoilt(workload, 0, lambda u: u + 2.0**-53)).problems
