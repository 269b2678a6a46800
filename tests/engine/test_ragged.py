"""Forward passes without padding give what padded ones give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import FAMILIES, save_causal, save_scalar
from transformers import AutoConfig, AutoModelForCausalLM

from fairlead.data import device_microbatches, pad
from fairlead.models import hidden_states, ready, set_dropout, target_logprobs
from fairlead.ragged import (
    RAGGED,
    _rounded_up,
    attend,
    ragged_hidden_states,
    takes_ragged,
)
from fairlead.scalar import load_scalar
from fairlead.scorer import length_mask, response_targets
from fairlead.strategy import SingleDevice

CPU = SingleDevice("cpu")
ROWS = [[3, 4, 5, 6, 7, 8, 9], [10], [11, 12, 13], [14, 15, 16, 17, 18]]
LENGTHS = torch.tensor([7, 1, 3, 5])
PROMPTS = torch.tensor([2, 1, 1, 2])


def causal(directory: Path, family: str = "gpt2", **changes: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(save_causal(directory, family, **changes))
    return ready(model, CPU, trained=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_padded_rows(family: str, tmp_path: Path) -> None:
    model = causal(tmp_path, family)
    assert takes_ragged(model, 7)
    with torch.no_grad():
        found = ragged_hidden_states(model, pad(ROWS), LENGTHS, length_mask(LENGTHS))
        padded = hidden_states(model, pad(ROWS))
    assert found.shape == (16, 16)  # 7 + 1 + 3 + 5 tokens
    torch.testing.assert_close(found, padded[length_mask(LENGTHS)], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_and_gradients_are_those_of_padded_rows(family: str, tmp_path: Path) -> None:
    """Fidelity item 27: contiguous sequences, with or without padding."""
    model = causal(tmp_path, family)
    tokens, targets = pad(ROWS), response_targets(pad(ROWS), PROMPTS, LENGTHS - PROMPTS)
    found = []
    for lengths in (LENGTHS, None):
        model.zero_grad()
        logprobs, _ = target_logprobs(model, tokens, targets, lengths=lengths)
        (logprobs * torch.linspace(1, 2, len(logprobs))).sum().backward()
        gradients = {name: one.grad for name, one in model.named_parameters()}
        found.append((logprobs.detach(), gradients))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-4)


def test_nothing_in_the_padding_matters(tmp_path: Path) -> None:
    """Fidelity item 27: 25 tokens of 36 are rounded up to 32, so that some of the padding is run,
    and nothing reads it.
    """
    model = causal(tmp_path)
    lengths, generator = torch.tensor([12, 8, 5]), torch.Generator().manual_seed(0)
    tokens = torch.randint(20, (3, 12), generator=generator)
    found = []
    for fill in (0, 21):
        filled = tokens.masked_fill(~length_mask(lengths), fill)
        targets = response_targets(filled, torch.ones(3, dtype=torch.int64), lengths - 1)
        model.zero_grad()
        logprobs, _ = target_logprobs(model, filled, targets, lengths=lengths)
        logprobs.sum().backward()
        found.append((logprobs.detach(), [one.grad for one in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)


def test_sequences_of_a_row_do_not_see_each_other(tmp_path: Path) -> None:
    model = causal(tmp_path)
    other = [[*reversed(ROWS[0])], *ROWS[1:]]
    with torch.no_grad():
        one, two = (
            ragged_hidden_states(model, pad(rows), LENGTHS, length_mask(LENGTHS))
            for rows in (ROWS, other)
        )
    assert not torch.allclose(one[:7], two[:7])
    assert torch.equal(one[7:], two[7:])


def test_scalars_are_those_of_padded_rows(tmp_path: Path) -> None:
    model = load_scalar(str(save_scalar(tmp_path)), CPU, trained=False)
    assert takes_ragged(model.model, 7)
    where = torch.zeros(4, 7, dtype=torch.bool)
    where[torch.arange(4), LENGTHS - 1] = True
    padded = model(pad(ROWS), where)
    torch.testing.assert_close(model(pad(ROWS), where, LENGTHS), padded, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.at_last_token(pad(ROWS), LENGTHS), padded, atol=1e-5, rtol=0)


def test_half_precision_differs_by_its_rounding_alone(tmp_path: Path) -> None:
    half = causal(tmp_path).bfloat16()
    targets = response_targets(pad(ROWS), PROMPTS, LENGTHS - PROMPTS)
    with torch.no_grad():
        found, _ = target_logprobs(half, pad(ROWS), targets, lengths=LENGTHS)
        padded, _ = target_logprobs(half, pad(ROWS), targets)
    torch.testing.assert_close(found, padded, atol=0.02, rtol=0)


def test_rows_past_a_sliding_window_are_padded(tmp_path: Path) -> None:
    """The layout takes the mask's place, and the window is a matter of the mask."""
    model = causal(tmp_path, "mistral", sliding_window=4)
    assert takes_ragged(model, 4)
    assert not takes_ragged(model, 5)
    targets = response_targets(pad(ROWS), PROMPTS, LENGTHS - PROMPTS)
    with torch.no_grad():
        found, _ = target_logprobs(model, pad(ROWS), targets, lengths=LENGTHS)
        padded, _ = target_logprobs(model, pad(ROWS), targets)
    assert torch.equal(found, padded)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bloom", {"hidden_size": 16, "n_head": 2, "n_layer": 2}),  # positions come from the mask
        ("mamba", {"hidden_size": 16, "num_hidden_layers": 2}),  # a state runs along the row
        (
            "gemma2",  # scores are capped within attention
            {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
            | {"num_attention_heads": 2, "num_key_value_heads": 1},
        ),
    ],
)
def test_a_family_that_cannot_is_padded_and_attends_as_before(
    kind: str, settings: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=24, pad_token_id=0, **settings)
    fresh = AutoModelForCausalLM.from_config(config)
    before = fresh.config._attn_implementation
    model = ready(fresh, CPU, trained=True)
    assert not takes_ragged(model, 7)
    assert model.config._attn_implementation == before
    targets = response_targets(pad(ROWS), PROMPTS, LENGTHS - PROMPTS)
    with torch.no_grad():
        found, _ = target_logprobs(model, pad(ROWS), targets, lengths=LENGTHS)
        padded, _ = target_logprobs(model, pad(ROWS), targets)
    assert torch.equal(found, padded)


