import importlib.util
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from cases import normal
from tolerances import assert_within_error_rule

from fairlead_kernels import KernelError, decode_attention, list_implementations, xformers_missing
from fairlead_kernels.decode_attention import _reference
from fairlead_kernels.xformers_attention import _decode_attention, _refusal


class Mask:
    """What xformers documents of its mask for padded keys, with the causal offset of one query."""

    @classmethod
    def from_seqlens(cls, q_seqlen, kv_padding, kv_seqlen):
        assert q_seqlen == [1] * len(kv_seqlen)
        mask = cls()
        at = torch.arange(kv_padding * len(kv_seqlen))
        counts = at % kv_padding < torch.tensor(kv_seqlen).repeat_interleave(kv_padding)
        mask.counts = counts & (at // kv_padding == torch.arange(len(kv_seqlen))[:, None])
        return mask

    def to(self, device):
        return self


def attend(query, key, value, *, attn_bias, scale):
    """[1, M, (group,) heads, dim], as xformers documents it; NaN for a query without keys."""
    heads = [x.flatten(2, -2).transpose(1, 2) for x in (query, key, value)]
    out = F.scaled_dot_product_attention(*heads, attn_mask=attn_bias.counts, scale=scale)
    out = out.masked_fill(~attn_bias.counts.any(1)[:, None], float("nan"))
    return out.transpose(1, 2).reshape(query.shape)


@pytest.fixture
def stand_in(monkeypatch):
    """An xformers that computes what its documentation says, in torch."""
    ops = types.ModuleType("xformers.ops")
    ops.memory_efficient_attention_forward = attend
    biases = types.ModuleType("xformers.ops.fmha.attn_bias")
    biases.BlockDiagonalCausalWithOffsetPaddedKeysMask = Mask
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setitem(sys.modules, "xformers.ops.fmha.attn_bias", biases)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (4, 1)])
def test_rows_and_heads_are_laid_out_as_sequences(stand_in, heads, kv_heads):
    query, lengths = normal(3, heads, 16), torch.tensor([5, 0, 9])
    keys, values = normal(3, kv_heads, 9, 16, seed=1), normal(3, kv_heads, 9, 16, seed=2)
    ours = _decode_attention(query, keys, values, lengths, 0.3)
    exact = _reference(query.double(), keys.double(), values.double(), lengths, 0.3)
    plain = _reference(query, keys, values, lengths, 0.3)
    assert_within_error_rule(ours, plain, exact, torch.ones_like(exact))


def test_the_cache_is_not_copied(stand_in, monkeypatch):
    seen = []
    ops = sys.modules["xformers.ops"]
    monkeypatch.setattr(
        ops,
        "memory_efficient_attention_forward",
        lambda q, k, v, **more: seen.extend((k, v)) or attend(q, k, v, **more),
    )
    keys, values = normal(2, 2, 5, 8), normal(2, 2, 5, 8)
    _decode_attention(normal(2, 4, 8), keys, values, torch.tensor([1, 2]), 1.0)
    assert [x.data_ptr() for x in seen] == [keys.data_ptr(), values.data_ptr()]


def test_it_is_gated_by_what_is_installed_and_by_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'fairlead[xformers]'" in xformers_missing()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert "no CPU path" in xformers_missing()


def test_an_xformers_that_does_not_import_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    # None: Python refuses the import.
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    assert "cannot be imported" in xformers_missing()


def test_on_the_cpu_it_is_listed_with_its_reason_and_refused_by_name():
    row = next(
        r
        for r in list_implementations()
        if (r.op, r.impl, r.device) == ("decode_attention", "xformers", "cpu")
    )
    assert not row.available
    assert "xformers" in row.reason or "cuda" in row.reason
    cache = torch.zeros(1, 1, 8, 8)
    with pytest.raises(KernelError, match=r"impl='xformers', which cannot run: .*(install|cuda)"):
        decode_attention(torch.zeros(1, 1, 8), cache, cache, torch.tensor([1]), impl="xformers")


def test_layouts_that_it_does_not_take_are_refused():
    query, cache = torch.zeros(2, 2, 16), torch.zeros(2, 2, 5, 16)
    assert _refusal(query, cache, cache) is None
    assert "dtype" in _refusal(query, cache.half(), cache.half())
    assert "contiguous" in _refusal(query, cache, torch.zeros(2, 2, 9, 16)[:, :, :5])
    assert "empty" in _refusal(query, cache[:, :, :0], cache[:, :, :0])
    assert "12" in _refusal(query[..., :12], cache[..., :12], cache[..., :12])
