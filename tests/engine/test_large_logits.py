"""Log-probs of a large head, whose logits are never in memory at once."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from rl import PROMPTS, rl_config, rl_models
from support import metrics, run_stages, save_causal
from tolerances import assert_within_error_rule
from torch import Tensor, nn

from fairlead import memory, models
from fairlead.data import pad
from fairlead.memory import logits_bytes, memory_estimate
from fairlead.models import LARGE_LOGITS, load_causal, target_logprobs
from fairlead.scorer import response_targets
from fairlead.strategy import SingleDevice
from fairlead_kernels import linear_logprobs, token_logprobs
from fairlead_kernels.bench.memory import peak_bytes
from fairlead_kernels.dispatch import ImplementationRow

LENGTHS = torch.tensor([len(ids) for ids in PROMPTS])
TOKENS = pad(PROMPTS)
TARGETS = response_targets(TOKENS, torch.ones_like(LENGTHS), LENGTHS - 1)
LOGITS = int(TARGETS.sum()) * 24 * 4
"""Their bytes, of the tiny models' 24 tokens."""


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the two ways was gone, call by call."""
    gone: list[str] = []

    def spy(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **more: Any) -> Any:
            gone.append(name)
            return function(*args, **more)

        return called

    monkeypatch.setattr(models, "token_logprobs", spy("logits", token_logprobs))
    monkeypatch.setattr(models, "linear_logprobs", spy("chunks", linear_logprobs))
    return gone


def run(model: Any, *, half: bool = False) -> tuple[Tensor, ...]:
    """Log-probs, entropies, and the gradients of the head's weight and of the layers before it."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logprobs, entropy = target_logprobs(model, TOKENS, TARGETS, 0.7, lengths=LENGTHS)
    weight = torch.linspace(0.5, 1.5, len(logprobs), dtype=logprobs.dtype)
    (weight * logprobs - 0.1 * entropy).sum().backward()
    head, norm = model.get_output_embeddings().weight, model.base_model.ln_f.weight
    return logprobs.detach(), entropy.detach(), head.grad.clone(), norm.grad.clone()


@pytest.mark.parametrize("half", [False, True])
def test_values_and_gradients_are_those_of_the_logits(
    half: bool, tmp_path: Path, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the kernels' error rule, under a temperature: fidelity item 10."""
    path = save_causal(tmp_path, tie_word_embeddings=False)
    model: Any = load_causal(str(path), SingleDevice("cpu"), trained=True)
    plain = run(model, half=half)
    exact = run(deepcopy(model).double())
    monkeypatch.setattr(models, "LARGE_LOGITS", 0)
    found = run(model, half=half)
    assert taken == ["logits", "logits", "chunks"]
    assert [one.dtype for one in found] == [torch.float32] * 4
    for ours, theirs, truth in zip(found, plain, exact, strict=True):
        assert_within_error_rule(ours, theirs, truth.double(), truth.abs().max().expand_as(truth))


def test_the_size_of_the_logits_decides(
    tmp_path: Path, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_causal(str(save_causal(tmp_path)), SingleDevice("cpu"), trained=True)
    for limit in (LOGITS, LOGITS - 1):
        monkeypatch.setattr(models, "LARGE_LOGITS", limit)
        target_logprobs(model, TOKENS, TARGETS)
    assert taken == ["logits", "chunks"]


def test_a_head_that_does_more_than_multiply_forms_its_logits(
    tmp_path: Path, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "LARGE_LOGITS", 0)
    model: Any = load_causal(str(save_causal(tmp_path)), SingleDevice("cpu"), trained=True)
    expected = target_logprobs(model, TOKENS, TARGETS)

    class Doubling(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    head, plain = model.lm_head, type(model.lm_head)
    head.__class__ = Doubling
    target_logprobs(model, TOKENS, TARGETS)
    head.__class__ = plain
    hook = head.register_forward_hook(lambda _, __, logits: logits * 2)
    target_logprobs(model, TOKENS, TARGETS)
    hook.remove()
    hook = head.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
    target_logprobs(model, TOKENS, TARGETS)
    hook.remove()
    model._plain_head = False  # such as one whose logits are capped
    target_logprobs(model, TOKENS, TARGETS)
    assert taken == ["chunks", *["logits"] * 4]
    model._plain_head = True
    head.bias = nn.Parameter(torch.linspace(-3, 3, 24))
    biased = target_logprobs(model, TOKENS, TARGETS)
    assert taken[-1] == "chunks"
    assert not torch.allclose(biased[0], expected[0])
    monkeypatch.setattr(models, "LARGE_LOGITS", LARGE_LOGITS)
    torch.testing.assert_close(biased, target_logprobs(model, TOKENS, TARGETS))


def test_ppo_trains_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old log-probs are the training pass's, so that the first ratio is 1: fidelity item 13."""
    raw = rl_config(rl_models(tmp_path))
    run_stages(raw, tmp_path / "logits")
    monkeypatch.setattr(models, "LARGE_LOGITS", 0)
    run_stages(raw, tmp_path / "chunks")
    expected, found = (metrics(tmp_path / way / "ppo")[-1] for way in ("logits", "chunks"))
    assert found["val/ratio_first"] == pytest.approx(1, abs=1e-6)
    for name in ("objective/kl", "objective/entropy", "loss/policy_avg", "grad_norm"):
        assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5)


# --- the estimate --------------------------------------------------------------------------


def only(impl: str) -> list[ImplementationRow]:
    return [ImplementationRow("linear_logprobs", impl, "", "cpu", True, "", True)]


def test_the_estimate_says_which_way_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, vocabulary = 4096, 50257
    monkeypatch.setattr(memory, "list_implementations", lambda: only("cpp"))
    assert logits_bytes(rows, vocabulary, "cpu") == 256 << 20
    assert logits_bytes(rows, vocabulary, "cuda") == 7 * 4 * rows * vocabulary
    assert logits_bytes(128, 1 << 17, "cpu") == 7 * LARGE_LOGITS  # not larger than large
    parts = memory_estimate([("policy", 2**30, "trained")], (rows, vocabulary), "float32", "cpu")
    assert parts["logits of a microbatch"] == 0.25
    assert parts["together, without activations"] == 16.25
    monkeypatch.setattr(memory, "list_implementations", lambda: only("reference"))
    assert logits_bytes(rows, vocabulary, "cpu") == 7 * 4 * rows * vocabulary


@pytest.mark.parametrize(("rows", "vocabulary"), [(256, 4096), (256, 80_000)])
def test_no_more_is_taken_than_the_estimate_says(rows: int, vocabulary: int) -> None:
    """The gradients of weights are counted with the model."""
    width = 8
    assert (rows * vocabulary * 4 > LARGE_LOGITS) == (vocabulary == 80_000)
    head, hidden = nn.Linear(width, vocabulary, bias=False), torch.randn(rows, width)
    hidden.requires_grad_()
    labels = torch.arange(rows)

    def call() -> None:
        head.weight.grad = None
        if rows * vocabulary * 4 > LARGE_LOGITS:
            logprobs, _ = linear_logprobs(hidden, head.weight, labels)
        else:
            logprobs, _ = token_logprobs(head(hidden), labels)
        logprobs.sum().backward()

    call()
    beside = 2 * (head.weight.numel() + hidden.numel()) * 4 + (4 << 20)
    assert peak_bytes(call, torch.device("cpu")) <= logits_bytes(rows, vocabulary, "cpu") + beside
