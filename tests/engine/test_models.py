"""Causal models: the one forward that is used, and what cannot be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import FAMILIES, save_causal, save_scalar, weights, word_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from fairlead.data import pad, pad_mask
from fairlead.errors import ConfigError
from fairlead.models import (
    context_length,
    hidden_states,
    load_causal,
    load_config,
    target_logits,
    target_logprobs,
)
from fairlead.scalar import load_scalar
from fairlead.scratch import Scratch, make_causal
from fairlead.strategy import SingleDevice
from fairlead.tokenizers import (
    check_same_vocabulary,
    load_tokenizer,
    stop_token_ids,
    with_distinct_pad,
)

CPU = SingleDevice("cpu")
ROWS = [[3, 4, 5, 6, 7, 8, 9], [10, 11, 12], [13, 14, 15, 16, 17]]
TINY = {
    "vocab_size": 24,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "head_dim": 4,
    "bos_token_id": None,
    "eos_token_id": 22,
    "pad_token_id": 23,
}


def targets_of(rows: list[list[int]]) -> list[list[bool]]:
    return [[position >= 2 for position in range(len(row))] for row in rows]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_on_targets_alone_equals_the_full_logits(family: str, tmp_path: Path) -> None:
    """Fidelity item 1: position p predicts token p + 1."""
    model: Any = load_causal(str(save_causal(tmp_path, family)), CPU, trained=False)
    assert model._plain_head
    tokens, targets = pad(ROWS), pad_mask(targets_of(ROWS))
    whole = model(tokens).logits
    expected = torch.cat([whole[row, 1 : len(ids) - 1] for row, ids in enumerate(ROWS)])
    torch.testing.assert_close(target_logits(model, tokens, targets), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_right_padding_without_a_mask_changes_nothing(family: str, tmp_path: Path) -> None:
    """Fidelity item 27: a batch gives what each row gives alone, whatever fills the padding."""
    model = load_causal(str(save_causal(tmp_path, family)), CPU, trained=False)
    alone = [
        target_logprobs(model, torch.tensor([row]), pad_mask(targets_of([row])))[0] for row in ROWS
    ]
    for fill in (0, 22, 23):
        found, _ = target_logprobs(model, pad(ROWS, fill), pad_mask(targets_of(ROWS)))
        torch.testing.assert_close(found, torch.cat(alone), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("gemma2", {"final_logit_softcapping": 30.0}),
        ("gemma2", {"final_logit_softcapping": 1000.0}),
        ("cohere", {"logit_scale": 0.0625}),
        ("granite", {"logits_scaling": 4.0}),
    ],
)
def test_a_family_that_changes_its_logits_after_the_head_keeps_them(
    kind: str, own: dict[str, float], tmp_path: Path
) -> None:
    """Seen while the model is fresh, though a cap at 1000 does nothing to logits of 0.1."""
    torch.manual_seed(0)
    fresh = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**TINY, **own}))
    fresh.save_pretrained(tmp_path)
    model: Any = load_causal(str(tmp_path), CPU, trained=True)
    assert not model._plain_head
    with torch.no_grad():  # as training would: logits far from 0
        model.get_output_embeddings().weight.mul_(200)
    tokens, targets = pad(ROWS), pad_mask(targets_of(ROWS))
    whole = model(tokens).logits.log_softmax(-1)
    expected = torch.cat(
        [
            whole[row, range(1, len(ids) - 1), ids[2:]]  # type: ignore[index]
            for row, ids in enumerate(ROWS)
        ]
    )
    found, _ = target_logprobs(model, tokens, targets)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    naive = model.get_output_embeddings()(hidden_states(model, tokens)).log_softmax(-1)
    assert not torch.allclose(naive, whole, atol=1e-2)


def test_the_first_token_of_a_sequence_cannot_be_a_target(tmp_path: Path) -> None:
    model = load_causal(str(save_causal(tmp_path)), CPU, trained=False)
    with pytest.raises(ValueError, match="nothing predicts it"):
        target_logits(model, torch.tensor([[3, 4]]), torch.tensor([[True, True]]))


def test_packed_rows_wider_than_a_sliding_window_are_refused(tmp_path: Path) -> None:
    """Fidelity item 3: a mask of our own would switch the window off."""
    directory = save_causal(tmp_path, "mistral", sliding_window=4)
    model = load_causal(str(directory), CPU, trained=False)
    attention = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    with pytest.raises(ConfigError, match="attend to the last 4 only"):
        hidden_states(model, torch.tensor([[3, 4, 5, 6, 7]]), None, attention)


def test_a_model_from_nothing_is_a_function_of_its_seed() -> None:
    tokenizer = word_tokenizer(["a", "b", "c"])
    settings = {k: v for k, v in TINY.items() if not k.endswith("_id") and k != "vocab_size"}
    scratch = Scratch(model_type="llama", config=settings)
    one, same, other = (
        make_causal(scratch, tokenizer, CPU, seed).state_dict()["lm_head.weight"]
        for seed in (1, 1, 2)
    )
    assert one.shape == (5, 16)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# --- dropout ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "name"),
    [("gpt2", "resid_pdrop"), ("gpt_neox", "hidden_dropout"), ("opt", "dropout")],
)
def test_residual_dropout_is_the_only_dropout(family: str, name: str, tmp_path: Path) -> None:
    model: Any = load_causal(
        str(save_causal(tmp_path, family)), CPU, trained=True, residual_dropout=0.2
    )
    drops = {k: v for k, v in model.config.to_dict().items() if "drop" in k and v}
    # GPT-2's classifier head alone keeps its own, which a language model has not.
    drops.pop("summary_first_dropout", None)
    drops.pop("classifier_dropout", None)
    assert drops == {name: 0.2}
    rates = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} - {0.0}
    assert rates <= {0.2}
    tokens = torch.tensor([[3, 4, 5]])
    model.train()
    assert not torch.equal(model(tokens).logits, model(tokens).logits)
    model.eval()
    assert torch.equal(model(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_family_without_residual_dropout_says_so(family: str, tmp_path: Path) -> None:
    directory = str(save_causal(tmp_path, family))
    with pytest.raises(ConfigError, match=rf"'{family}' have no residual dropout.*Set residual"):
        load_causal(directory, CPU, trained=True, residual_dropout=0.2)


# --- what cannot be used ------------------------------------------------------------------


def test_a_directory_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match=r"is not a model directory: it has no config\.json"):
        load_config(str(tmp_path))
    with pytest.raises(ConfigError, match="is not a model directory"):
        load_causal(str(tmp_path), CPU, trained=False)


def test_a_config_without_weights_is_refused(tmp_path: Path) -> None:
    save_causal(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no causal language model can be loaded from"):
        load_causal(str(tmp_path), CPU, trained=False)


def test_a_broken_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(ConfigError, match="neither a readable model directory nor a hub name"):
        load_config(str(tmp_path))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    save_causal(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a safetensors file at all")
    with pytest.raises(ConfigError, match="no causal language model can be loaded from"):
        load_causal(str(tmp_path), CPU, trained=False)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_a_reward_model_is_not_a_policy(family: str, tmp_path: Path) -> None:
    """Its unembedding is gone; transformers would make one up, or take the tied embeddings."""
    for tied in (True, False):
        directory = save_scalar(tmp_path / str(tied), family, tie_word_embeddings=tied)
        with pytest.raises(ConfigError, match="is a reward model or classifier"):
            load_causal(str(directory), CPU, trained=False)


def test_a_model_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """transformers would fill them with random numbers."""
    directory = save_causal(tmp_path, "llama", tie_word_embeddings=False)
    kept = {name: t for name, t in weights(directory).items() if name != "lm_head.weight"}
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"its weights lack lm_head\.weight"):
        load_causal(str(directory), CPU, trained=False)


def test_a_policy_is_not_a_reward_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a reward model"):
        load_scalar(str(save_causal(tmp_path)), CPU, trained=False)


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it has no tokenizer files"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="no tokenizer can be loaded from"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_eos_is_refused(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(["a", "b"])
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"no end-of-sequence token.*Set eos_token"):
        load_tokenizer(str(tmp_path))


def test_a_pad_token_of_its_own_is_added_only_where_there_is_none() -> None:
    """Fidelity item 2: transformers would take the EOS of a response for padding."""
    own, missing, same = (word_tokenizer(["a"], pad=pad) for pad in ("<pad>", None, "<eos>"))
    assert not with_distinct_pad(own)
    assert with_distinct_pad(missing)
    assert with_distinct_pad(same)
    assert (own.pad_token_id, missing.pad_token_id, same.pad_token_id) == (2, 2, 2)
    assert same.eos_token_id == 1


def test_stop_tokens_are_single_tokens() -> None:
    """Fidelity item 31: a stop token need not be EOS."""
    tokenizer = word_tokenizer(["a", "b"])
    assert stop_token_ids(tokenizer, None) == (2,)
    assert stop_token_ids(tokenizer, ["b"]) == (1,)
    assert stop_token_ids(tokenizer, []) == ()
    with pytest.raises(ConfigError, match="'a b' is 2 tokens"):
        stop_token_ids(tokenizer, ["a b"])


def test_vocabularies_are_compared_by_id() -> None:
    """A larger vocabulary with the same ids will do; the same words in another order will not."""
    policy, more = word_tokenizer(["a", "b"], pad=None), word_tokenizer(["a", "b"])
    check_same_vocabulary(policy, more, "the reward model")
    with pytest.raises(ConfigError, match="'a' is 0 here and 1 there"):
        check_same_vocabulary(policy, word_tokenizer(["b", "a"], pad=None), "the reward model")


def test_the_context_length_is_the_models(tmp_path: Path) -> None:
    for family in FAMILIES:
        assert context_length(load_config(str(save_causal(tmp_path / family, family)))) == 64
