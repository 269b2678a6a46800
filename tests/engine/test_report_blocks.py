"""Blocks a stage puts on the report: drawn true, read from any file, and never markup."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairlead.report import write_report
from fairlead.report.block_view import render_blocks
from fairlead.report.blocks import (
    Bar,
    Bars,
    Cell,
    Curve,
    Curves,
    Group,
    Sheet,
    Table,
    Text,
    read_blocks,
    write_blocks,
)

HOSTILE = "</svg></title><script>alert(1)</script><img src=x onerror=alert(2)>\"' &amp;"
ONE_OF_EACH = (
    Text("Words.\n\nMore.", title="A text"),
    Table(
        ("claim", "ours", "holds"),
        (("RLHF beats SFT", 0.75, Cell("yes", "good")), ("no tax", -3, Cell("no", "bad"))),
        title="A table",
        note="Of two runs.",
    ),
    Bars(
        (Group("nll", (Bar("ppo", -0.5, -0.75, -0.25), Bar("ptx", 0.25))),),
        title="Some bars",
        unit="nats",
        reference=0.5,
        low=-1.0,
        high=1.0,
        note="Held out.",
    ),
    Curves(
        (Curve("gold", ((0.0, 0.0), (2.0, 1.0), (1.0, 0.5)), smooth=True),),
        x="KL",
        y="reward",
        title="A curve",
        note="One run.",
    ),
)


class Page(HTMLParser):
    """The tags with their attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._last = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._last = tag

    def handle_data(self, data: str) -> None:
        if self._last not in ("style", "script") or data.strip() == "":
            self.text += data + "\n"

    def handle_endtag(self, tag: str) -> None:
        self._last = ""

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.tags if attribute in attrs]


def make_run(root: Path, *stages: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "run.json").write_text(json.dumps({"status": "finished", "stages": stages}))
    for name in stages:
        (root / name).mkdir()
        (root / name / "stage.json").write_text('{"status": "finished"}')
    return root


def page_of(root: Path) -> str:
    return write_report(root).read_text(encoding="utf-8")


def page_with(root: Path, content: Any) -> str:
    """Return the page of a run whose one stage left this in its report.json."""
    run = make_run(root, "own")
    text = content if isinstance(content, str) else json.dumps(content)
    (run / "own/report.json").write_text(text, encoding="utf-8")
    return page_of(run)


# --- the file ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["top", "stage"])
def test_what_is_written_is_read_back(tmp_path: Path, place: Any) -> None:
    write_blocks(tmp_path / "new", ONE_OF_EACH, place)
    assert read_blocks(tmp_path / "new/report.json") == Sheet(place, ONE_OF_EACH, 0)


def test_a_status_nobody_knows_is_plain(tmp_path: Path) -> None:
    cells = [{"text": "a", "status": odd} for odd in ("great", ["good"], None)]
    table = {"kind": "table", "columns": ["1", "2", "3"], "rows": [cells]}
    (tmp_path / "report.json").write_text(json.dumps({"blocks": [table]}))
    (block,) = read_blocks(tmp_path / "report.json").blocks
    assert block == Table(("1", "2", "3"), ((Cell("a"), Cell("a"), Cell("a")),))


def test_a_stage_without_the_file_has_no_blocks(tmp_path: Path) -> None:
    assert read_blocks(tmp_path / "no/report.json") == Sheet("stage", (), 0)


def test_the_file_is_plain_json_in_the_documented_form(tmp_path: Path) -> None:
    block = Bars((Group("g", (Bar("n", np.float32(0.5), low=math.nan),)),), reference=0.5)
    write_blocks(tmp_path, [block, Curves((Curve("c", ((1, math.inf),)),), x="KL", y="reward")])
    entry = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert entry["place"] == "stage"
    assert entry["blocks"][0]["kind"] == "bars"
    assert entry["blocks"][0]["reference"] == 0.5
    assert entry["blocks"][0]["groups"][0]["bars"] == [{"name": "n", "value": 0.5, "low": None}]
    assert entry["blocks"][1]["series"][0]["points"] == [[1.0, None]]


def test_half_of_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    write_blocks(tmp_path, [Text("a\ud800b")])
    assert read_blocks(tmp_path / "report.json").blocks == (Text("a?b"),)


