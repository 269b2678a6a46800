"""From one JSON object to records. Pure: no files, no settings, no logging.

What each format reads; every other field becomes metadata, and an optional ``user`` says who
wrote the prompt:

- ``prompt_completion``: ``prompt`` with ``completion`` (or ``response``), or ``prompt`` alone.
- ``messages``: ``messages``, a list of ``{role, content}``.
- ``comparison``: ``chosen`` and ``rejected``, with ``prompt`` or with the prompt in both.
- ``ranking``: ``prompt``, ``responses`` and ``ranks`` (lower is better, equal is a tie).
- ``text``: ``text``, one document.
- ``tasks``: ``instruction``, optional ``input``, ``output``; or ``instances``, a list of
  ``{input, output}``. The prompt is the instruction, a blank line, the input and a blank
  line; without an input it is the instruction and a blank line.

A prompt may be a text or a list of messages, and a response a text or, in a conversation, a
list of one assistant message. Texts are joined as they stand; messages go through the
tokenizer's chat template.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from fairlead.records import Comparison, Demonstration, Prompt, Record, Text, Turn
from fairlead_plugins.sources.row import Fault, Row, check_encodable, check_text, show
from fairlead_plugins.sources.shared_prompt import (
    is_transcript,
    split_messages,
    split_texts,
    split_transcripts,
)

Format = Literal["auto", "prompt_completion", "messages", "comparison", "ranking", "text", "tasks"]
ROLES = ("system", "user", "assistant")


def parse(row: Row, form: Format = "auto") -> list[Record]:
    """Turn an object into records: one, but for a task with several instances.

    Raises:
        Fault: When it cannot be used; says what was found and what is needed.
    """
    return _PARSERS[_detect(row) if form == "auto" else form](row)


def parse_hh(row: Row) -> list[Record]:
    """Turn a pair of HH-RLHF transcripts into a comparison.

    Raises:
        Fault: When a transcript is broken or the shared turns differ.
    """
    chosen = row.text("chosen", "transcript")
    rejected = row.text("rejected", "transcript")
    turns, better, worse = split_transcripts(chosen, rejected)
    shared = _shared(row, "chosen", "rejected")
    return [_pair(_Asked(turns, chat=False), better, worse, shared)]


class _Asked(NamedTuple):
    """A prompt's turns, and whether they are for the chat template."""

    turns: tuple[Turn, ...]
    chat: bool


def _detect(row: Row) -> Format:
    if row.has("chosen") or row.has("rejected"):
        return "comparison"
    if row.has("responses"):
        return "ranking"
    if row.has("messages"):
        return "messages"
    if row.has("instruction"):
        return "tasks"
    if row.has("prompt"):
        return "prompt_completion"
    if row.has("text"):
        return "text"
    raise Fault(
        f"the fields {', '.join(map(str, row.value)) or '(none)'} are no format known; needed: "
        "prompt with completion, messages, chosen with rejected, prompt with responses and "
        "ranks, instruction with output, or text (where they are named otherwise: fields)"
    )


def _prompt_completion(row: Row) -> list[Record]:
    if row.has("completion") and row.has("response"):
        raise Fault(
            f"both {row.key('completion')!r} and {row.key('response')!r} are there; needed: one "
            "(name it with fields: {completion: NAME})"
        )
    asked = _asked(row)
    name: Literal["completion", "response"] = "response" if row.has("response") else "completion"
    shared = _shared(row, "prompt", name)
    if not row.has(name):
        return [Prompt(turns=asked.turns, chat=asked.chat, **shared)]
    reply = Turn("assistant", _reply(row.get(name), repr(row.key(name)), asked.chat))
    return [Demonstration(turns=(*asked.turns, reply), chat=asked.chat, **shared)]


def _messages(row: Row) -> list[Record]:
    where = repr(row.key("messages"))
    turns = _turns(row.need("messages"), where)
    shared = _shared(row, "messages")
    if turns[-1].role != "assistant":
        _check_asked(turns, where)
        return [Prompt(turns=turns, chat=True, **shared)]
    _check_asked(turns[:-1], where)
    check_text(turns[-1].text, f"the last message of {where}", "response")
    return [Demonstration(turns=turns, chat=True, **shared)]


