"""What is trained on, how rows are packed, and what the loss is divided by."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import save_causal, word_tokenizer
from transformers import AutoModelForCausalLM

from fairlead import lm
from fairlead.data import cut_blocks, pack
from fairlead.encode import Encoded, Encoder
from fairlead.errors import DataError
from fairlead.models import load_causal, target_logits, target_logprobs
from fairlead.records import Comparison, Demonstration, Turn
from fairlead.strategy import SingleDevice

CPU = SingleDevice("cpu")
# The vocabulary of save_causal: w0 .. w21 are 0 .. 21, <eos> is 22, <pad> is 23.
EOS, PAD = 22, 23
WORDS = [f"w{index}" for index in range(22)]

APPENDS = (
    "{% for m in messages %}{{ 'w1 ' if m.role == 'user' else 'w2 ' }}{{ m.content }} "
    "{% if m.role == 'assistant' %}<eos> w9 {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}w2 {% endif %}"
)
# Only the last assistant turn keeps its text, as templates that drop earlier reasoning do.
REWRITES = (
    "{% for m in messages %}{{ 'w1 ' if m.role == 'user' else 'w2 ' }}"
    "{{ m.content if m.role == 'user' or loop.last else 'w0' }} {% endfor %}"
    "{% if add_generation_prompt %}w2 {% endif %}"
)


def tokenizer(template: str | None = None, pad: str | None = "<pad>") -> Any:
    made = word_tokenizer(WORDS, pad=pad)
    made.chat_template = template
    return made


def conversation(chat: bool = False) -> Demonstration:
    turns = (
        Turn("user", "w3 w4"),
        Turn("assistant", "w5"),
        Turn("user", "w6"),
        Turn("assistant", "w7 w8"),
    )
    return Demonstration(turns=turns, chat=chat)


def demonstration() -> Demonstration:
    return Demonstration(turns=(Turn("user", "w3 w4"), Turn("assistant", "w5 w6")))


def trained_on(encoded: Encoded) -> list[int]:
    return [token for token, counts in zip(encoded.ids, encoded.targets, strict=True) if counts]


# --- item 1 -------------------------------------------------------------------------------


def test_loss_is_on_response_tokens_only_eos_included() -> None:
    """Fidelity item 1."""
    encoded = Encoder(tokenizer()).demonstration(demonstration())
    assert encoded.ids == (3, 4, 5, 6, EOS)
    assert encoded.targets == (False, False, True, True, True)


def test_the_last_prompt_position_predicts_the_first_response_token(tmp_path: Path) -> None:
    """Fidelity item 1: logits of positions 1, 2, 3 for the targets at 2, 3, 4."""
    model: Any = load_causal(str(save_causal(tmp_path)), CPU, trained=False)
    tokens = torch.tensor([[3, 4, 5, 6, EOS]])
    targets = torch.tensor([[False, False, True, True, True]])
    whole = model(tokens).logits[0]
    torch.testing.assert_close(target_logits(model, tokens, targets), whole[1:4])
    logprobs, _ = target_logprobs(model, tokens, targets)
    by_hand = torch.stack([whole[p].log_softmax(-1)[tokens[0, p + 1]] for p in (1, 2, 3)])
    torch.testing.assert_close(logprobs, by_hand)


def test_several_turns_train_on_the_last_or_on_all() -> None:
    """Fidelity item 1: every assistant turn ends in EOS, and EOS counts with it."""
    last = Encoder(tokenizer(), "last").demonstration(conversation())
    every = Encoder(tokenizer(), "all").demonstration(conversation())
    assert last.ids == every.ids == (3, 4, 5, EOS, 6, 7, 8, EOS)
    assert trained_on(last) == [7, 8, EOS]
    assert trained_on(every) == [5, EOS, 7, 8, EOS]


def test_a_conversation_that_opens_with_the_assistant_has_no_target_to_begin_with() -> None:
    record = Demonstration(turns=(Turn("assistant", "w5 w6"),))
    assert trained_on(Encoder(tokenizer(), "all").demonstration(record)) == [6, EOS]


def test_a_chat_template_marks_the_same_tokens() -> None:
    """Fidelity item 1: w1 and w2 are the role marks; what follows <eos> (w9) is context."""
    ids = (1, 3, 4, 2, 5, EOS, 9, 1, 6, 2, 7, 8, EOS)
    last = Encoder(tokenizer(APPENDS), "last").demonstration(conversation(chat=True))
    every = Encoder(tokenizer(APPENDS), "all").demonstration(conversation(chat=True))
    assert last.ids == every.ids == ids
    assert trained_on(last) == [7, 8, EOS]
    assert trained_on(every) == [5, EOS, 7, 8, EOS]


def test_a_chat_response_ends_at_its_eos_where_a_rollout_would_stop() -> None:
    """Fidelity items 1 and 5: a reward model reads the token a rollout ends with, not w9."""
    record = Comparison(
        turns=(Turn("user", "w3"),), chat=True, responses=("w5", "w6"), ranks=(0.0, 1.0)
    )
    encoder = Encoder(tokenizer(APPENDS))
    assert encoder.prompt(record) == [1, 3, 2]
    assert encoder.ranking(record).sequences == ((1, 3, 2, 5, EOS), (1, 3, 2, 6, EOS))


def test_a_chat_template_without_eos_has_one_added() -> None:
    template = APPENDS.replace("<eos> w9 ", "")
    encoded = Encoder(tokenizer(template)).demonstration(conversation(chat=True))
    assert trained_on(encoded) == [7, 8, EOS]


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    with pytest.raises(DataError, match="rewrites earlier turns"):
        Encoder(tokenizer(REWRITES), "all").demonstration(conversation(chat=True))


def test_rewritten_earlier_turns_are_context_when_only_the_last_is_trained_on() -> None:
    """Ids of the prompt are those a rollout is given, whatever becomes of earlier turns."""
    encoder = Encoder(tokenizer(REWRITES), "last")
    encoded = encoder.demonstration(conversation(chat=True))
    prompt = encoder.prompt(conversation(chat=True))
    assert prompt == [1, 3, 4, 2, 0, 1, 6, 2]  # w5 has become w0
    assert encoded.ids == (*prompt, 7, 8, EOS)
    assert trained_on(encoded) == [7, 8, EOS]


def test_messages_need_a_chat_template() -> None:
    with pytest.raises(DataError, match="no chat template"):
        Encoder(tokenizer()).demonstration(conversation(chat=True))


# --- item 2 -------------------------------------------------------------------------------


def test_a_pad_token_that_is_eos_does_not_mask_the_real_eos() -> None:
    """Fidelity item 2."""
    same = tokenizer(pad="<eos>")
    assert same.pad_token_id == same.eos_token_id == EOS
    encoder = Encoder(same)
    short = Demonstration(turns=(Turn("user", "w3"), Turn("assistant", "w5")))
    examples = [encoder.demonstration(demonstration()), encoder.demonstration(short)]
    (batch,) = lm.batch_examples(examples, token_budget=100)
    assert batch.tokens[batch.targets].tolist() == [5, 6, EOS, 5, EOS]
    assert batch.weight == 5


def test_padding_is_never_a_target() -> None:
    """Fidelity item 2: whatever id fills it."""
    short = Encoded((3, 5), (False, True))
    long = Encoded((3, 4, 5, EOS), (False, False, True, True))
    (batch,) = lm.batch_examples([short, long], token_budget=100)
    assert batch.targets.tolist() == [[False, False, True, True], [False, True, False, False]]


# --- item 3 -------------------------------------------------------------------------------


def three_examples() -> list[Encoded]:
    rows = [(3, 4, 5, 6, EOS), (7, 8, EOS), (9, 10, 11, 12, 13, EOS)]
    return [Encoded(row, (False, *[True] * (len(row) - 1))) for row in rows]


def logprobs(model: Any, batch: lm.LmBatch) -> torch.Tensor:
    found, _ = target_logprobs(
        model, batch.tokens, batch.targets, 1.0, batch.positions, batch.attention
    )
    return found


@pytest.mark.parametrize(
    "family", ["gpt2", "llama", "qwen2", "opt", "gpt_neox", "mistral", "qwen3"]
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packing_leaves_every_log_probability_as_it_was(
    family: str, attention: str, tmp_path: Path
) -> None:
    """Fidelity item 3: no example attends to another."""
    model: Any = load_causal(str(save_causal(tmp_path, family)), CPU, trained=False)
    model.set_attn_implementation(attention)
    # Enlarged, or a tiny random model's attention is too even for a leak to show.
    for name, parameter in model.named_parameters():
        parameter.data *= 8 if parameter.ndim == 2 and "embed" not in name else 1
    examples = three_examples()
    alone = [logprobs(model, lm.batch_examples([one], 100)[0]) for one in examples]
    # One row of 14 and its last place empty, the examples by falling length: 6, 5, 3.
    (packed,) = lm.batch_examples(examples, 100, packed_width=15)
    assert packed.tokens.shape == (1, 14)
    expected = torch.cat([alone[2], alone[0], alone[1]])
    torch.testing.assert_close(logprobs(model, packed), expected, atol=2e-5, rtol=1e-5)


def test_positions_restart_with_each_packed_example() -> None:
    """Fidelity item 3."""
    examples = [((3, 4, EOS), (False, True, True)), ((7, EOS), (False, True))]
    packed = pack(examples, [[0, 1], [1]])
    assert packed.positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0]]
    assert packed.targets.tolist() == [
        [False, True, True, False, True],
        [False, True, False, False, False],
    ]
    # Row 0: three positions see each other backwards, then two; padding sees padding only.
    assert packed.attention[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_the_first_token_of_a_packed_example_is_never_a_target() -> None:
    """Fidelity item 3: the last token of the example before it would predict it."""
    packed = pack([((3, EOS), (False, True)), ((7, EOS), (False, True))], [[0, 1]])
    assert packed.tokens[packed.targets].tolist() == [EOS, EOS]


def test_pretraining_text_is_packed_end_to_end_with_a_separator() -> None:
    """Fidelity item 3: 5 + 3 + 1 tokens with separators; the tail of 1 fills no block."""
    blocks, segments = cut_blocks([[1, 2, 3, 4], [5, 6], []], EOS, width=4)
    assert blocks.tolist() == [[1, 2, 3, 4], [EOS, 5, 6, EOS]]
    assert segments.tolist() == [[1, 1, 1, 1], [1, 2, 2, 2]]


def test_without_a_document_mask_text_is_one_stream() -> None:
    """Fidelity item 3: as GPT-3's; every token of a block but its first is a target."""
    blocks, _ = cut_blocks([[1, 2], [3, 4, 5]], EOS, width=7)
    (batch,) = lm.block_batches(blocks, None, token_budget=100)
    assert batch.attention is None
    assert batch.positions is None
    assert batch.tokens[batch.targets].tolist() == [2, EOS, 3, 4, 5, EOS]


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_a_document_mask_keeps_documents_apart(family: str, tmp_path: Path) -> None:
    """Fidelity item 3: as if each document had been a row of its own."""
    model: Any = load_causal(str(save_causal(tmp_path, family)), CPU, trained=False)
    documents = [[1, 2, 3], [4, 5], [6, 7, 8]]
    blocks, segments = cut_blocks(documents, EOS, width=11)
    (batch,) = lm.block_batches(blocks, segments, token_budget=100)
    assert batch.positions is not None
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3]]
    # A document's first token has nothing of its own to be predicted from.
    assert batch.tokens[batch.targets].tolist() == [2, 3, EOS, 5, EOS, 7, 8, EOS]
    alone = [
        logprobs(
            model, lm.block_batches(torch.tensor([[*document, EOS]]), None, token_budget=100)[0]
        )
        for document in documents
    ]
    torch.testing.assert_close(logprobs(model, batch), torch.cat(alone), atol=2e-5, rtol=1e-5)