@pytest.mark.parametrize(
    ("content", "lost"),
    [
        ("", 1),
        ("{", 1),
        ("[]", 1),
        ("null", 1),
        ("\xff\x00", 1),
        ("[" * 100_000, 1),
        ({}, 1),
        ({"blocks": "text"}, 1),
        ({"blocks": [1, None, [], {}, {"kind": []}, {"kind": "film"}]}, 6),
        ({"blocks": [{"kind": "text", "text": ["a"]}]}, 1),
        ({"blocks": [{"kind": "table", "columns": ["a"], "rows": [["1", "2"]]}]}, 1),
        ({"blocks": [{"kind": "table", "columns": "ab", "rows": []}]}, 1),
        ({"blocks": [{"kind": "bars", "groups": [{"label": "g", "bars": 3}]}]}, 1),
        ({"blocks": [{"kind": "bars", "groups": [{"bars": [{"name": {}}]}]}]}, 1),
        ({"blocks": [{"kind": "curves", "series": [{"points": [[1]]}]}]}, 1),
        ({"blocks": [{"kind": "curves", "series": {"a": 1}}]}, 1),
    ],
)
def test_a_damaged_file_is_noted_and_does_no_harm(tmp_path: Path, content: Any, lost: int) -> None:
    blocks = "block" if lost == 1 else "blocks"
    assert f"{lost} {blocks} of its files could not be read; left out." in page_with(
        tmp_path, content
    )


def test_a_directory_in_the_files_place_is_noted(tmp_path: Path) -> None:
    run = make_run(tmp_path, "own")
    (run / "own/report.json").mkdir()
    assert "1 block of its files could not be read" in page_of(run)


def test_damaged_lines_and_blocks_are_counted_apart_and_what_is_whole_is_shown(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path, "own")
    (run / "own/metrics.jsonl").write_text("rubbish\n{}\n")
    (run / "own/report.json").write_text('{"blocks": [3, {"kind": "text", "text": "whole"}]}')
    text = page_of(run)
    assert "2 lines and 1 block of its files could not be read; left out." in text
    assert "whole" in text
    assert "Nothing was recorded." not in text


# --- where they stand -------------------------------------------------------------------


def test_blocks_at_the_top_stand_between_the_header_and_the_stages(tmp_path: Path) -> None:
    run = make_run(tmp_path, "first", "second")
    write_blocks(run / "second", [Text("the verdict")], place="top")
    text = page_of(run)
    found = [text.index(mark) for mark in ("</header>", "the verdict", "id='stage-first'")]
    assert found == sorted(found)


def test_blocks_of_a_stage_stand_in_its_section_before_its_charts(tmp_path: Path) -> None:
    run = make_run(tmp_path, "first", "second")
    write_blocks(run / "first", [Text("of the stage")])
    rows = [{"step": i, "loss/train": 1.0} for i in (1, 2)]
    (run / "first/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = page_of(run)
    marks = ("id='stage-first'", "of the stage", "loss/train", "id='stage-second'")
    found = [text.index(mark) for mark in marks]
    assert found == sorted(found)


def test_every_link_of_the_page_leads_somewhere(tmp_path: Path) -> None:
    run = make_run(tmp_path, "first", "second")
    write_blocks(run / "first", ONE_OF_EACH, place="top")
    write_blocks(run / "second", ONE_OF_EACH)
    page = Page(page_of(run))
    targets, ids = page.values("href"), page.values("id")
    assert targets[:4] == ["#top-first-1", "#top-first-2", "#top-first-3", "#top-first-4"]
    assert {"#stages", "#what-ran", "#stage-first"} <= set(targets)
    assert {target.removeprefix("#") for target in targets} <= set(ids)
    assert len(ids) == len(set(ids))


# --- hostile text -----------------------------------------------------------------------


@pytest.mark.parametrize("place", ["top", "stage"])
def test_text_in_every_field_stays_text(tmp_path: Path, place: str) -> None:
    def page_saying(h: str) -> Page:
        return Page(page_with(tmp_path / str(h == HOSTILE), all_saying(h, place)))

    page, calm = page_saying(HOSTILE), page_saying("x" * len(HOSTILE))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in calm.tags]
    used = {name for _, attrs in page.tags for name in attrs}
    assert not any(name.startswith("on") for name in used)
    assert {"src", "style"}.isdisjoint(used)  # the page's policy would block both
    # Text: 2. Table: title, note, 3 columns, 3 cells. First bars: title (2, in the drawing too),
    # note, unit, tip, group and name in words. Second: tip, group and name in words, key.
    # Curves: title (2), note, axes (2), one name and x (4) in words, key.
    linked = 4 if place == "top" else 0
    assert page.text.count(HOSTILE) == 2 + 8 + 7 + 4 + 11 + linked
    assert page.values("data-column") == [HOSTILE] * 3


