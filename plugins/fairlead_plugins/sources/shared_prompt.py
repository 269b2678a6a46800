"""Finding the prompt that two texts or two conversations share."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from fairlead.records import Turn
from fairlead_plugins.sources.row import Fault, check_encodable, show

_MARKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
ASSISTANT = "Assistant"


def is_transcript(text: str) -> bool:
    """Whether a text begins as a ``Human: ... Assistant: ...`` transcript."""
    return bool(_MARKER.match(text)) and any(m[1] == ASSISTANT for m in _MARKER.finditer(text))


def split_transcript(text: str, where: str) -> tuple[tuple[Turn, ...], str]:
    r"""Split a transcript into its prompt and the last assistant reply.

    Args:
        text: Such as ``"\n\nHuman: hello\n\nAssistant: hi"``.
        where: The field's name, for messages.

    Returns:
        The prompt's turns and the reply. A user turn's text runs from ``\n\nHuman:`` to
        ``\n\nAssistant:``, both included; an assistant turn's text and the reply keep their
        leading space. All of it joined is the text.

    Raises:
        Fault: When it is no transcript, does not end with an assistant turn, or nobody
            asks anything.
    """
    check_encodable(text, where)
    markers = list(_MARKER.finditer(text))
    if not markers or markers[0].start() != 0:
        raise Fault(
            f"{where} begins with {show(text[:40])}; needed: a transcript that begins with "
            "'\\n\\nHuman:'"
        )
    if markers[-1][1] != ASSISTANT:
        raise Fault(f"{where} ends with a Human turn; needed: an Assistant turn at the end")
    ends = [marker.start() for marker in markers[1:]]
    asked = any(
        marker[1] != ASSISTANT and text[marker.end() : end].strip()
        for marker, end in zip(markers, ends, strict=False)
    )
    if not asked:
        raise Fault(f"{where} has an empty prompt; needed: a Human turn that says something")
    turns: list[Turn] = []
    start = 0
    for marker, end in zip(markers, ends, strict=False):
        if marker[1] == ASSISTANT:
            turns.append(Turn("user", text[start : marker.end()]))
            turns.append(Turn("assistant", text[marker.end() : end]))
            start = end
    turns.append(Turn("user", text[start : markers[-1].end()]))
    return tuple(turns), text[markers[-1].end() :]


def split_transcripts(chosen: str, rejected: str) -> tuple[tuple[Turn, ...], str, str]:
    """Split two transcripts that differ in the last reply alone.

    Returns:
        The shared turns, the chosen reply, the rejected reply.

    Raises:
        Fault: When an earlier turn differs: the replies then answer different prompts.
    """
    turns, better = split_transcript(chosen, "'chosen'")
    others, worse = split_transcript(rejected, "'rejected'")
    if turns != others:
        same = _common(chosen, rejected)
        raise Fault(
            f"'chosen' ({len(turns)} turns before its last reply) and 'rejected' ({len(others)}) "
            f"differ before it, from character {same} on: {show(chosen[same : same + 40])} and "
            f"{show(rejected[same : same + 40])}; needed: the same turns up to the last reply"
        )
    return turns, better, worse


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Split two plain texts into the prompt they share and what each goes on with.

    The prompt is the longest common beginning that ends between words and leaves both
    responses something. A space at the cut goes to the response, as a tokenizer's words
    begin with it; a line break stays with the prompt.

    Raises:
        Fault: When they share no whole word.
    """
    longest = min(len(chosen.rstrip()), len(rejected.rstrip())) - 1
    for cut in range(min(_common(chosen, rejected), longest), 0, -1):
        if _between_words(chosen, cut) and _between_words(rejected, cut):
            prompt = chosen[:cut]
            if not prompt.strip():
                break
            return prompt, chosen[cut:], rejected[cut:]
    raise Fault(
        f"'chosen' {show(chosen)} and 'rejected' {show(rejected)} share no prompt; needed: a "
        "'prompt' field, or texts that begin with the same words"
    )


def _common(one: str, other: str) -> int:
    return len(os.path.commonprefix([one, other]))  # noqa: RUF071 - characters, not paths


def _between_words(text: str, cut: int) -> bool:
    before, after = text[cut - 1], text[cut]
    return after.isspace() or (before.isspace() and before != " ")


def split_messages(
    chosen: Sequence[Turn], rejected: Sequence[Turn]
) -> tuple[tuple[Turn, ...], str, str]:
    """Split two conversations that differ in the last assistant message alone.

    Raises:
        Fault: When they differ in more, or share nothing.
    """
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    replies = []
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        own = turns[same:]
        if len(own) != 1 or own[0].role != "assistant":
            roles = ", ".join(turn.role for turn in own) or "nothing"
            raise Fault(
                f"behind the {same} messages that both share, {name!r} has {roles}; needed: one "
                "assistant message that differs"
            )
        replies.append(own[0].text)
    return tuple(chosen[:same]), replies[0], replies[1]