# --- item 4 -------------------------------------------------------------------------------


def gradient(model: Any, batches: list[lm.LmBatch]) -> torch.Tensor:
    model.zero_grad()
    weight = sum(batch.weight for batch in batches)
    lm.backward(model, batches, weight, CPU, what="the loss", step=1)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_the_gradient_is_the_same_however_the_batch_is_cut(tmp_path: Path) -> None:
    """Fidelity item 4: one forward of three rows, three forwards, or packed rows."""
    model = load_causal(str(save_causal(tmp_path)), CPU, trained=True)
    examples = three_examples()
    together = lm.batch_examples(examples, token_budget=1000)
    apart = lm.batch_examples(examples, token_budget=1)
    assert (len(together), len(apart)) == (1, 3)
    whole = gradient(model, together)
    torch.testing.assert_close(gradient(model, apart), whole, atol=1e-7, rtol=1e-5)
    packed = lm.batch_examples(examples, token_budget=1000, packed_width=9)
    torch.testing.assert_close(gradient(model, packed), whole, atol=1e-7, rtol=1e-5)


class ConstantModel(torch.nn.Module):
    """Predicts every token with one learnt distribution, so that means can be had by hand."""

    _plain_head = False

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.log(torch.tensor([0.5, 0.25, 0.25])))

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        logits = self.logits.expand(*input_ids.shape, 3)
        return type("Output", (), {"logits": logits})