def _comparison(row: Row) -> list[Record]:
    chosen, rejected = row.need("chosen"), row.need("rejected")
    shared = _shared(row, "prompt", "chosen", "rejected")
    if isinstance(chosen, list) or isinstance(rejected, list):
        return [_compare_messages(row, shared)]
    for name, value in (("'chosen'", chosen), ("'rejected'", rejected)):
        check_text(value, name, "response")
    if row.has("prompt"):
        return [_pair(_asked(row), chosen, rejected, shared)]
    _check_differ(chosen, rejected)
    if is_transcript(chosen) and is_transcript(rejected):
        turns, better, worse = split_transcripts(chosen, rejected)
    else:
        prompt, better, worse = split_texts(chosen, rejected)
        turns = (Turn("user", prompt),)
    return [_pair(_Asked(turns, chat=False), better, worse, shared)]


def _compare_messages(row: Row, shared: dict[str, Any]) -> Record:
    whole = {name: _turns(row.need(name), repr(row.key(name))) for name in ("chosen", "rejected")}
    prompt = _asked(row).turns if row.has("prompt") else ()
    for name, turns in whole.items():
        if turns[0].role == "assistant":
            whole[name] = (*prompt, *turns)
    _check_differ(whole["chosen"], whole["rejected"])
    asked, better, worse = split_messages(whole["chosen"], whole["rejected"])
    _check_asked(asked, "what 'chosen' and 'rejected' share")
    if prompt and asked[-1].text != prompt[-1].text:
        raise Fault(
            f"'prompt' ends with {show(prompt[-1].text)}, and 'chosen' and 'rejected' answer "
            f"{show(asked[-1].text)}; needed: the same prompt, or none beside whole conversations"
        )
    return _pair(_Asked(asked, chat=True), better, worse, shared)


def _pair(asked: _Asked, chosen: Any, rejected: Any, shared: dict[str, Any]) -> Comparison:
    replies = (
        _reply(chosen, "'chosen'", asked.chat),
        _reply(rejected, "'rejected'", asked.chat),
    )
    _check_differ(*replies)
    return Comparison(
        turns=asked.turns, chat=asked.chat, responses=replies, ranks=(0.0, 1.0), **shared
    )


def _check_differ(chosen: Any, rejected: Any) -> None:
    if chosen == rejected:
        raise Fault(
            "'chosen' and 'rejected' are equal, which prefers nothing; needed: two different "
            "responses"
        )


def _ranking(row: Row) -> list[Record]:
    asked = _asked(row)
    responses, ranks = row.need("responses"), row.need("ranks")
    key = row.key("responses")
    if not isinstance(responses, list) or len(responses) < 2:
        raise Fault(f"{key!r} is {show(responses)}; needed: a list of at least two responses")
    if not isinstance(ranks, list) or len(ranks) != len(responses):
        raise Fault(
            f"{row.key('ranks')!r} is {show(ranks)} beside {len(responses)} responses; needed: a "
            "list of as many numbers, lower is better, equal for a tie"
        )
    replies = tuple(_reply(item, f"{key!r}[{i}]", asked.chat) for i, item in enumerate(responses))
    numbers = tuple(_rank(item, f"{row.key('ranks')!r}[{i}]") for i, item in enumerate(ranks))
    for i, reply in enumerate(replies):
        twin = replies.index(reply)
        if numbers[twin] != numbers[i]:
            raise Fault(
                f"{key!r}[{twin}] and [{i}] are the same text, {show(reply)}, with ranks "
                f"{numbers[twin]:g} and {numbers[i]:g}; needed: one rank for one text"
            )
    return [
        Comparison(
            turns=asked.turns,
            chat=asked.chat,
            responses=replies,
            ranks=numbers,
            **_shared(row, "prompt", "responses", "ranks"),
        )
    ]


