"""The sources themselves: registration, settings, bad records, files."""

import gzip
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from fairlead.errors import EXIT_DATA, DataError
from fairlead.records import Comparison, Demonstration, Text, convert
from fairlead_plugins.sources.gather import gather
from fairlead_plugins.sources.hh import HhConfig, HhSource
from fairlead_plugins.sources.inline import InlineConfig, InlineSource
from fairlead_plugins.sources.jsonl import JsonlConfig, JsonlSource
from fairlead_plugins.sources.tasks import TasksConfig, TasksSource
from fairlead_plugins.sources.text import TextConfig, TextSource

NAMES = ["datasets", "hh", "inline", "jsonl", "mixture", "tasks", "text"]


def jsonl(tmp_path, lines, **settings):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(s if isinstance(s, str) else json.dumps(s) for s in lines))
    return path, JsonlSource(JsonlConfig(path=str(path), **settings))


def error_of(source):
    with pytest.raises(DataError) as caught:
        source.load()
    assert caught.value.exit_code == EXIT_DATA
    return str(caught.value)


def test_every_source_is_registered_and_loads(registry):
    assert registry.names("data_sources") == NAMES
    for name in NAMES:
        factory = registry.get("data_sources", name).load()
        assert callable(factory.load)
        assert "Attributes:" in factory.Config.__doc__


def test_registration_imports_nothing_heavy():
    code = (
        "import sys, fairlead_plugins.sources.plugin\n"
        "print([m for m in ('torch', 'datasets', 'pydantic', 'numpy') if m in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (out.stdout.strip(), out.returncode) == ("[]", 0), out.stderr


def test_jsonl_records_carry_their_file_and_line(tmp_path):
    path, source = jsonl(tmp_path, [{"prompt": "a"}, "", {"prompt": "b", "completion": "c"}])
    records = source.load()
    assert [r.origin for r in records] == [f"{path}:1", f"{path}:3"]


def test_a_first_bad_record_names_line_found_needed_and_skip(tmp_path):
    path, source = jsonl(tmp_path, [{"prompt": "a"}, {"prompt": "b", "completion": ""}])
    message = error_of(source)
    assert message.startswith(f"{path}:2: ")
    assert "empty response ('')" in message
    assert "needed: more than whitespace" in message
    assert "set skip: N to leave up to N bad records out" in message


def test_skip_leaves_bad_records_out_and_the_log_says_how_many_and_why(tmp_path, caplog):
    lines = [{"prompt": ""}, {"prompt": "b"}, '{"prompt": ', {"prompt": "d"}]
    path, source = jsonl(tmp_path, lines, skip=2)
    with caplog.at_level(logging.WARNING, "fairlead.data"):
        records = source.load()
    assert [r.prompt_text for r in records] == ["b", "d"]
    (entry,) = caplog.records
    assert (entry.name, entry.levelno) == ("fairlead.data", logging.WARNING)
    assert "left out 2 bad record(s)" in entry.getMessage()
    assert f"The first: {path}:1: 'prompt' is an empty prompt" in entry.getMessage()


def test_one_more_than_skip_is_an_error_with_count_cap_and_the_latest_fault(tmp_path):
    lines = [{"prompt": ""}, {"prompt": "b"}, "[", {"prompt": 7}, {"prompt": "x"}]
    path, source = jsonl(tmp_path, lines, skip=2)
    message = error_of(source)
    assert message.startswith(f"{path}:4: 'prompt' is 7")
    assert "bad record 3, and skip: 2 allows 2" in message
    assert "raise skip" in message


def test_nothing_is_logged_when_nothing_is_wrong(tmp_path, caplog):
    jsonl(tmp_path, [{"prompt": "a"}], skip=5)[1].load()
    assert not caplog.records


def test_nothing_left_is_an_error(tmp_path):
    assert "holds no usable record (1 bad" in error_of(jsonl(tmp_path, ["{"], skip=3)[1])
    path = tmp_path / "array.json"
    path.write_text("[]")
    assert "holds no usable record" in error_of(JsonlSource(JsonlConfig(path=str(path))))


def test_a_task_with_one_bad_instance_is_left_out_whole(tmp_path):
    bad = {"instruction": "a", "instances": [{"output": "x"}, {"output": ""}]}
    _, source = jsonl(tmp_path, [bad, {"instruction": "b", "output": "y"}], skip=1)
    assert [r.response for r in source.load()] == ["y"]


def test_settings_are_checked(tmp_path):
    for settings in ({"skip": -1}, {"format": "xml"}, {"fields": {"promt": "q"}}, {"other": 1}):
        with pytest.raises(ValidationError):
            JsonlConfig(path="x", **settings)
    with pytest.raises(ValidationError):
        TextConfig(path="x", separator="")
    with pytest.raises(ValidationError):
        TextConfig(path=[])
    with pytest.raises(ValidationError):
        InlineConfig(records=[])


def test_gather_passes_other_errors_on():
    def broken(item, origin):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gather([("a", 1)], broken, 10, "s")


def test_inline_records_are_numbered():
    source = InlineSource(InlineConfig(records=[{"q": "a"}, {"q": "b"}], fields={"prompt": "q"}))
    assert [r.origin for r in source.load()] == ["inline:1", "inline:2"]
    assert error_of(InlineSource(InlineConfig(records=[{}]))).startswith("inline:1: ")


def test_hh_reads_pairs_and_names_a_bad_one(tmp_path):
    start = "\n\nHuman: a\n\nAssistant:"
    rows = [
        {"chosen": f"{start} b", "rejected": f"{start} c", "user": "u", "topic": 1},
        {"chosen": f"{start} ", "rejected": f"{start} c"},
    ]
    path = tmp_path / "hh.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert f"{path}:2: 'chosen' is an empty response" in error_of(
        HhSource(HhConfig(path=str(path)))
    )
    (record,) = HhSource(HhConfig(path=str(path), skip=1)).load()
    assert isinstance(record, Comparison)
    assert (record.user, record.metadata, record.origin) == ("u", {"topic": 1}, f"{path}:1")
    assert convert(record, Demonstration).response == " b"


