"""Order, batches and packing: pure functions of (seed, cursor) and of lengths."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairlead.data import (
    DataFeed,
    cut_blocks,
    device_microbatches,
    fill_rows,
    microbatches,
    pack,
    pad,
    pad_mask,
    segment_attention,
)
from fairlead.errors import DataError

lengths = st.lists(st.integers(1, 40), max_size=30)


# --- order ------------------------------------------------------------------------------


@given(
    size=st.integers(1, 20),
    seed=st.integers(0, 2**31 - 1),
    counts=st.lists(st.integers(0, 25), max_size=10),
)
def test_the_order_does_not_depend_on_batch_sizes(size: int, seed: int, counts: list[int]) -> None:
    feed = DataFeed(size, seed)
    in_batches = [index for count in counts for index in feed.take(count)]
    assert in_batches == DataFeed(size, seed).take(sum(counts))
    assert feed.cursor == sum(counts)


@given(size=st.integers(1, 20), seed=st.integers(0, 2**31 - 1), cursor=st.integers(0, 100))
def test_the_order_can_be_taken_up_at_any_cursor(size: int, seed: int, cursor: int) -> None:
    whole = DataFeed(size, seed).take(cursor + 30)
    resumed = DataFeed(size, seed)
    resumed.restore({"cursor": cursor, "size": size})
    assert resumed.take(30) == whole[cursor:]


@given(size=st.integers(1, 20), seed=st.integers(0, 2**31 - 1), epochs=st.integers(1, 4))
def test_every_item_comes_once_an_epoch(size: int, seed: int, epochs: int) -> None:
    taken = DataFeed(size, seed).take(size * epochs)
    for epoch in range(epochs):
        assert sorted(taken[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    taken = DataFeed(50, 0).take(100)
    assert taken[:50] != taken[50:]
    assert taken[:50] != DataFeed(50, 1).take(50)


def test_a_change_of_the_order_does_not_go_unnoticed() -> None:
    assert DataFeed(6, 0).take(12) == [2, 5, 3, 0, 1, 4, 1, 5, 2, 0, 3, 4]


def test_no_data_is_an_error() -> None:
    with pytest.raises(DataError, match="no data to train on"):
        DataFeed(0, 0)


# --- microbatches -----------------------------------------------------------------------


@given(lengths=lengths, budget=st.integers(1, 100))
def test_microbatches_hold_every_item_once_within_the_budget(
    lengths: list[int], budget: int
) -> None:
    batches = microbatches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= budget or len(batch) == 1
    widths = [max(lengths[i] for i in batch) for batch in batches]
    assert widths == sorted(widths, reverse=True)


@given(
    items=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), max_size=20),
    budget=st.integers(1, 300),
)
def test_items_of_several_rows_count_every_row(items: list[tuple[int, int]], budget: int) -> None:
    lengths, rows = [i[0] for i in items], [i[1] for i in items]
    batches = microbatches(lengths, budget, rows)
    assert sorted(i for batch in batches for i in batch) == list(range(len(items)))
    for batch in batches:
        padded = sum(rows[i] for i in batch) * max(lengths[i] for i in batch)
        assert padded <= budget or len(batch) == 1


# --- packing ----------------------------------------------------------------------------


@given(lengths=lengths, width=st.integers(1, 60))
def test_rows_hold_every_item_once_within_their_width(lengths: list[int], width: int) -> None:
    rows = fill_rows(lengths, width)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    for row in rows:
        assert sum(lengths[i] for i in row) <= width or len(row) == 1


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8), width=st.integers(9, 30))
def test_no_example_attends_to_another_and_positions_restart(
    lengths: list[int], width: int
) -> None:
    """Fidelity item 3."""
    examples = [
        ([100 * number + p for p in range(n)], [p > 0 for p in range(n)])
        for number, n in enumerate(lengths)
    ]
    rows = fill_rows(lengths, width)
    packed = pack(examples, rows)
    for row, members in enumerate(rows):
        owner = [i for i in members for _ in range(lengths[i])]
        place = [p for i in members for p in range(lengths[i])]
        used = len(owner)
        assert packed.tokens[row, :used].tolist() == [t for i in members for t in examples[i][0]]
        assert packed.positions[row, :used].tolist() == place
        assert packed.targets[row, :used].tolist() == [p > 0 for p in place]
        assert not packed.targets[row, used:].any()
        for query in range(used):
            seen = packed.attention[row, 0, query].nonzero().flatten().tolist()
            assert seen == [k for k in range(query + 1) if k < used and owner[k] == owner[query]]
    # A row that attends to nothing is NaN after the softmax, padding or not.
    assert packed.attention.any(dim=-1).all()


def test_padding_is_on_the_right() -> None:
    assert pad([[1, 2, 3], [4]], fill=9).tolist() == [[1, 2, 3], [4, 9, 9]]
    assert pad_mask([[True], [True, False]]).tolist() == [[True, False], [True, False]]
    assert pad([]).shape == (0, 0)


# --- blocks -----------------------------------------------------------------------------


def test_documents_are_laid_end_to_end_with_a_separator_after_each() -> None:
    """Fidelity item 3."""
    tokens, segments = cut_blocks([[1, 2, 3], [4], [5, 6]], separator=0, width=4)
    assert tokens.tolist() == [[1, 2, 3, 0], [4, 0, 5, 6]]
    assert segments.tolist() == [[1, 1, 1, 1], [2, 2, 3, 3]]
    attention = segment_attention(segments)
    assert attention[1, 0].int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 1],
    ]


@given(
    documents=st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=8),
    width=st.integers(1, 10),
)
def test_blocks_are_the_joined_text_less_a_tail(documents: list[list[int]], width: int) -> None:
    stream = [token for document in documents for token in [*document, 0]]
    if len(stream) < width:
        with pytest.raises(DataError, match=f"{len(stream)} tokens, fewer than one block"):
            cut_blocks(documents, 0, width)
        return
    tokens, segments = cut_blocks(documents, 0, width)
    assert tokens.flatten().tolist() == stream[: len(stream) // width * width]
    assert tokens.shape == segments.shape == (len(stream) // width, width)
    assert torch.all(segments.flatten().diff() >= 0)


def test_a_microbatch_takes_no_more_padding_than_allowed() -> None:
    """9, 8, 8 | 5, 4: padding 0, 1, 2, then 4 more would be 6; then 0, 1, 3 for the 2 is 4."""
    lengths = [5, 9, 8, 4, 8, 2]
    assert microbatches(lengths, 1000) == [[1, 2, 4, 0, 3, 5]]
    assert microbatches(lengths, 1000, padding=4) == [[1, 2, 4], [0, 3, 5]]
    assert microbatches(lengths, 1000, padding=3) == [[1, 2, 4], [0, 3], [5]]
    assert microbatches(lengths, 18, padding=4) == [[1, 2], [4, 0], [3, 5]]
    assert microbatches([3, 1], 1000, rows=[1, 2], padding=3) == [[0], [1]]


def test_a_cpu_takes_2048_tokens_at_a_time_and_64_of_padding() -> None:
    lengths = [100] * 21 + [80] * 4
    cut = [len(one) for one in device_microbatches(lengths, 16384, torch.device("cpu"))]
    # 20 * 100 fit; the last of 100 takes three of 80 (60 of padding); the fourth stands alone.
    assert cut == [20, 4, 1]
    assert len(device_microbatches(lengths, 16384, torch.device("meta"))) == 1
    assert len(device_microbatches(lengths, 100, torch.device("cpu"))) == 25
