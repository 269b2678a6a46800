"""The native rollout backend beside transformers' generate, on the same weights and prompts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from fairlead.benchmark.models import Size, causal, parameters
from fairlead.generation import GenerationRequest
from fairlead.generation.hf import HfBackend, HfConfig
from fairlead.generation.native import NativeBackend, NativeConfig
from fairlead.models import ready
from fairlead.strategy import SingleDevice


@dataclass(frozen=True)
class GenerateCase:
    """What is generated.

    Attributes:
        size: The model.
        rows: Prompts.
        prompt: Tokens each.
        response: Most tokens of a response.
        mean_length: Mean of geometric lengths, or None: all as long as allowed.
        device: Where.
        precision: ``float32`` or ``bfloat16``.
        rounds: Measurements of each, in turns.
    """

    size: Size
    rows: int
    prompt: int
    response: int
    mean_length: int | None
    device: str
    precision: str
    rounds: int


@dataclass(frozen=True)
class Throughput:
    """One provider's result.

    Attributes:
        provider: Who generated.
        tokens: Response tokens of a round, in the median.
        tokens_per_second: Medians over the rounds.
        slowest: The smallest of them.
        fastest: The largest.
    """

    provider: str
    tokens: float
    tokens_per_second: float
    slowest: float
    fastest: float


def compare(case: GenerateCase) -> Iterator[tuple[str, int, float]]:
    """Measure the providers in turns; yields (provider, response tokens, seconds).

    Both backends run the model as Fairlead makes it ready, generate on its own as transformers
    makes it. The first round warms up and is not yielded.
    """
    strategy = SingleDevice(case.device, case.precision)
    model: Any = ready(causal(case.size, 0, case.mean_length), strategy, trained=False)
    plain: Any = strategy.place(causal(case.size, 0, case.mean_length), trained=False)
    providers: dict[str, Callable[[GenerationRequest], int]] = {
        "native": _backend(NativeBackend(NativeConfig()), model),
        "hf backend": _backend(HfBackend(HfConfig()), model),
        "transformers generate": lambda request: _transformers(plain, request),
    }
    for number in range(case.rounds + 1):
        request = _request(case, number)
        for name, provider in providers.items():
            _wait(strategy)
            begun = time.perf_counter()
            with strategy.autocast(), torch.no_grad():
                tokens = provider(request)
            _wait(strategy)
            if number:
                yield name, tokens, time.perf_counter() - begun


def summary(results: list[tuple[str, int, float]]) -> list[Throughput]:
    """Return medians by provider, the first one measured first."""
    found = []
    for name in dict.fromkeys(name for name, _, _ in results):
        mine = [(tokens, tokens / seconds) for one, tokens, seconds in results if one == name]
        rates = [rate for _, rate in mine]
        tokens = statistics.median(count for count, _ in mine)
        middle = statistics.median(rates)
        found.append(Throughput(name, tokens, middle, min(rates), max(rates)))
    return found


def floor_seconds(case: GenerateCase, tokens: float, flops: float, copy: float) -> float:
    """Return the time that the arithmetic of a round takes at the machine's measured limits.

    Two operations a weight and token, for prompt and response; or, where few rows share a reading
    of the weights, that reading: once a step.

    Args:
        case: What is generated.
        tokens: Response tokens.
        flops: Of matrix products, a second.
        copy: Bytes read and written a second by a copy.
    """
    weights = parameters(case.size)
    bytes_each = 2 if case.precision == "bfloat16" else 4
    prompts = 2 * weights * case.rows * case.prompt / flops
    arithmetic = 2 * weights * tokens / flops
    reading = weights * bytes_each * (tokens / case.rows) / copy
    return prompts + max(arithmetic, reading)


def least_memory(case: GenerateCase) -> tuple[int, int]:
    """Return the bytes that are held at the least, of two models and of what one generates.

    transformers generates all rows at once: it keeps their keys and values, and has logits of the
    last token of each.
    """
    bytes_each = 2 if case.precision == "bfloat16" else 4
    tokens = case.rows * (case.prompt + case.response)
    cache = 2 * case.size.layers * case.size.kv_width * bytes_each
    return (
        2 * case.size.weights * bytes_each,
        tokens * (cache + 8) + case.rows * case.size.vocabulary * bytes_each,
    )


def _request(case: GenerateCase, number: int) -> GenerationRequest:
    draw = torch.Generator().manual_seed(number)
    shape = (case.rows, case.prompt)
    prompts = torch.randint(case.size.vocabulary - 2, shape, generator=draw).tolist()
    return GenerationRequest(
        prompts=prompts,
        sequence_ids=range(case.rows),
        max_new_tokens=case.response,
        stop_token_ids=(case.size.eos,),
        temperature=1.0,
        seed=0,
        iteration=number,
        token_budget=16384,
    )


def _backend(backend: Any, model: Any) -> Callable[[GenerationRequest], int]:
    return lambda request: sum(len(one.tokens) for one in backend.generate(model, request))


def _transformers(model: Any, request: GenerationRequest) -> int:
    """Sample with transformers alone; counts tokens up to each row's first stop token."""
    tokens = torch.tensor(request.prompts, device=model.device)
    (stop,) = request.stop_token_ids
    settings = GenerationConfig(
        max_new_tokens=request.max_new_tokens,
        do_sample=True,
        top_k=0,
        eos_token_id=stop,
        pad_token_id=model.config.pad_token_id,
    )
    output = model.generate(
        input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=settings
    )[:, tokens.shape[1] :]
    ended = (output == stop).int()
    length = output.shape[1]
    first = torch.where(ended.any(1), ended.argmax(1) + 1, length)
    return int(first.sum())


def _wait(strategy: SingleDevice) -> None:
    if strategy.device.type == "cuda":
        torch.cuda.synchronize()