def _rank(value: Any, where: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            rank = float(value)
        except OverflowError:
            rank = math.inf
        if math.isfinite(rank):
            return rank
    raise Fault(f"{where} is {show(value)}; needed: a finite number")


def _text(row: Row) -> list[Record]:
    document = row.text("text", "document")
    return [Text(turns=(Turn("user", document),), **_shared(row, "text"))]


def _tasks(row: Row) -> list[Record]:
    instruction = row.text("instruction", "instruction")
    shared = _shared(row, "instruction", "input", "output", "instances")
    if row.has("output") or not row.has("instances"):
        given, output = row.get("input"), row.need("output")
        return [_task(instruction, given, output, repr(row.key("output")), shared)]
    instances = row.get("instances")
    if not isinstance(instances, list) or not instances:
        raise Fault(
            f"{row.key('instances')!r} is {show(instances)}; needed: a list of at least one "
            "{input, output}"
        )
    records: list[Record] = []
    for i, item in enumerate(instances):
        where = f"{row.key('instances')!r}[{i}]"
        if not isinstance(item, Mapping):
            raise Fault(f"{where} is {show(item)}; needed: {{input, output}}")
        one = Row(item, row.origin, row.fields)
        output, key = one.get("output"), row.key("output")
        records.append(_task(instruction, one.get("input"), output, f"{where} {key!r}", shared))
    return records


def _task(
    instruction: str, given: Any, output: Any, where: str, shared: dict[str, Any]
) -> Demonstration:
    if given is not None and not isinstance(given, str):
        raise Fault(f"the input is {show(given)}; needed: a text, empty where there is none")
    prompt = f"{instruction}\n\n"
    if given and given.strip():
        prompt += f"{check_encodable(given, 'the input')}\n\n"
    reply = Turn("assistant", check_text(output, where, "response"))
    return Demonstration(turns=(Turn("user", prompt), reply), **shared)


def _asked(row: Row) -> _Asked:
    value = row.need("prompt")
    where = repr(row.key("prompt"))
    if isinstance(value, list):
        turns = _turns(value, where)
        if turns[-1].role == "assistant":
            raise Fault(f"{where} ends with an assistant message; needed: a user message last")
        _check_asked(turns, where)
        return _Asked(turns, chat=True)
    return _Asked((Turn("user", check_text(value, where, "prompt")),), chat=False)


def _reply(value: Any, where: str, chat: bool) -> str:
    if chat and isinstance(value, list):
        turns = _turns(value, where)
        if len(turns) != 1 or turns[0].role != "assistant":
            raise Fault(f"{where} is {show(value)}; needed: one assistant message, or a text")
        value = turns[0].text
    return check_text(value, where, "response")


def _turns(value: Any, where: str) -> tuple[Turn, ...]:
    if not isinstance(value, list) or not value:
        raise Fault(f"{where} is {show(value)}; needed: a list of {{role, content}}, not empty")
    turns = []
    for i, item in enumerate(value):
        role, content = (
            (item.get("role"), item.get("content")) if isinstance(item, Mapping) else (None, None)
        )
        if role not in ROLES or not isinstance(content, str):
            raise Fault(
                f"{where}[{i}] is {show(item)}; needed: {{role, content}} with a role of "
                f"{', '.join(ROLES)} and a text as content"
            )
        turns.append(Turn(role, check_encodable(content, f"{where}[{i}]")))
    return tuple(turns)


def _check_asked(turns: tuple[Turn, ...], where: str) -> None:
    if not any(turn.text.strip() for turn in turns if turn.role != "assistant"):
        raise Fault(
            f"the prompt in {where} is empty; needed: a user message with more than whitespace"
        )


def _shared(row: Row, *used: Any) -> dict[str, Any]:
    return {"user": row.user(), "origin": row.origin, "metadata": row.rest(*used)}


_PARSERS: dict[Format, Callable[[Row], list[Record]]] = {
    "prompt_completion": _prompt_completion,
    "messages": _messages,
    "comparison": _comparison,
    "ranking": _ranking,
    "text": _text,
    "tasks": _tasks,
}
