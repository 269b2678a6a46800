"""``stage:NAME/FILE`` in a data source's settings: a file that an earlier stage wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import configure, context, minimal_stage

from fairlead.config import Spec
from fairlead.errors import ConfigError
from fairlead.records import Prompt
from fairlead.stages import STAGE_FILE

REFERENCE = "stage:first/asked.jsonl"


def jsonl(path: str) -> dict[str, Any]:
    return {"name": "jsonl", "path": path}


def source(settings: dict[str, Any]) -> Spec:
    """A data source as the second stage of a run has it."""
    second = {**minimal_stage(), "source": settings}
    config, _ = configure({"stages": {"first": minimal_stage(), "second": second}})
    spec: Spec = config.stages["second"].config.source
    return spec


def write(root: Path, *words: str, status: str = "finished", name: str = "asked.jsonl") -> None:
    """Leave a stage's directory behind, with one file of prompts."""
    (root / "first").mkdir(exist_ok=True)
    (root / "first" / STAGE_FILE).write_text(json.dumps({"status": status}))
    (root / "first" / name).write_text("".join(f'{{"prompt": "{word}"}}\n' for word in words))


def asked(root: Path, settings: dict[str, Any]) -> list[str]:
    records = context(root, "second").records(source(settings), Prompt)
    return [record.prompt_text for record in records]


def test_a_file_of_a_finished_stage_is_read(tmp_path: Path) -> None:
    write(tmp_path, "one", "two")
    assert asked(tmp_path, jsonl(REFERENCE)) == ["one", "two"]


def test_a_path_that_is_none_of_a_stage_stays(tmp_path: Path) -> None:
    write(tmp_path, "one")
    made = context(tmp_path, "second")
    path = str(tmp_path / "first" / "asked.jsonl")
    assert made.locate_file(REFERENCE) == path
    assert made.locate_file(path) == path
    assert asked(tmp_path, jsonl(path)) == ["one"]


def test_it_may_stand_in_a_source_inside_another(tmp_path: Path) -> None:
    write(tmp_path, "one", "two")
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "three"}\n')
    parts = [{"source": jsonl(REFERENCE)}, {"source": jsonl(str(other))}]
    nested = {"name": "mixture", "sources": [{"source": {"name": "mixture", "sources": parts}}]}
    found = asked(tmp_path, nested)
    assert len(found) == 3 and set(found) <= {"one", "two", "three"} and "three" in found
    assert {"one", "two"} & set(found)


def test_the_settings_themselves_go_on_naming_the_stage(tmp_path: Path) -> None:
    """What is written down of a run holds no path of the machine it ran on."""
    write(tmp_path, "one")
    spec = source({"name": "mixture", "sources": [{"source": jsonl(REFERENCE)}]})
    before = spec.dump()
    context(tmp_path, "second").records(spec, Prompt)
    assert spec.dump() == before
    assert REFERENCE in json.dumps(before)


@pytest.mark.parametrize("status", ["running", "failed"])
def test_a_stage_that_is_not_finished_has_no_files_yet(tmp_path: Path, status: str) -> None:
    write(tmp_path, "one", status=status)
    with pytest.raises(ConfigError) as caught:
        asked(tmp_path, jsonl(REFERENCE))
    assert str(caught.value) == (
        "stage 'second' reads stage:first/asked.jsonl, and this run's directory holds no "
        "'asked.jsonl' of a finished stage 'first'. Run that stage into the same --out first "
        "(`fairlead pipeline` runs all), or give the path of a file."
    )


def test_a_file_that_a_finished_stage_did_not_write_is_named(tmp_path: Path) -> None:
    write(tmp_path, "one", name="other.jsonl")
    with pytest.raises(ConfigError, match=r"holds no 'asked\.jsonl' of a finished stage 'first'"):
        asked(tmp_path, jsonl(REFERENCE))


def test_a_stage_that_never_ran_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"reads stage:first/asked\.jsonl.*finished stage 'first'"
    ):
        asked(tmp_path, {"name": "mixture", "sources": [{"source": jsonl(REFERENCE)}]})


def test_a_stage_without_a_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "one")
    with pytest.raises(ConfigError, match=r"'second' reads stage:first, .* finished stage 'first'"):
        asked(tmp_path, jsonl("stage:first"))


def test_a_stage_that_does_not_come_earlier_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="takes stage:third, which is not an earlier stage"):
        source(jsonl("stage:third/asked.jsonl"))