def test_the_loss_is_a_mean_over_the_batch_and_not_a_mean_of_means() -> None:
    """Fidelity item 4.

    One example has 3 targets of probability 1/2, the other 1 target of probability 1/4:
    over tokens (3 log 2 + log 4) / 4 = 1.25 log 2; a mean of means would be
    (log 2 + log 4) / 2 = 1.5 log 2. Gradient of the logit of token 0 (p = 1/2): over tokens
    1/2 - 3/4 = -1/4; a mean of means 1/2 - (1 + 0) / 2 = 0.
    """
    model = ConstantModel()
    examples = [
        Encoded((0, 0, 0, 0), (False, True, True, True)),
        Encoded((0, 1), (False, True)),
    ]
    for budget in (1, 100):
        batches = lm.batch_examples(examples, budget)
        model.zero_grad()
        total = lm.backward(model, batches, 4, CPU, what="the loss", step=1)
        assert total / 4 == pytest.approx(1.25 * math.log(2))
        assert model.logits.grad is not None
        assert model.logits.grad[0].item() == pytest.approx(-0.25)
        assert lm.mean_loss(model, batches, CPU) == pytest.approx(1.25 * math.log(2))


def test_our_loss_is_the_one_transformers_computes(tmp_path: Path) -> None:
    """Fidelity items 1 and 4: against labels of -100 on the prompt and on the padding."""
    save_causal(tmp_path)
    model = load_causal(str(tmp_path), CPU, trained=False)
    batches = lm.batch_examples(three_examples(), token_budget=1000)
    (batch,) = batches
    labels = batch.tokens.masked_fill(~batch.targets, -100)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)(batch.tokens, labels=labels).loss
    assert lm.mean_loss(model, batches, CPU) == pytest.approx(theirs.item(), rel=1e-5)
