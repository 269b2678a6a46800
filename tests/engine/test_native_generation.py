"""The native rollout backend: slots, prefills, stops, and the recording of a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from generating import respond, rows
from rl import PROMPTS, request
from scipy import stats
from support import save_causal

from fairlead.errors import ConfigError
from fairlead.generation import cache, native, step
from fairlead.generation.hf import HfBackend
from fairlead.generation.native import NativeBackend, NativeConfig
from fairlead.generation.stops import Stops
from fairlead.models import load_causal
from fairlead.strategy import SingleDevice

CONTEXT = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = save_causal(tmp_path_factory.mktemp("model"), initializer_range=0.3)
    return load_causal(str(directory), SingleDevice("cpu"), trained=True)


def words(ids: Any) -> str:
    """A text in which id 3 is `d` and so on."""
    return "".join(chr(ord("a") + int(one)) for one in ids)


def test_it_draws_what_transformers_draws_with_the_same_keys(model: Any) -> None:
    """Fidelity item 14: another backend, the same random numbers, the same sequences."""
    hf = HfBackend(None).generate(model, request(temperature=1.0))  # type: ignore[arg-type]
    ours = respond(model)
    assert rows(ours) == rows(hf)
    assert len({tuple(row) for row in rows(ours)}) == len(PROMPTS)
    for mine, theirs in zip(ours, hf, strict=True):
        torch.testing.assert_close(mine.logprobs, theirs.logprobs, rtol=0, atol=1e-5)
        torch.testing.assert_close(mine.entropy, theirs.entropy, rtol=0, atol=1e-5)


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 7])
def test_fewer_slots_than_prompts_change_nothing(model: Any, slots: int) -> None:
    """Fidelity item 14: rows end at different times, so slots are refilled and rows are moved."""
    settings = {"stop_token_ids": tuple(range(0, 24, 5)), "max_new_tokens": 20}
    whole = respond(model, **settings)
    assert len({len(row) for row in rows(whole)}) > 3
    assert rows(respond(model, slots, **settings)) == rows(whole)


def test_only_sequences_that_go_on_are_moved(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all end at once none is; of 7 that end one by one each but the last leaves one gap."""
    moves: list[tuple[int, int]] = []
    real = cache.SlotCache.move

    def spy(self: Any, source: int, target: int, length: int) -> None:
        moves.append((source, target))
        real(self, source, target, length)

    monkeypatch.setattr(cache.SlotCache, "move", spy)
    respond(model, max_new_tokens=6)
    assert moves == []
    respond(model, stop_token_ids=tuple(range(0, 24, 5)), max_new_tokens=20)
    assert 0 < len(moves) < len(PROMPTS)
    assert all(target < source for source, target in moves)


