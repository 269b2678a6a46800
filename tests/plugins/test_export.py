"""What a stage leaves behind is a plain transformers directory, and means the same there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import run_stages, tiny_config, weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from fairlead.data import pad
from fairlead.models import load_causal, target_logprobs
from fairlead.strategy import SingleDevice

TEXT = [{"text": f"the {a} {b} is {c} ."} for a in ("red", "old") for b in "abcd" for c in "xyz"]
DEMONSTRATIONS = [{"prompt": f"what is {a} ?", "completion": f" {a} is good ."} for a in "abcdef"]


def recipe(family: str) -> dict[str, Any]:
    config = tiny_config(family).to_dict()
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    names += ("max_position_embeddings", "intermediate_size", "ffn_dim", "word_embed_proj_dim")
    settings = {name: getattr(tiny_config(family), name, config.get(name)) for name in names}
    lr = {"peak": 1e-2}
    return {
        "heldout": 0.0,
        "threads": 1,
        "stages": {
            "pretrain": {
                "name": "pretrain",
                "model": {
                    "model_type": family,
                    "config": {k: v for k, v in settings.items() if v is not None},
                },
                "tokenizer": {"vocab_size": 280},
                "source": {"name": "inline", "records": TEXT},
                "steps": 6,
                "batch_size": 4,
                "block_tokens": 16,
                "lr": lr,
            },
            "sft": {
                "name": "sft",
                "model": "stage:pretrain",
                "source": {"name": "inline", "records": DEMONSTRATIONS},
                "epochs": 3,
                "batch_size": 3,
                "max_tokens": 48,
                "lr": lr,
            },
        },
    }


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "opt"])
def test_outputs_load_in_transformers_with_equal_log_probabilities(
    family: str, tmp_path: Path
) -> None:
    """Fidelity item 27: on right-padded batches with transformers' own attention mask."""
    run_stages(recipe(family), tmp_path)
    for stage in ("pretrain", "sft"):
        directory = tmp_path / stage
        theirs = AutoModelForCausalLM.from_pretrained(directory).eval()
        tokenizer = AutoTokenizer.from_pretrained(directory)
        assert theirs.config.vocab_size == len(tokenizer)
        assert theirs.config.eos_token_id == tokenizer.eos_token_id
        assert theirs.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
        texts = [d["prompt"] + d["completion"] + tokenizer.eos_token for d in DEMONSTRATIONS[:2]]
        texts.append("the old b is y .")
        batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        mask = batch["attention_mask"].bool()
        assert not mask.all()
        with torch.no_grad():
            logits = theirs(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        logprobs = logits[:, :-1].log_softmax(-1)
        expected = logprobs.gather(-1, batch["input_ids"][:, 1:, None])[..., 0][mask[:, 1:]]
        ours = load_causal(str(directory), SingleDevice("cpu"), trained=False)
        rows = [ids[m].tolist() for ids, m in zip(batch["input_ids"], mask, strict=True)]
        tokens = pad(rows)
        targets = mask.clone()
        targets[:, 0] = False
        found, _ = target_logprobs(ours, tokens, targets)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_sft_output_is_not_the_model_it_started_from(tmp_path: Path) -> None:
    run_stages(recipe("gpt2"), tmp_path)
    before, after = weights(tmp_path / "pretrain"), weights(tmp_path / "sft")
    assert before.keys() == after.keys()
    assert not torch.equal(before["transformer.wte.weight"], after["transformer.wte.weight"])


def test_a_stage_leaves_its_output_and_no_checkpoints(tmp_path: Path) -> None:
    run_stages(recipe("gpt2"), tmp_path, overrides=["sft.checkpoint_every=2"])
    names = {path.name for path in (tmp_path / "sft").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl"} <= names
    assert "checkpoints" not in names


def test_a_bfloat16_run_leaves_its_float32_masters(tmp_path: Path) -> None:
    """Fidelity item 23: the weights that were trained, not what autocast made of them."""
    raw = {**recipe("gpt2"), "precision": "bfloat16", "device": "cpu"}
    run_stages(raw, tmp_path)
    for stage in ("pretrain", "sft"):
        tensors = weights(tmp_path / stage)
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
        wte = tensors["transformer.wte.weight"]
        assert not torch.equal(wte, wte.bfloat16().float())