def all_saying(h: str, place: str) -> dict[str, Any]:
    """Return a file of blocks with this text wherever there is a text."""
    titled = {"title": h, "note": h}
    bar = {"name": h, "value": 1, "low": h, "high": h}
    line = {"name": h, "smooth": h, "points": [[0, 1], [2, 2], [1, 3]]}
    cells = [h, {"text": h, "status": "good"}, {"text": h, "status": h}]
    content = [
        {"kind": "text", "text": h, "title": h},
        {"kind": "table", "columns": [h, h, h], "rows": [cells], **titled},
        {"kind": "bars", "unit": h, "groups": [{"label": h, "bars": [bar]}], **titled},
        {"kind": "bars", "groups": [{"label": h, "bars": [bar, {**bar, "name": "b"}]}]},
        {"kind": "curves", "x": h, "y": h, "series": [line, {**line, "name": "b"}], **titled},
        {"kind": h},
    ]
    return {"place": place, "blocks": content}


# --- text and tables --------------------------------------------------------------------


def test_an_empty_line_begins_a_paragraph() -> None:
    html = render_blocks([Text("one\ntwo\n\n \nthree")], "k")
    assert re.findall(r"<p[^>]*>(.*?)</p>", html, re.DOTALL) == ["one\ntwo", "three"]


def test_a_status_is_a_mark_to_see_and_a_word_to_hear() -> None:
    """Never colour alone: the mark is hidden from a screen reader, which gets the word."""
    rows = [("a", Cell("held", "good")), ("b", Cell("fell", "bad")), ("c", Cell("open"))]
    html = render_blocks([Table(("claim", "holds"), rows)], "k")
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html)
    for cell, mark, word in ((cells[0], "\u2713", "good"), (cells[1], "\u2717", "bad")):
        assert f"<span aria-hidden='true'>{mark}</span>" in cell
        assert f"<span class='unseen'>{word}: </span>" in cell
    assert "status" not in cells[2]
    assert "open" in cells[2]


def test_a_cell_knows_its_column_and_the_first_names_the_row() -> None:
    html = render_blocks([Table(("claim", "ours"), [("RLHF", 0.5), ("tax",)])], "k")
    page = Page(html)
    assert page.values("data-column") == ["claim", "ours", "claim", "ours"]
    assert page.values("scope") == ["col", "col", "row", "row"]
    assert page.text.split() == ["claim", "ours", "RLHF", "0.5", "tax", "\u2013"]


def test_a_column_of_numbers_alone_is_set_to_the_right() -> None:
    table = Table(("name", "n", "mixed"), [("a", 1, 1), ("b", "", "few"), ("c", 12345.6, 3)])
    page = Page(render_blocks([table], "k"))
    set_right = [attrs for _, attrs in page.tags if attrs.get("class") == "figure"]
    assert [attrs.get("data-column") for attrs in set_right] == [None, "n", "n", "n"]
    assert "12,346" in page.text


# --- what is no number ------------------------------------------------------------------


ODD = ["0.5", None, True, [], {}, 10**400, math.nan, math.inf, -math.inf, 1e300]


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_number_leaves_a_gap_and_is_counted(tmp_path: Path, odd: Any) -> None:
    bar = {"name": "a", "value": 1, "low": odd, "high": odd}
    line = {"name": "a", "points": [[0, 1], [1, odd], [odd, 2], [3, 3]]}
    limits = {"reference": odd, "low": odd, "high": odd}
    content = [
        {"kind": "bars", "groups": [{"bars": [bar, {"name": "b", "value": odd}]}], **limits},
        {"kind": "curves", "x": "step", "y": "r", "series": [line]},
    ]
    text = page_with(tmp_path, {"blocks": content})
    assert "could not be read" not in text
    assert "1 value not finite." in text
    assert "2 values not finite." in text
    assert "b not measured" in text
    numbers = "".join(re.findall(r'(?:points|d|x|y|width|cx|cy)="([^"]*)"', text))
    assert "nan" not in numbers
    assert "inf" not in numbers
