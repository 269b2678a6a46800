"""Bytes to objects: line numbers, faults, gzip."""

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairlead.errors import EXIT_DATA, DataError
from fairlead_plugins.sources.reader import read_objects
from fairlead_plugins.sources.row import Fault

OBJECTS = st.lists(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=4,
        ),
        max_size=4,
    ),
    min_size=1,
    max_size=6,
)
ON_DISK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def written(tmp_path, data, packed=False):
    path = tmp_path / "data.bin"  # the name says nothing: gzip is told by content
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def error_of(path):
    with pytest.raises(DataError) as caught:
        list(read_objects(path))
    assert caught.value.exit_code == EXIT_DATA
    assert str(path) in str(caught.value)
    return str(caught.value)


@ON_DISK
@given(objects=OBJECTS, packed=st.booleans(), ascii_only=st.booleans(), bom=st.booleans())
def test_json_lines_come_back_as_written(tmp_path, objects, packed, ascii_only, bom):
    text = "\n".join(json.dumps(o, ensure_ascii=ascii_only) for o in objects)
    data = (b"\xef\xbb\xbf" if bom else b"") + text.encode()
    got = list(read_objects(written(tmp_path, data, packed)))
    assert got == list(enumerate(objects, 1))


@ON_DISK
@given(objects=OBJECTS, packed=st.booleans(), indent=st.sampled_from([None, 0, 2]))
def test_an_array_comes_back_as_written_with_the_lines_its_objects_begin_on(
    tmp_path, objects, packed, indent
):
    text = json.dumps(objects, indent=indent)
    got = list(read_objects(written(tmp_path, text.encode(), packed)))
    assert [value for _, value in got] == objects
    if indent is None:
        assert {line for line, _ in got} == {1}
    else:
        begins = [n for n, line in enumerate(text.split("\n"), 1) if line.startswith(" {")]
        if indent == 2:
            begins = [n for n, s in enumerate(text.split("\n"), 1) if s.startswith("  {")]
            assert [line for line, _ in got] == begins


@ON_DISK
@given(objects=OBJECTS, cut=st.floats(0, 1, exclude_max=True))
def test_a_gzip_file_cut_anywhere_is_an_error_or_a_plain_fault(tmp_path, objects, cut):
    data = gzip.compress("\n".join(map(json.dumps, objects)).encode())
    path = tmp_path / "cut.gz"
    path.write_bytes(data[: int(len(data) * cut)])
    try:
        got = list(read_objects(path))
    except DataError as error:
        assert str(path) in str(error)
    else:  # too short to be known as gzip
        assert int(len(data) * cut) < 2
        assert all(isinstance(value, Fault) for _, value in got)


def test_truncated_gzip_names_the_line_it_reached(tmp_path):
    lines = b"".join(b'{"n": %d, "x": "%s"}\n' % (i, bytes([65 + i % 26]) * 50) for i in range(9))
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(lines)[:-8])  # the check sum is gone, the data is whole
    assert f"{path}:10: the gzip data is cut off" in error_of(path)


def test_gzip_of_several_members_is_read_whole(tmp_path):
    path = tmp_path / "two.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n') + gzip.compress(b'{"a": 2}\n'))
    assert list(read_objects(path)) == [(1, {"a": 1}), (2, {"a": 2})]


def test_damaged_gzip_is_a_data_error(tmp_path):
    data = bytearray(gzip.compress(b'{"a": 1}\n' * 100))
    data[12] ^= 0xFF
    path = tmp_path / "bad.gz"
    path.write_bytes(bytes(data))
    assert "cut off or damaged" in error_of(path)


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("packed", [False, True])
def test_empty_file(tmp_path, content, packed):
    assert "the file is empty. Give" in error_of(written(tmp_path, content, packed))


def test_missing_file_says_where_it_looked_and_what_to_give(tmp_path):
    message = error_of(tmp_path / "nowhere.jsonl")
    assert "there is no such file (looked from" in message
    assert "Give the path" in message


def test_directory_points_at_sources_that_read_one(tmp_path):
    assert "'text' and 'datasets'" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"a": ', "broken JSON: Expecting value (column 7)"),
        (b"[1, 2]", "[1, 2] is not a JSON object"),
        (b"null", "None is not a JSON object"),
        (b'{"a": "\xff"}', "not valid UTF-8: byte 0xff in line 3"),
        (b'{"a": ' + b"9" * 5000 + b"}", "JSON that Python cannot hold"),
        (b"[" * 100_000, "JSON that Python cannot hold"),
    ],
)
def test_a_bad_line_is_a_fault_with_its_number_and_the_rest_is_read(tmp_path, bad, reason):
    data = b'{"a": 1}\n\n' + bad + b'\r\n{"a": "\xe2\x80\xa8"}'
    got = list(read_objects(written(tmp_path, data)))
    assert [line for line, _ in got] == [1, 3, 4]
    assert isinstance(got[1][1], Fault)
    assert reason in str(got[1][1])
    assert got[2][1] == {"a": "\u2028"}


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ('[{"a": 1},\n {"a": }]', ":2:", "Expecting value"),
        ('[{"a": 1}\n {"a": 2}]', ":2:", "expected ',' or ']'"),
        ('[{"a": 1},\n\n]', ":3:", "Expecting value"),
        ('[{"a": 1}', ":1:", "expected ',' or ']'"),
        ("[\n", ":2:", "Expecting value"),
        ('[{"a": 1}]\n{"a": 2}', ":2:", "more behind the array's end"),
    ],
)
def test_a_broken_array_is_an_error_with_the_line(tmp_path, text, place, reason):
    message = error_of(written(tmp_path, text.encode()))
    assert place in message
    assert reason in message


def test_invalid_utf8_in_an_array_names_the_line(tmp_path):
    assert "in line 2" in error_of(written(tmp_path, b'[{"a": 1},\n{"a": "\xff"}]'))


def test_an_array_element_that_is_no_object_is_a_fault(tmp_path):
    got = list(read_objects(written(tmp_path, b'[{"a": 1},\n 7]')))
    assert got[0] == (1, {"a": 1})
    assert got[1][0] == 2 and "7 is not a JSON object" in str(got[1][1])