def test_how_a_model_attends_here_is_not_written_into_its_directory(tmp_path: Path) -> None:
    model = causal(tmp_path / "from")
    assert model.config._attn_implementation == RAGGED
    model.save_pretrained(tmp_path / "to")
    assert RAGGED not in (tmp_path / "to" / "config.json").read_text()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "to")
    assert again.config._attn_implementation == "sdpa"


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_a_round_number_of_tokens_is_run_where_the_padding_allows(lengths: list[int]) -> None:
    counts = length_mask(torch.tensor(lengths))
    run = _rounded_up(counts)
    assert bool(run[counts].all())
    # What is run of a row is its beginning, whole.
    assert torch.equal(run, torch.arange(run.shape[1]) < run.sum(1, keepdim=True))
    whole, tokens = counts.numel(), sum(lengths)
    # The next multiple of 32, or everything there is when that is less.
    assert int(run.sum()) == min(whole, (tokens + 31) // 32 * 32)


def test_padding_takes_no_room_of_a_microbatch_without_padding() -> None:
    cpu = torch.device("cpu")
    # Padded: 10 + 10, or 10 + 6 with 4 of padding, are more than 15.
    assert device_microbatches([10, 4, 1], 15, cpu) == [[0], [1, 2]]
    # As they are: 10 + 4 + 1 = 15 fit.
    assert device_microbatches([10, 4, 1], 15, cpu, ragged=True) == [[0, 1, 2]]


def test_equally_long_sequences_are_those_of_padded_rows(tmp_path: Path) -> None:
    model = causal(tmp_path)
    tokens = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
    where = torch.ones_like(tokens, dtype=torch.bool)
    with torch.no_grad():
        found = ragged_hidden_states(model, tokens, torch.tensor([4, 4]), where)
        padded = hidden_states(model, tokens)
    torch.testing.assert_close(found, padded.flatten(0, 1), atol=1e-5, rtol=1e-5)


class Causal(torch.nn.Module):
    is_causal = True


OFFSETS = torch.tensor([0, 3, 5]).expand(1, 1, 3, 3)


@pytest.mark.parametrize("offsets", [None, OFFSETS])
def test_autocast_does_not_bring_bfloat16_back_into_attention_on_a_cpu(
    offsets: torch.Tensor | None,
) -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 5, 8, generator=draw) for _ in range(3))
    module = Causal()
    expected, _ = attend(module, query, key, value, offsets)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attend(module, query, key, value, offsets)
    assert found.dtype == torch.float32
    # bfloat16 has 8 bits: it would be off in the third digit.
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_a_mask_that_is_added_may_be_of_half_precision() -> None:
    """Scores are equal, and of the values 1, 2 and 4 the last is masked: (1 + 2) / 2."""
    query, key = (torch.ones(1, 2, 3, 8, dtype=torch.bfloat16) for _ in range(2))
    value = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 3, 1).expand(1, 2, 3, 8).bfloat16()
    mask = torch.tensor([0.0, 0.0, -torch.inf]).view(1, 1, 1, 3).expand(1, 1, 3, 3).bfloat16()
    found, _ = attend(torch.nn.Module(), query, key, value, mask)
    assert found.dtype == torch.bfloat16
    assert bool((found == 1.5).all())


def test_values_may_be_narrower_than_keys() -> None:
    """As in DeepSeek: the same as with values of zeros up to the keys' width, which are cut off."""
    query, key = (torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(0)),) * 2
    value = torch.randn(1, 2, 5, 3, generator=torch.Generator().manual_seed(1))
    found, _ = attend(Causal(), query, key, value, OFFSETS)
    wide = torch.nn.functional.pad(value, (0, 5))
    expected, _ = attend(Causal(), query, key, wide, OFFSETS)
    assert found.shape == (1, 5, 2, 3)
    assert torch.equal(found, expected[..., :3])


def test_dropout_of_attention_is_turned_off_by_every_name_of_it() -> None:
    config = AutoConfig.for_model("biogpt")
    set_dropout(config, 0.0)
    assert config.attention_probs_dropout_prob == 0.0


def test_dropout_of_attention_stays_within_sequences() -> None:
    """Kept weights are doubled: of values of 1 at most 2 comes, of the others' 100 more would."""
    query, key = (torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(0)),) * 2
    value = torch.ones(1, 2, 5, 8)
    value[:, :, 3:] = 100.0  # the second sequence
    torch.manual_seed(0)
    found, _ = attend(Causal(), query, key, value, OFFSETS, dropout=0.5)
    assert bool((found[:, :3] <= 2.001).all())
    assert bool((found[:, 3:] > 2.001).any())
    assert not torch.equal(found, attend(Causal(), query, key, value, OFFSETS)[0])
