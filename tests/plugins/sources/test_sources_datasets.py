"""The `datasets` library as a source."""

import json
import sys

import pytest

from fairlead.errors import DataError
from fairlead.records import Comparison, Demonstration
from fairlead_plugins.sources.huggingface import DatasetsConfig, DatasetsSource

library = pytest.importorskip("datasets")

ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(path, **settings):
    return DatasetsSource(DatasetsConfig(path=str(path), **settings)).load()


def error_of(path, **settings):
    with pytest.raises(DataError) as caught:
        load(path, **settings)
    return str(caught.value)


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "jsonl", "json"])
def test_a_file_is_read_by_its_ending(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    data = library.Dataset.from_list(ROWS)
    match ending:
        case "parquet":
            data.to_parquet(path)
        case "csv" | "tsv":
            data.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
        case "jsonl":
            data.to_json(path)
        case "json":
            path.write_text(json.dumps(ROWS))
    records = load(path)
    assert all(isinstance(record, Demonstration) for record in records)
    assert [(r.prompt_text, r.response) for r in records] == [("a", "b"), ("c", "d")]
    assert [r.origin for r in records] == [f"{path}:1", f"{path}:2"]


def test_a_saved_directory_with_nested_columns(tmp_path):
    user = {"role": "user", "content": "Hi?"}
    row = {
        "chosen": [user, {"role": "assistant", "content": "yes"}],
        "rejected": [user, {"role": "assistant", "content": "no"}],
        "score": 0.5,
    }
    library.Dataset.from_list([row]).save_to_disk(tmp_path / "saved")
    (record,) = load(tmp_path / "saved")
    assert isinstance(record, Comparison)
    assert record.responses == ("yes", "no")
    assert record.metadata == {"score": 0.5}


def test_a_saved_directory_with_splits_wants_to_know_which(tmp_path):
    data = library.Dataset.from_list(ROWS)
    library.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(tmp_path / "two")
    message = error_of(tmp_path / "two")
    assert "no split is given. Set split to one of: test, train." in message
    assert "no split 'dev'" in error_of(tmp_path / "two", split="dev")
    assert len(load(tmp_path / "two", split="test")) == 1
    library.DatasetDict({"train": data}).save_to_disk(tmp_path / "one")
    assert len(load(tmp_path / "one")) == 2


def test_a_directory_of_data_files(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    assert len(load(folder)) == 2


def test_bad_rows_are_counted_like_bad_lines(tmp_path):
    path = tmp_path / "rows.parquet"
    library.Dataset.from_list([*ROWS, {"prompt": " ", "completion": "x"}]).to_parquet(path)
    assert f"{path}:3: 'prompt' is an empty prompt" in error_of(path)
    assert len(load(path, skip=1)) == 2


def test_what_cannot_be_loaded_is_a_data_error(tmp_path, monkeypatch):
    assert "there is no such file" in error_of(tmp_path / "no.parquet")
    (tmp_path / "rows.xlsx").write_text("x")
    assert "none that can be read. Endings: .arrow, .csv" in error_of(tmp_path / "rows.xlsx")
    (tmp_path / "bad.parquet").write_text("x")
    assert "the datasets library cannot load it" in error_of(tmp_path / "bad.parquet")

    def offline(name, config_name, split):
        raise ConnectionError(f"cannot reach {name} {config_name} {split}")

    monkeypatch.setattr(library, "load_dataset", offline)
    message = error_of("who/what", split="train", config_name="en")
    assert "ConnectionError: cannot reach who/what en train" in message
    assert "Give a data file" in message


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'fairlead[data]'" in error_of("who/what")
