"""Both rollout backends against transformers' own greedy generation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rl import EOS, NEW_TOKENS, PROMPTS, request
from support import FAMILIES, save_causal

from fairlead.generation.hf import HfBackend
from fairlead.generation.native import NativeBackend, NativeConfig
from fairlead.models import load_causal
from fairlead.strategy import SingleDevice

BACKENDS = {
    "hf": lambda: HfBackend(None),  # type: ignore[arg-type]
    "native": lambda: NativeBackend(NativeConfig(slots=3)),
    "native, not recorded": lambda: NativeBackend(NativeConfig(slots=3, record=False)),
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    return BACKENDS[request.param]()


def generate(backend: Any, model: Any, **changes: Any) -> list[list[int]]:
    found = backend.generate(model, request(**changes))
    return [generated.tokens.tolist() for generated in found]


def near_tie(model: Any, ids: list[int]) -> bool:
    top = model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2).values
    return float(top[0] - top[1]) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_rows_are_those_of_generate_on_single_rows(
    tmp_path: Path, family: str, backend: Any
) -> None:
    """DESIGN, Data flow: prompts of mixed lengths in one batch; near-ties within 1e-4 apart."""
    model: Any = load_causal(
        str(save_causal(tmp_path, family, initializer_range=0.3)), SingleDevice("cpu"), trained=True
    )
    batched = generate(backend, model)
    assert len({tuple(row) for row in batched}) > 4  # the model says something of its prompt
    for prompt, ours in zip(PROMPTS, batched, strict=True):
        alone = model.generate(
            input_ids=torch.tensor([list(prompt)]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=-1,
        )[0, len(prompt) :].tolist()
        differs = next((i for i in range(NEW_TOKENS) if ours[i] != alone[i]), None)
        if differs is not None:
            assert near_tie(model, [*prompt, *alone[:differs]]), (prompt, ours, alone)


def test_draws_follow_the_sequence_and_not_its_slot(tmp_path: Path, backend: Any) -> None:
    """Fidelity item 14: rows in another order, with the numbers of their sequences."""
    model = load_causal(str(save_causal(tmp_path)), SingleDevice("cpu"), trained=True)
    straight = generate(backend, model, temperature=1.0)
    order = [6, 2, 7, 0, 5, 3, 1, 4]
    mixed = generate(
        backend, model, prompts=[PROMPTS[i] for i in order], sequence_ids=order, temperature=1.0
    )
    assert mixed == [straight[i] for i in order]
    assert generate(backend, model, sequence_ids=range(1, 9), temperature=1.0) != straight


def test_a_models_own_generation_settings_have_no_influence(tmp_path: Path, backend: Any) -> None:
    """Fidelity items 10 and 11: the distribution is the model's own, and the stop tokens ours."""
    plain, spoilt = save_causal(tmp_path / "plain"), save_causal(tmp_path / "spoilt")
    settings = {
        "do_sample": True,
        "repetition_penalty": 5.0,
        "top_k": 1,
        "top_p": 0.1,
        "temperature": 0.1,
        "min_new_tokens": 5,
        "no_repeat_ngram_size": 1,
        "suppress_tokens": list(range(10)),
        "eos_token_id": [3, 4, 5, 6, 7, EOS],
    }
    (spoilt / "generation_config.json").write_text(json.dumps(settings))
    config = json.loads((spoilt / "config.json").read_text())
    (spoilt / "config.json").write_text(json.dumps({**config, "eos_token_id": [3, 4, 5, EOS]}))
    device = SingleDevice("cpu")
    first, second = (load_causal(str(path), device, trained=True) for path in (plain, spoilt))
    for stop in ((), (EOS,), (9, 12)):
        for temperature in (0.0, 1.0):
            settings = {"temperature": temperature, "stop_token_ids": stop}
            assert generate(backend, first, **settings) == generate(backend, second, **settings)
    drawn = generate(backend, second, temperature=1.0)
    assert any(token in (3, 4, 5, EOS) for row in drawn for token in row[:-1])
    assert all(len(row) == NEW_TOKENS for row in drawn)


def test_what_a_run_exports_has_no_foreign_generation_settings(tmp_path: Path) -> None:
    source = save_causal(tmp_path / "model")
    (source / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "top_k": 3, "repetition_penalty": 2.0})
    )
    model: Any = load_causal(str(source), SingleDevice("cpu"), trained=True)
    model.save_pretrained(tmp_path / "out")
    exported = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert not {"top_k", "repetition_penalty", "do_sample"} & set(exported)


def test_log_probs_are_those_of_the_distribution_drawn_from(tmp_path: Path, backend: Any) -> None:
    """Fidelity item 13, the sampler's side: to 1e-5 in float32."""
    model: Any = load_causal(
        str(save_causal(tmp_path, initializer_range=0.3)), SingleDevice("cpu"), trained=True
    )
    found = backend.generate(model, request(temperature=0.7))
    for prompt, generated in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([[*prompt, *generated.tokens.tolist()]])
        logp = (model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / 0.7).log_softmax(-1)
        expected = logp.gather(1, generated.tokens[:, None])[:, 0]
        torch.testing.assert_close(generated.logprobs, expected.detach(), rtol=0, atol=1e-5)
        entropy = -(logp.exp() * logp).sum(-1)
        torch.testing.assert_close(generated.entropy, entropy.detach(), rtol=0, atol=1e-5)
