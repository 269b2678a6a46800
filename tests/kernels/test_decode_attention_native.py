"""decode_attention in C++: every instruction set, and no byte past what counts."""

import math
import sys

import pytest
import torch
from attention import (
    DTYPES,
    case,
    needs_native,
)
from cases import run_alone
from tolerances import assert_within_error_rule

from fairlead_kernels.decode_attention import _reference

NOTHING_NEW = (0, 0, 0, 0)


def addresses_of(query, keys, values, lengths, out):
    """Of a call that stores no new keys and values."""
    first, last = (query, keys, values), (lengths, out)
    return [*(x.data_ptr() for x in first), 0, 0, *(x.data_ptr() for x in last)]


@needs_native
@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "generic"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(2, 2, 64), (8, 2, 100), (3, 1, 7)])
def test_every_instruction_set_is_right(instruction_set, dtype, heads, kv_heads, dim):
    from fairlead_kernels import _native

    query, keys, values, lengths = case(4, heads, kv_heads, 90, dim, dtype)
    scale, kind = dim**-0.5, DTYPES.index(dtype)
    plain, out = query.float(), torch.full(query.shape, math.nan)
    addresses = addresses_of(plain, keys, values, lengths, out)
    shape = (*query.shape[:2], *keys.shape[1:])
    strides = (*plain.stride()[:2], *keys.stride()[:3], *values.stride()[:3], *NOTHING_NEW)
    try:
        _native.decode_attention_cpu(*addresses, shape, strides, scale, kind, 1, instruction_set)
    except ValueError as error:
        pytest.skip(str(error))
    exact = _reference(plain.double(), keys.double(), values.double(), lengths, scale)
    terms = torch.full_like(exact, float(values.abs().max()))
    assert_within_error_rule(out, _reference(plain, keys, values, lengths, scale), exact, terms)


# Every kind of number, the subnormal ones too. NaN apart: they need not keep their payload.
EVERY_HALF = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)


@needs_native
@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "generic"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_sixteen_bit_number_is_read_exactly(instruction_set, dtype):
    """One position of weight 1: the output is the value itself."""
    from fairlead_kernels import _native

    values = EVERY_HALF.view(dtype).view(256, 1, 1, 256).contiguous()
    keys, lengths = torch.zeros_like(values), torch.ones(256, dtype=torch.int64)
    query, out = torch.zeros(256, 1, 256), torch.empty(256, 1, 256)
    addresses = addresses_of(query, keys, values, lengths, out)
    kind = DTYPES.index(dtype)
    try:
        _native.decode_attention_cpu(
            *addresses, (256, 1, 1, 1, 256), (256, 256) * 6, 1.0, kind, 1, instruction_set
        )
    except ValueError as error:
        pytest.skip(str(error))
    torch.testing.assert_close(
        out.flatten(), values.float().flatten(), rtol=0, atol=0, equal_nan=True
    )


GUARDED = """
import ctypes, mmap, sys
import torch
from fairlead_kernels import _native

PAGE = mmap.PAGESIZE
# The page behind is closed: to read it ends the process.
memory = mmap.mmap(-1, 9 * PAGE)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mprotect(ctypes.c_void_p(start + 8 * PAGE), PAGE, 0) == 0
for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2), (torch.float16, 2)):
    for heads, dim, length in ((1, 64, 3), (1, 7, 33), (4, 7, 33), (4, 20, 17)):
        numbers = length * dim
        cache = torch.frombuffer(memory, dtype=dtype, count=8 * PAGE // size)[-numbers:]
        cache.fill_(1)
        query, out = torch.ones(1, heads, dim), torch.empty(1, heads, dim)
        lengths = torch.tensor([length])
        at = [query.data_ptr(), cache.data_ptr(), cache.data_ptr()]
        at += [0, 0, lengths.data_ptr(), out.data_ptr()]
        # Room for twice as many positions, on paper.
        shape, strides = (1, heads, 1, 2 * length, dim), (0, dim, 0, 0, dim, 0, 0, dim, 0, 0, 0, 0)
        kind = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}[dtype]
        _native.decode_attention_cpu(*at, shape, strides, 1.0, kind, 1, sys.argv[1])
        assert (out == 1).all()
"""


@needs_native
@pytest.mark.skipif(sys.platform != "linux", reason="closes a page with Linux's mprotect")
@pytest.mark.parametrize("instruction_set", ["", "generic"])
def test_cpp_never_reads_past_the_length(instruction_set):
    run_alone(GUARDED, instruction_set)