def test_tasks_reads_what_jsonl_reads_as_tasks(tmp_path):
    path, source = jsonl(
        tmp_path,
        [{"id": "1", "instruction": "a", "instances": [{"input": "i", "output": "o"}]}],
        format="tasks",
    )
    assert list(TasksSource(TasksConfig(path=str(path))).load()) == list(source.load())


# --- text -------------------------------------------------------------------------------


def documents(**settings):
    records = TextSource(TextConfig(**settings)).load()
    assert all(isinstance(record, Text) for record in records)
    return [(record.prompt_text, Path(record.origin).name) for record in records]


def test_a_text_file_is_one_document_as_it_stands(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\n")
    assert documents(path=str(path)) == [("one\n\ntwo\n", "a.txt:1")]


def test_a_separator_splits_documents_and_blank_ones_are_dropped(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress("one\n\n\n\n \n\ntwo\nlines\n\nthrée".encode()))
    assert documents(path=str(path), separator="\n\n") == [
        ("one", "a.gz:1"),
        ("two\nlines", "a.gz:7"),
        ("thrée", "a.gz:10"),
    ]


def test_a_directory_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "sub/c.txt", "a.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "z.txt.gz").write_bytes(gzip.compress(b"z"))
    (tmp_path / "not.md").write_text("no")
    assert [text for text, _ in documents(path=str(tmp_path))] == [
        "a.txt", "b.txt", "sub/c.txt", "z",
    ]  # fmt: skip
    given = [str(tmp_path / "b.txt"), str(tmp_path / "sub")]
    assert [text for text, _ in documents(path=given)] == ["b.txt", "sub/c.txt"]


def test_text_that_cannot_be_used(tmp_path):
    assert "holds no .txt or .txt.gz" in error_of(TextSource(TextConfig(path=str(tmp_path))))
    missing = TextSource(TextConfig(path=str(tmp_path / "no.txt")))
    assert "there is no such file" in error_of(missing)
    path = tmp_path / "a.txt"
    path.write_bytes(b" \n")
    assert "holds no usable record" in error_of(TextSource(TextConfig(path=str(path))))


def test_a_document_that_is_not_utf8_costs_that_document_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n\ntwo\nb\xffd\n\nthree")
    source = TextSource(TextConfig(path=str(path), separator="\n\n"))
    assert "a.txt:3: not valid UTF-8: byte 0xff in line 4" in error_of(source)
    assert [t for t, _ in documents(path=str(path), separator="\n\n", skip=1)] == ["one", "three"]


# --- the real files ---------------------------------------------------------------------

DATA = os.environ.get("FAIRLEAD_DATA")
needs_data = pytest.mark.skipif(
    not DATA, reason="set FAIRLEAD_DATA to the directory that holds hh_harmless.jsonl.gz and others"
)


@needs_data
def test_real_hh_pairs_come_back_character_for_character():
    path = Path(DATA) / "hh_harmless.jsonl.gz"
    records = HhSource(HhConfig(path=str(path), skip=9)).load()
    raw = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    # 4 pairs have an empty reply; in 5 a reply has turns of its own, so the prompts differ.
    assert len(raw) - len(records) == 9
    for record in records:
        value = raw[int(record.origin.rsplit(":", 1)[1]) - 1]
        texts = [record.prompt_text + response for response in record.responses]
        assert texts == [value["chosen"], value["rejected"]]


@needs_data
def test_real_tasks_and_text():
    assert len(TasksSource(TasksConfig(path=f"{DATA}/seed_tasks.jsonl")).load()) == 175
    play = Path(DATA) / "tinyshakespeare.txt"
    (whole,) = TextSource(TextConfig(path=str(play))).load()
    assert whole.prompt_text == play.read_text()
