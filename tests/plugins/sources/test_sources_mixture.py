"""Mixing sources: proportions, order, repetition."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.config import Config, DataSourceSpec
from fairlead.errors import DataError
from fairlead_plugins.sources.mixture import Mixture, schedule

WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6)


@settings(deadline=None)
@given(weights=WEIGHTS, size=st.integers(1, 300))
def test_every_prefix_follows_the_weights_to_within_one_record(weights, size):
    choices, turns = schedule(weights, size)
    total = sum(map(Fraction, weights))
    counts = [0] * len(weights)
    for n, (source, turn) in enumerate(zip(choices, turns, strict=True), 1):
        assert turn == counts[source], "a source's records come in their order"
        counts[source] += 1
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - n * Fraction(weight) / total) < 1
    assert sum(counts) == size


@settings(deadline=None)
@given(weights=WEIGHTS, short=st.integers(1, 50), more=st.integers(0, 50))
def test_a_record_depends_on_its_index_and_not_on_the_size(weights, short, more):
    long = schedule(weights, short + more)
    assert [part[:short] for part in long] == list(schedule(weights, short))


def test_a_source_that_runs_out_begins_again_and_indexing_is_a_sequence_s():
    mixed = Mixture([["a", "b"], ["x"]], [2.0, 1.0], 9)
    assert sorted(mixed) == ["a"] * 3 + ["b"] * 3 + ["x"] * 3
    assert mixed[-1] == list(mixed)[-1]
    assert mixed[2:5] == list(mixed)[2:5]
    with pytest.raises(IndexError):
        mixed[9]


def test_records_are_read_on_access_only():
    class Touchy(list):
        def __getitem__(self, index):
            raise AssertionError("read too early")

    assert len(Mixture([Touchy([1])], [1.0], 5)) == 5


class Holder(Config):
    source: DataSourceSpec


def build(registry, settings):
    source = {"name": "mixture", **settings}
    return Holder.model_validate({"source": source}, context={"registry": registry}).source.build()


def part(prompt, weight=1.0, count=1):
    records = [{"prompt": f"{prompt}{i}"} for i in range(count)]
    return {"source": {"name": "inline", "records": records}, "weight": weight}


def test_size_defaults_to_all_records_of_all_sources(registry):
    mixed = build(registry, {"sources": [part("a", 1, 3), part("b", 1, 1)]}).load()
    assert len(mixed) == 4
    assert sorted(r.prompt_text for r in mixed) == ["a0", "a1", "b0", "b0"]
    assert len(build(registry, {"sources": [part("a")], "size": 7}).load()) == 7


def test_a_mixture_may_hold_a_mixture(registry):
    inner = {"source": {"name": "mixture", "sources": [part("a"), part("b")]}}
    assert len(build(registry, {"sources": [inner, part("c")]}).load()) == 3


def test_an_empty_source_is_an_error_that_names_it(registry):
    class Empty:
        def __init__(self, config):
            pass

        def load(self):
            return []

    registry.bound("data_sources", "a test")("empty", Empty)
    with pytest.raises(DataError, match=r"sources\[1\] \(empty\) is empty. Give"):
        build(registry, {"sources": [part("a"), {"source": "empty"}]}).load()
