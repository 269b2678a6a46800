"""What a reward model's score is: where it is read, by which head, and in transformers too."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from ranking import CPU, EOS, PAD, ROWS, fresh, recipe
from support import FAMILIES, run_stages, save_causal, word_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fairlead.data import pad
from fairlead.scalar import BIAS, load_scalar, scalar_from_causal
from fairlead.strategy import SingleDevice

# --- item 5: where the score is read ------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_ids_score_the_same_in_any_batch(family: str, tmp_path: Path) -> None:
    """Fidelity item 5: alone, beside longer rows, and whatever fills the padding."""
    model = fresh(tmp_path, family)
    alone = torch.cat(
        [model.at_last_token(torch.tensor([r]), torch.tensor([len(r)])) for r in ROWS]
    )
    lengths = torch.tensor([len(row) for row in ROWS])
    for fill in (0, EOS, PAD):
        together = model.at_last_token(pad(ROWS, fill), lengths)
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    turned = model.at_last_token(pad(ROWS[::-1]), lengths.flip(0)).flip(0)
    torch.testing.assert_close(turned, alone, atol=1e-5, rtol=1e-5)
    assert len({round(score, 4) for score in alone.tolist()}) == 3


def test_the_score_is_read_at_the_last_response_token_and_never_at_a_pad(tmp_path: Path) -> None:
    """Fidelity item 5: it is the scalar at position length - 1, by the head's own sum."""
    model = fresh(tmp_path)
    tokens, lengths = pad(ROWS, PAD), torch.tensor([4, 2, 6])
    hidden = model.model.base_model(tokens).last_hidden_state
    by_hand = torch.stack(
        [hidden[row, at] @ model.head.weight[0] for row, at in enumerate((3, 1, 5))]
    )
    torch.testing.assert_close(model.at_last_token(tokens, lengths), by_hand)
    at_pad = hidden[:, -1] @ model.head.weight[0]
    assert not torch.allclose(by_hand[:2], at_pad[:2], atol=1e-3)


# --- item 6: the head ---------------------------------------------------------------------


def test_the_head_starts_with_the_std_of_its_width_and_no_bias(tmp_path: Path) -> None:
    """Fidelity item 6: 1/sqrt(d + 1), within 4 standard errors (std / sqrt(2 d)) at d = 4096."""
    width = 4096
    save_causal(tmp_path, hidden_size=width, num_hidden_layers=0, num_attention_heads=1)
    model = scalar_from_causal(str(tmp_path), 24, PAD, CPU, seed=0)
    expected = 1 / math.sqrt(width + 1)
    assert model.head.weight.shape == (1, width)
    assert model.head.weight.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * width))
    assert abs(model.head.weight.mean().item()) < 4 * expected / math.sqrt(width)
    assert model.head.bias is None
    assert model.bias.item() == 0.0


def test_the_head_is_a_function_of_the_seed(tmp_path: Path) -> None:
    save_causal(tmp_path)
    one, same, other = (scalar_from_causal(str(tmp_path), 24, PAD, CPU, s) for s in (1, 1, 2))
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_the_head_computes_in_float32_whatever_the_body_does(tmp_path: Path) -> None:
    """Fidelity item 6: in a bfloat16 run, trained (autocast) and frozen."""
    half = SingleDevice("cpu", "bfloat16")
    trained = scalar_from_causal(str(save_causal(tmp_path / "lm")), 24, PAD, half, seed=0)
    trained.bias.fill_(0.123456789)
    trained.save(tmp_path / "rm")
    frozen = load_scalar(str(tmp_path / "rm"), half, trained=False)
    assert next(frozen.model.base_model.parameters()).dtype == torch.bfloat16
    for model in (trained, frozen):
        caught: list[torch.Tensor] = []
        hook = model.model.base_model.register_forward_hook(
            lambda module, inputs, output, caught=caught: caught.append(output.last_hidden_state)
        )
        with half.autocast():
            score = model.at_last_token(torch.tensor([[3, 4, EOS]]), torch.tensor([3]))
        hook.remove()
        assert score.dtype == torch.float32
        by_hand = caught[0][0, 2].double() @ trained.head.weight[0].double() + 0.123456789
        assert score.item() == pytest.approx(by_hand.item(), abs=1e-6)
    # Neither the head nor the bias went through bfloat16 on the way.
    assert torch.equal(frozen.head.weight, trained.head.weight)
    assert frozen.bias.item() == trained.bias.item()


# --- what transformers reads --------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("pad_token", ["<eos>", None, "<pad>"])
def test_transformers_scores_the_export_alike(
    family: str, pad_token: str | None, tmp_path: Path
) -> None:
    """Fidelity items 2, 5 and 7: scores there plus the recorded bias, on padded batches.

    Where pad is EOS (GPT-2's way) or missing, a pad token is added: transformers looks for the
    last token that is not padding, and would read the score one token early.
    """
    source = save_causal(tmp_path / "lm", family)
    if pad_token != "<pad>":
        shutil.rmtree(source)
        save_causal(source, family, vocabulary=23, eos_token_id=22, pad_token_id=None)
        word_tokenizer([f"w{i}" for i in range(22)], pad=pad_token).save_pretrained(source)
    run_stages(recipe(source), tmp_path / "out")
    directory = tmp_path / "out" / "rm"
    ours = load_scalar(str(directory), CPU, trained=False)
    theirs = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.pad_token_id == theirs.config.pad_token_id == PAD
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    batch = tokenizer(
        ["w3 w4 w5 <eos>", "w6 <eos>", "w7 w8 w9 w10 w11 <eos>"],
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    assert batch["input_ids"][1].tolist() == [6, EOS, PAD, PAD, PAD, PAD]
    with torch.no_grad():
        scores = theirs(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
        expected = ours.at_last_token(batch["input_ids"], batch["attention_mask"].sum(1))
    torch.testing.assert_close(
        scores + getattr(theirs.config, BIAS), expected, atol=1e-5, rtol=1e-5
    )
    alone = torch.cat([ours.at_last_token(torch.tensor([r]), torch.tensor([len(r)])) for r in ROWS])
    torch.testing.assert_close(expected, alone, atol=1e-5, rtol=1e-5)
