"""One object to records, by format."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fairlead.records import Comparison, Demonstration, Prompt, Text, Turn
from fairlead_plugins.sources.parse import parse, parse_hh
from fairlead_plugins.sources.row import Fault, Row
from fairlead_plugins.sources.shared_prompt import split_texts, split_transcript

USER = {"role": "user", "content": "Hi?"}
GOOD = {"role": "assistant", "content": "Hello."}
BAD = {"role": "assistant", "content": "No."}
SYSTEM = {"role": "system", "content": ""}

WORDS = st.text(alphabet="ab \n\té", min_size=1, max_size=12)
SAID = st.text(min_size=1, max_size=30).filter(
    lambda s: bool(s.strip()) and "Human:" not in s and "Assistant:" not in s
)


def one(value, form="auto", **fields):
    (record,) = parse(Row(value, "f:1", fields), form)
    assert record.origin == "f:1"
    return record


def fault(value, form="auto", **fields):
    with pytest.raises(Fault) as caught:
        parse(Row(value, "f:1", fields), form)
    text = str(caught.value)
    assert "needed:" in text or "is missing, and needed" in text
    return text


@pytest.mark.parametrize("name", ["completion", "response"])
def test_prompt_and_completion_are_a_demonstration_joined_as_they_stand(name):
    record = one({"prompt": "2+2=", name: "4", "user": "u1", "level": 3})
    assert isinstance(record, Demonstration)
    assert record.turns == (Turn("user", "2+2="), Turn("assistant", "4"))
    assert (record.chat, record.user, record.metadata) == (False, "u1", {"level": 3})


def test_a_prompt_alone_is_a_prompt_and_null_counts_as_absent():
    record = one({"prompt": "2+2=", "completion": None, "chosen": None, "answer": 4})
    assert isinstance(record, Prompt)
    assert record.turns == (Turn("user", "2+2="),)
    assert record.metadata["answer"] == 4


def test_messages_that_end_with_the_assistant_are_a_demonstration_for_the_template():
    record = one({"messages": [SYSTEM, USER, GOOD], "id": 1})
    assert isinstance(record, Demonstration)
    assert record.chat
    assert record.response == "Hello."
    assert record.metadata == {"id": 1}
    assert isinstance(one({"messages": [USER, GOOD, USER]}), Prompt)


def test_a_comparison_with_a_prompt_takes_texts_as_they_stand():
    record = one({"prompt": "Q ", "chosen": "a", "rejected": "b"})
    assert isinstance(record, Comparison)
    assert (record.turns, record.responses, record.ranks) == (
        (Turn("user", "Q "),),
        ("a", "b"),
        (0.0, 1.0),
    )


@pytest.mark.parametrize(
    "value",
    [
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Hi?", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Hi?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": "Hello.", "rejected": "No."},
    ],
)
def test_a_comparison_of_messages_is_read_the_same_however_the_prompt_is_given(value):
    record = one(value)
    assert record.chat
    assert record.turns == (Turn("user", "Hi?"),)
    assert record.responses == ("Hello.", "No.")


def test_messages_share_their_prefix_at_message_level():
    turns = [SYSTEM, USER, GOOD, {"role": "user", "content": "And?"}]
    record = one({"chosen": [*turns, GOOD], "rejected": [*turns, BAD]})
    assert [turn.role for turn in record.turns] == ["system", "user", "assistant", "user"]


def test_a_ranking_keeps_ties_and_turns_ranks_to_floats():
    record = one({"prompt": "Q", "responses": ["a", "b", "c"], "ranks": [2, 1, 1], "by": "x"})
    assert record.responses == ("a", "b", "c")
    assert record.ranks == (2.0, 1.0, 1.0)
    assert record.best == "b"
    assert record.metadata == {"by": "x"}


def test_text_is_one_document():
    record = one({"text": " Once.\n", "source": "book"})
    assert isinstance(record, Text)
    assert record.prompt_text == " Once.\n"
    assert record.metadata == {"source": "book"}


def test_a_task_gives_one_demonstration_an_instance():
    value = {
        "instruction": "Add.",
        "instances": [{"input": "1 1", "output": "2"}, {"input": "", "output": "nothing"}],
        "name": "add",
    }
    records = parse(Row(value, "f:7"))
    assert [r.turns[0].text for r in records] == ["Add.\n\n1 1\n\n", "Add.\n\n"]
    assert [r.response for r in records] == ["2", "nothing"]
    assert all(r.metadata == {"name": "add"} and r.origin == "f:7" for r in records)


def test_a_flat_task_is_read_too():
    record = one({"instruction": "Add.", "input": "1 1", "output": "2"})
    assert record.turns[0].text == "Add.\n\n1 1\n\n"


def test_fields_rename_and_leave_a_taken_name_to_metadata():
    record = one({"q": "Q", "a": "A", "prompt": "other"}, prompt="q", completion="a")
    assert (record.turns[0].text, record.response) == ("Q", "A")
    assert record.metadata == {"prompt": "other"}
    # A name that another field is read from is not read twice.
    record = one({"prompt": "Q", "chosen": "A"}, completion="chosen")
    assert isinstance(record, Demonstration)
    assert record.metadata == {}


def test_a_named_format_leaves_other_fields_to_metadata():
    record = one({"prompt": "Q", "text": "T", "messages": [USER]}, "text")
    assert record.metadata == {"prompt": "Q", "messages": [USER]}


@pytest.mark.parametrize(("given_user", "kept"), [("u", "u"), (7, "7"), (" ", None), (None, None)])
def test_user_is_a_text_or_a_number_and_blank_is_unknown(given_user, kept):
    assert one({"prompt": "Q", "user": given_user}).user == kept


@pytest.mark.parametrize(
    ("value", "form", "reason"),
    [
        ({}, "auto", "the fields (none) are no format known"),
        ({"question": "Q"}, "auto", "the fields question are no format known"),
        ({"completion": "A"}, "prompt_completion", "the field 'prompt' is missing"),
        ({"prompt": " \n", "completion": "A"}, "auto", "'prompt' is an empty prompt"),
        ({"prompt": "Q", "completion": " "}, "auto", "'completion' is an empty response"),
        ({"prompt": "Q", "completion": 4}, "auto", "'completion' is 4, of type int"),
        ({"prompt": "Q", "completion": "a", "response": "b"}, "auto", "both 'completion'"),
        ({"prompt": "\ud800"}, "auto", "half of a surrogate pair"),
        ({"prompt": "Q", "user": True}, "auto", "'user' is True"),
        ({"prompt": "Q", "chosen": "a"}, "auto", "the field 'rejected' is missing"),
        ({"prompt": "Q", "chosen": "a", "rejected": "a"}, "auto", "are equal"),
        ({"chosen": "Q a", "rejected": "Q a"}, "auto", "are equal"),
        ({"chosen": "a", "rejected": "b"}, "auto", "share no prompt"),
        ({"chosen": " a", "rejected": " b"}, "auto", "share no prompt"),
        ({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, "auto", "are equal"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "auto", "'chosen' and 'rejected' share is empty"),
        ({"chosen": [USER], "rejected": [USER, BAD]}, "auto", "'chosen' has nothing"),
        ({"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, BAD]}, "auto", "one assistant"),
        ({"chosen": "a", "rejected": [USER, BAD]}, "auto", "'chosen' is 'a'; needed: a list"),
        (
            {"prompt": "Other?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
            "auto",
            "'prompt' ends with 'Other?'",
        ),
        ({"prompt": "Q", "responses": ["a"], "ranks": [1]}, "auto", "at least two responses"),
        ({"prompt": "Q", "responses": ["a", "b"], "ranks": [1]}, "auto", "beside 2 responses"),
        ({"prompt": "Q", "responses": ["a", "b"]}, "auto", "the field 'ranks' is missing"),
        ({"prompt": "Q", "responses": ["a", " "], "ranks": [1, 2]}, "auto", "'responses'[1]"),
        ({"prompt": "Q", "responses": ["a", "b"], "ranks": [1, True]}, "auto", "'ranks'[1] is"),
        ({"prompt": "Q", "responses": ["a", "b"], "ranks": [1, "2"]}, "auto", "a finite number"),
        (
            {"prompt": "Q", "responses": ["a", "b"], "ranks": [1, float("nan")]},
            "auto",
            "'ranks'[1] is nan",
        ),
        ({"prompt": "Q", "responses": ["a", "b"], "ranks": [1, 10**400]}, "auto", "a finite"),
        ({"messages": []}, "auto", "not empty"),
        ({"messages": [GOOD]}, "auto", "the prompt in 'messages' is empty"),
        ({"messages": [SYSTEM]}, "auto", "the prompt in 'messages' is empty"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "auto", "empty response"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "auto", "system, user, assistant"),
        ({"messages": [{"role": ["a"], "content": "x"}]}, "auto", "system, user, assistant"),
        ({"messages": [{"role": "user", "content": [1]}]}, "auto", "a text as content"),
        ({"messages": ["hi"]}, "auto", "'messages'[0] is 'hi'"),
        ({"text": "\n"}, "auto", "'text' is an empty document"),
        ({"instruction": "Add."}, "auto", "the field 'output' is missing"),
        ({"instruction": "Add.", "instances": []}, "auto", "at least one"),
        ({"instruction": "Add.", "instances": [1]}, "auto", "'instances'[0] is 1"),
        (
            {"instruction": "Add.", "instances": [{"input": "1"}]},
            "auto",
            "'instances'[0] 'output' is None",
        ),
        ({"instruction": "Add.", "input": 1, "output": "2"}, "auto", "the input is 1"),
        ({"prompt": [USER, GOOD]}, "auto", "ends with an assistant message"),
    ],
)
def test_a_bad_record_says_what_was_found_and_what_is_needed(value, form, reason):
    assert reason in fault(value, form)


def test_a_missing_field_lists_those_there_and_the_option_that_renames():
    text = fault({"question": "Q"}, "prompt_completion")
    assert "fields there: question" in text
    assert "fields: {prompt: NAME}" in text


# --- the prompt two texts share ---------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("2+2? It is four", "2+2? It is five", "2+2? It is"),
        ("Q\n\nYes", "Q\n\nNo", "Q\n\n"),
        ("Hi! Yes", "Hi!\nNo", "Hi!"),
        ("say foo", "say foo bar", "say"),
        ("say foo  ", "say foo bar", "say"),
        ("a word", "a world", "a"),
    ],
)
def test_plain_texts_are_cut_between_words(chosen, rejected, prompt):
    assert split_texts(chosen, rejected) == (
        prompt,
        chosen[len(prompt) :],
        rejected[len(prompt) :],
    )


@given(prompt=WORDS, chosen=WORDS, rejected=WORDS)
def test_prompt_and_response_give_back_the_text(prompt, chosen, rejected):
    try:
        found, better, worse = split_texts(prompt + chosen, prompt + rejected)
    except Fault:
        # Only where there is truly no cut: nothing shared but a piece of one word.
        shared = 0
        for a, b in zip(prompt + chosen, prompt + rejected, strict=False):
            if a != b:
                break
            shared += 1
        one_text, two = prompt + chosen, prompt + rejected
        for cut in range(1, shared + 1):
            rests = (one_text[cut:], two[cut:])
            if one_text[:cut].strip() and all(r.strip() for r in rests):
                assert not all(r[0].isspace() for r in rests)
        return
    assert found + better == prompt + chosen
    assert found + worse == prompt + rejected
    assert found.strip() and better.strip() and worse.strip()


def test_a_very_long_run_of_spaces_is_quick():
    split_texts("ask yes" + " " * 200_000, "ask no" + " " * 200_000)
    with pytest.raises(Fault):
        split_texts("foo" + " " * 200_000, "foo" + " " * 200_000 + "x")


# --- HH transcripts ---------------------------------------------------------------------


@given(
    turns=st.lists(st.tuples(SAID, SAID), max_size=3),
    question=SAID,
    chosen=SAID,
    rejected=SAID,
)
def test_transcript_turns_joined_are_the_prompt_exactly(turns, question, chosen, rejected):
    assume(chosen != rejected)
    prompt = "".join(f"\n\nHuman: {h}\n\nAssistant: {a}" for h, a in turns)
    prompt += f"\n\nHuman: {question}\n\nAssistant:"
    value = {"chosen": f"{prompt} {chosen}", "rejected": f"{prompt} {rejected}"}
    (record,) = parse_hh(Row(value, "f:1"))
    assert record.prompt_text == prompt
    assert record.responses == (f" {chosen}", f" {rejected}")
    assert record.ranks == (0.0, 1.0)
    assert [t.role for t in record.turns] == ["user", "assistant"] * len(turns) + ["user"]
    assert [t.text for t in record.turns[1::2]] == [f" {a}" for _, a in turns]
    assert parse(Row(value, "f:1")) == [record], "jsonl reads a transcript the same"


def test_two_speakers_in_a_row_lose_no_character():
    text = "\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nAssistant: d\n\nHuman: e\n\nAssistant: f"
    turns, reply = split_transcript(text, "x")
    assert "".join(turn.text for turn in turns) + reply == text
    assert [turn.role for turn in turns] == [
        "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip
    assert turns[2].text == "\n\nAssistant:"


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: A\n\nAssistant: c", "differ before it"),
        ("\n\nHuman: a\n\nAssistant: ", "\n\nHuman: a\n\nAssistant: c", "empty response"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: b", "are equal"),
        ("\n\nHuman: a", "\n\nHuman: a\n\nAssistant: c", "ends with a Human turn"),
        ("hello", "\n\nHuman: a\n\nAssistant: c", "begins with 'hello'"),
        ("\n\nHuman: \n\nAssistant: b", "\n\nHuman: \n\nAssistant: c", "empty prompt"),
        (" ", "\n\nHuman: a\n\nAssistant: c", "empty transcript"),
        (["a"], "\n\nHuman: a\n\nAssistant: c", "needed: a text"),
        (
            "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
            "\n\nHuman: a\n\nAssistant: c",
            "'chosen' (3 turns before its last reply) and 'rejected' (1)",
        ),
    ],
)
def test_a_broken_transcript_pair_is_a_fault(chosen, rejected, reason):
    with pytest.raises(Fault) as caught:
        parse_hh(Row({"chosen": chosen, "rejected": rejected}))
    assert reason in str(caught.value)
