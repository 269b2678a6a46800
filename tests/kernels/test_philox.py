import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tolerances import CHI_SQUARED_LEVEL

from fairlead_kernels import list_implementations, native_status, philox_uniform
from fairlead_kernels.philox import philox4x32

ALL = 0xFFFFFFFF

needs_native = pytest.mark.skipif(
    not native_status().available, reason=native_status().reason or "native module"
)
_rows = [
    row
    for row in list_implementations()
    if (row.op, row.impl, row.device) == ("philox_uniform", "triton", "cpu")
]
needs_triton = pytest.mark.skipif(not _rows[0].available, reason=_rows[0].reason or "triton")
IMPLS = [
    "reference",
    pytest.param("cpp", marks=needs_native),
    pytest.param("triton", marks=needs_triton),
]
OPERATIONS = [
    pytest.param("philox_uniform", marks=needs_native),
    pytest.param("triton_philox_uniform", marks=needs_triton),
]

# Random123 1.14, tests/kat_vectors, philox4x32 10.
KNOWN = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (ALL, ALL, ALL, ALL),
        (ALL, ALL),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def words(*values):
    return tuple(torch.tensor([v]) for v in values)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_published_vectors(counter, key, expected):
    assert tuple(int(x) for x in philox4x32(words(*counter), key)) == expected


def test_vectorised_counters_are_the_single_ones():
    counters = tuple(torch.tensor(column) for column in zip(*(k[0] for k in KNOWN), strict=True))
    out = philox4x32(counters, KNOWN[0][1])
    assert tuple(int(x[0]) for x in out) == KNOWN[0][2]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("counter", "key", "expected"), [KNOWN[0], KNOWN[2]])
def test_every_implementation_has_the_published_vectors(impl, counter, key, expected):
    """Through the public layout, where the second vector's sequence would be negative."""
    position, low, high, iteration = counter
    drawn = philox_uniform(
        key[0] | key[1] << 32,
        iteration,
        torch.tensor([low | high << 32]),
        torch.tensor([position]),
        impl=impl,
    )
    assert drawn.item() == (expected[0] * 2**21 + expected[1] // 2**11) / 2**53


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_operations_have_the_vector_whose_sequence_is_negative_as_well(operation):
    # All bits set, as signed 64-bit integers: -1.
    counter, key, expected = KNOWN[1]
    assert key == (ALL, ALL)
    launch = getattr(torch.ops.fairlead_kernels, operation)
    drawn = launch(-1, counter[3], torch.tensor([-1]), torch.tensor([counter[0]]))
    assert drawn.item() == (expected[0] * 2**21 + expected[1] // 2**11) / 2**53


@pytest.mark.parametrize("impl", [*IMPLS[1:]])
def test_every_implementation_has_the_bits_of_the_reference(impl):
    generator = torch.Generator().manual_seed(0)
    sequence = torch.randint(0, 2**62, (2, 1000), generator=generator)[:, ::2].t()[:, 0]
    position = torch.randint(0, 2**32, (500,), generator=generator)
    assert not sequence.is_contiguous()
    for seed, iteration in ((0, 0), (1, 1), (2**32 + 1, 2**32 - 1), (2**64 - 1, 7)):
        ours = philox_uniform(seed, iteration, sequence, position, impl=impl)
        reference = philox_uniform(seed, iteration, sequence, position, impl="reference")
        assert torch.equal(ours, reference)
    none = torch.zeros(0, dtype=torch.int64)
    assert philox_uniform(0, 0, none, none, impl=impl).shape == (0,)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_operations_check_their_arguments(operation):
    launch = getattr(torch.ops.fairlead_kernels, operation)
    index = torch.arange(6)
    for sequence, position in (
        (index.int(), index),
        (index, index[:5]),
        (index[::2], index[:3]),
        (index.view(2, 3), index),
    ):
        with pytest.raises(ValueError, match="philox_uniform"):
            launch(0, 0, sequence, position)
    with pytest.raises(ValueError, match="iteration"):
        launch(0, 2**32, index, index)


@needs_native
def test_the_native_operation_passes_opcheck():
    index = torch.arange(6)
    torch.library.opcheck(torch.ops.fairlead_kernels.philox_uniform.default, (-5, 3, index, index))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**32 - 1),
)
def test_the_layout_of_key_counter_and_result(seed, iteration, sequence, position):
    """The layout that other implementations have to keep, in plain integers."""
    counter = (position, sequence % 2**32, sequence >> 32, iteration)
    x0, x1, _, _ = (int(x) for x in philox4x32(words(*counter), (seed % 2**32, seed >> 32)))
    expected = (x0 * 2**21 + x1 // 2**11) / 2**53
    drawn = philox_uniform(seed, iteration, torch.tensor([sequence]), torch.tensor([position]))
    assert drawn.dtype == torch.float64
    assert drawn.item() == expected
    assert 0 <= drawn.item() < 1


def test_the_number_of_a_key_does_not_depend_on_the_batch():
    """Fidelity item 14: (seed, iteration, sequence, position) alone."""
    sequence, position = torch.arange(100) % 7, torch.arange(100) // 7
    whole = philox_uniform(5, 3, sequence, position)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(philox_uniform(5, 3, sequence[order], position[order]), whole[order])
    assert torch.equal(philox_uniform(5, 3, sequence[41:42], position[41:42]), whole[41:42])


def test_every_part_of_the_key_changes_the_number():
    base = (1, 2, 3, 4)
    numbers = set()
    for part in range(-1, 4):
        for bit in (0, 1, 31) if part >= 0 else (0,):
            seed, iteration, sequence, position = (
                value ^ (1 << bit) if i == part else value for i, value in enumerate(base)
            )
            drawn = philox_uniform(
                seed, iteration, torch.tensor([sequence]), torch.tensor([position])
            )
            numbers.add(drawn.item())
    assert len(numbers) == 1 + 4 * 3


def test_numbers_are_uniform():
    index = torch.arange(100_000)
    drawn = philox_uniform(0, 0, index // 100, index % 100).numpy()
    counts = np.histogram(drawn, bins=100, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > CHI_SQUARED_LEVEL


def test_keys_out_of_range_are_errors():
    one = torch.tensor([1])
    with pytest.raises(ValueError, match="seed"):
        philox_uniform(-1, 0, one, one)
    with pytest.raises(ValueError, match="iteration"):
        philox_uniform(0, 2**32, one, one)
    for sequence, position in ((-one, one), (one, -one), (one, one * 2**32)):
        with pytest.raises(ValueError, match="position"):
            philox_uniform(0, 0, sequence, position)
    with pytest.raises(ValueError, match="int64"):
        philox_uniform(0, 0, one.int(), one)