def test_it_does_not_matter_how_far_ahead_random_numbers_are_drawn(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fidelity item 14: a number is a function of its key."""
    expected = rows(respond(model, slots=2))
    for ahead in (1, 3):
        monkeypatch.setattr(native, "AHEAD", ahead)
        assert rows(respond(model, slots=2)) == expected


def test_a_prompts_samples_share_its_prefill(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[1, 2, 3]] * 4 + [[5, 6]] * 3 + [[1, 2, 3]]
    prefilled: list[int] = []
    real = step.prompt_logits

    def spy(model: Any, filled: Any, tokens: Any, lengths: Any) -> Any:
        prefilled.append(len(tokens))
        return real(model, filled, tokens, lengths)

    monkeypatch.setattr("fairlead.generation.native.prompt_logits", spy)
    together = respond(model, prompts=prompts, sequence_ids=range(8))
    assert prefilled == [2]
    alone = [
        respond(model, prompts=[prompt], sequence_ids=[index])[0]
        for index, prompt in enumerate(prompts)
    ]
    assert rows(together) == rows(alone)
    assert len({tuple(row) for row in rows(together)}) == 8


def test_prefills_keep_to_the_token_budget(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 prompts, padding included: [5,5] 10, 4+4 and so on; a longer prompt goes alone."""
    shapes: list[torch.Size] = []
    real = step.prompt_logits

    def spy(model: Any, filled: Any, tokens: Any, lengths: Any) -> Any:
        shapes.append(tokens.shape)
        return real(model, filled, tokens, lengths)

    monkeypatch.setattr("fairlead.generation.native.prompt_logits", spy)
    whole = respond(model)
    shapes.clear()
    assert rows(respond(model, token_budget=6)) == rows(whole)
    # Longest first: 5 | 4 | 3, 3 | 2, 2, 1 would be 6 of width 2 | the last one.
    assert [tuple(shape) for shape in shapes] == [(1, 5), (1, 4), (2, 3), (3, 2), (1, 1)]


def test_next_tokens_have_the_teacher_forced_frequencies(model: Any) -> None:
    """Chi-squared at the first and the second token, 20,000 draws; fails one seed in 10,000."""
    count, prompt = 20_000, [5, 6, 7]
    found = respond(model, prompts=[prompt] * count, sequence_ids=range(count), max_new_tokens=2)
    drawn = torch.tensor(rows(found))

    def fits(tokens: torch.Tensor, context: list[int]) -> bool:
        logits = model(input_ids=torch.tensor([context])).logits[0, -1]
        expected = logits.detach().double().softmax(-1) * len(tokens)
        often = expected >= 5
        seen = torch.bincount(tokens, minlength=len(expected))[often].double()
        rest = max(float(expected[~often].sum()), 1e-9), len(tokens) - float(seen.sum())
        wanted, counted = expected[often].tolist(), seen.tolist()
        if rest[0] >= 5:
            wanted, counted = [*wanted, rest[0]], [*counted, rest[1]]
        total = sum(wanted)
        scaled = [one * sum(counted) / total for one in wanted]
        return bool(stats.chisquare(counted, scaled).pvalue > 1e-4)

    assert fits(drawn[:, 0], prompt)
    first = int(drawn[:, 0].mode().values)
    assert fits(drawn[drawn[:, 0] == first, 1], [*prompt, first])
    assert not fits(drawn[:, 0], [1])  # the test can tell distributions apart


def test_stop_tokens_end_a_response_and_are_part_of_it(model: Any) -> None:
    whole = respond(model)
    stop = (whole[0].tokens[3].item(), whole[2].tokens[1].item())
    for free, stopped in zip(whole, respond(model, stop_token_ids=stop), strict=True):
        hits = [i for i, token in enumerate(free.tokens.tolist()) if token in stop]
        length = hits[0] + 1 if hits else len(free.tokens)
        assert stopped.tokens.tolist() == free.tokens[:length].tolist()
        assert stopped.finish == ("stop" if hits else "length")
        assert len(stopped.logprobs) == length


def test_stop_strings_end_a_response_with_the_token_that_completes_them(model: Any) -> None:
    whole = respond(model)
    text = words(whole[0].tokens)
    wanted = (text[2:5], words(whole[1].tokens)[-2:])
    for backend in (NativeBackend(NativeConfig()), HfBackend(None)):  # type: ignore[arg-type]
        found = backend.generate(model, request(temperature=1.0, stop_strings=wanted, decode=words))
        for free, stopped in zip(whole, found, strict=True):
            said = words(free.tokens)
            ends = [said.index(one) + len(one) for one in wanted if one in said]
            length = min(ends) if ends else len(said)
            assert words(stopped.tokens) == said[:length]
            assert stopped.finish == ("stop" if ends else "length")
    assert len(found[0].tokens) <= 5


def test_a_stop_string_is_found_across_tokens_that_are_no_text() -> None:
    def decode(ids: Any) -> str:
        return "".join("" if one == 0 else chr(96 + one) for one in ids)

    stops = Stops(frozenset(), ("ab",), decode)
    assert not stops.ended_by_last([1])
    assert stops.ended_by_last([1, 0, 0, 2])
    assert stops.length([5, 1, 2, 1, 2]) == (3, True)
    assert stops.length([2, 1]) == (2, False)


@pytest.mark.parametrize(
    ("strings", "decode", "message"),
    [(("x",), None, "without a way to decode"), (("",), words, "empty stop string")],
)
def test_stop_strings_that_cannot_be_are_refused(strings: Any, decode: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stops(frozenset(), strings, decode)


def test_the_limit_is_the_contexts_where_a_prompt_leaves_less_room(model: Any) -> None:
    prompts = [[1] * (CONTEXT - 1), [2] * (CONTEXT - 4), [3, 4]]
    found = respond(model, prompts=prompts, sequence_ids=range(3), max_new_tokens=10)
    assert [len(one.tokens) for one in found] == [1, 4, 10]
    assert {one.finish for one in found} == {"length"}
    whole = model(input_ids=torch.tensor([prompts[0]])).logits[0, -1]
    logp = whole.log_softmax(-1)[found[0].tokens]
    torch.testing.assert_close(found[0].logprobs, logp.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [0, CONTEXT, CONTEXT + 1])
def test_a_prompt_without_room_is_refused_before_anything_is_run(model: Any, length: int) -> None:
    with pytest.raises(ValueError, match=f"prompt 1 has {length} tokens.*1 to {CONTEXT - 1}"):
        respond(model, prompts=[[1], [2] * length], sequence_ids=range(2))


def test_no_prompts_give_no_responses(model: Any) -> None:
    assert respond(model, prompts=[], sequence_ids=[]) == []


def test_a_batch_of_one_is_the_row_of_a_larger_one(model: Any) -> None:
    whole = respond(model)
    alone = respond(model, prompts=[PROMPTS[2]], sequence_ids=[2])
    assert rows(alone) == [rows(whole)[2]]


def test_the_models_attention_is_its_own_again_afterwards(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model.config._attn_implementation
    respond(model)
    assert model.config._attn_implementation == before
    monkeypatch.setattr("fairlead.generation.native.layer_shapes", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        respond(model)
    assert model.config._attn_implementation == before


def test_a_cache_that_does_not_fit_is_refused_with_what_would(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 layers x 2 x 4 heads x 4 numbers x 4 bytes = 256 bytes a token; 15 positions: 3,840."""
    monkeypatch.setattr(cache, "free_memory", lambda _: 3 * 3840)
    whole = respond(model)  # half of what is free: one slot
    assert rows(whole) == rows(respond(model, 2))
    with pytest.raises(ConfigError, match=r"cache of 8 sequences of 15 tokens.*slots to 3\."):
        respond(model, 8)
    monkeypatch.setattr(cache, "free_memory", lambda _: 3839)
    with pytest.raises(ConfigError, match=r"cache of 1 sequence of 15 tokens.*max_new_tokens"):
        respond(model)


def test_a_sliding_window_that_would_count_is_refused(tmp_path: Path) -> None:
    """Sequences of at most 5 + 10 = 15 tokens."""
    for window, fits in ((15, True), (14, False)):
        directory = save_causal(tmp_path / str(window), "mistral", sliding_window=window)
        model: Any = load_causal(str(directory), SingleDevice("cpu"), trained=True)
        if fits:
            assert len(respond(model)) == len(PROMPTS)
            continue
        with pytest.raises(ConfigError, match=r"up to 15 tokens.*attend to 14.*backend=hf"):
            respond(model)


def test_a_model_that_caps_its_attention_scores_is_refused(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
    )
    with pytest.raises(ConfigError, match=r"does not take this model's softcap.*backend=hf"):
        respond(Gemma2ForCausalLM(config).eval())


def test_bfloat16_log_probs_are_near_the_training_pass(tmp_path: Path) -> None:
    """Fidelity item 13: autocast rounds to 8 bits; 0.1 nats a token is far above what is seen."""
    strategy = SingleDevice("cpu", "bfloat16")
    model: Any = load_causal(
        str(save_causal(tmp_path, "llama", initializer_range=0.3)), strategy, trained=True
    )
    with strategy.autocast():
        found = respond(model)
        for prompt, one in zip(PROMPTS, found, strict=True):
            ids = torch.tensor([[*prompt, *one.tokens.tolist()]])
            logp = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            expected = logp.gather(1, one.tokens[:, None])[:, 0]
            torch.testing.assert_close(one.logprobs, expected.detach(), rtol=0, atol=0.1)


def test_chunked_attention_that_would_count_is_refused() -> None:
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    config = Llama4TextConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=16,
        intermediate_size_mlp=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        max_position_embeddings=64,
        attention_chunk_size=14,
        pad_token_id=0,
    )
    with pytest.raises(ConfigError, match=r"up to 15 tokens.*attend to 14.*backend=hf"):
        respond(Llama4ForCausalLM(config).eval())


def test_one_slot_is_given_where_one_fits(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sequence takes 3,840 bytes (see above); without a number half of the memory is left."""
    whole = respond(model)
    monkeypatch.setattr(cache, "free_memory", lambda _: 3840)
    assert rows(respond(model, 1)) == rows(whole)
    with pytest.raises(ConfigError, match=r"slots to 1\."):
        respond(model)
