"""Forward passes without padding: a batch's sequences laid end to end in one row.

Everything in a transformer but attention treats each token by itself, so the row needs no padding
there. Attention keeps the sequences apart. Where each one begins is told to it in the place of the
mask, as whole numbers: transformers hands a mask of four dimensions on as it is.

Behind its attention the last layer needs no more than the positions that are asked for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from fairlead.attention import CHANGES_SCORES
from fairlead.data import segment_attention
from fairlead.last_layer import heard, is_told, take, tell, use_last_layer
from fairlead.linear import ROUND
from fairlead_kernels import ragged_attention

RAGGED = "fairlead_ragged"

_FEWER = 7 / 8
"""Of the positions, at most: to take some and to put them back costs time too."""

_SEES_SO_FAR = ("sliding_window", "attention_chunk_size")


def use_ragged(model: Any) -> None:
    """Let a model run rows of many sequences, if it computes the same then as with padding.

    Asking the model once is surer than a list of families: some take positions from elsewhere, or
    carry a state from token to token.
    """
    model._ragged = model._keeps_some = False
    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return
    AttentionInterface.register(RAGGED, attend)
    AttentionMaskInterface.register(RAGGED, sdpa_mask)
    model.set_attn_implementation(RAGGED)
    model._ragged = _same(model, [[True, True, False], [True, True, True]])
    if not model._ragged:
        model.set_attn_implementation("sdpa")
        return
    undo = use_last_layer(model, RAGGED, attend)
    model._keeps_some = undo is not None
    if undo is not None and not _same(model, [[False, True, False], [False, False, True]]):
        model._keeps_some = False
        undo()


def takes_ragged(model: Any, longest: int) -> bool:
    """Whether a model runs rows of many sequences as long as this.

    A window or chunk of attention is a matter of the mask, whose place is taken; sequences that
    fit into it need none.
    """
    if not getattr(model, "_ragged", False):
        return False
    if model.config._attn_implementation != RAGGED:  # told to attend otherwise since
        return False
    return all(longest <= (getattr(model.config, name, 0) or longest) for name in _SEES_SO_FAR)


def ragged_hidden_states(model: Any, tokens: Tensor, lengths: Tensor, where: Tensor) -> Tensor:
    """Return the last hidden states at marked positions, ``[N, H]``, in row order.

    Args:
        model: A transformers model for which `takes_ragged` is true.
        tokens: ``[B, S]`` int64, padded on the right.
        lengths: ``[B]`` int64, at least 1 each.
        where: ``[B, S]`` bool, N True, none of them past its row's length.
    """
    place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    run = _rounded_up(place < lengths[:, None])
    offsets = nn.functional.pad(run.sum(1).cumsum(0), (1, 0))
    marked = where[run]
    kept = _kept(marked) if model._keeps_some else marked.new_zeros(0, dtype=torch.int64)
    output = model.base_model(
        input_ids=tokens[run][None],
        position_ids=place[run][None],
        attention_mask=tell(offsets, tokens.shape[1], kept),
        use_cache=False,
    )
    return take(output.last_hidden_state, marked.nonzero().squeeze(1)).squeeze(0)


def _kept(marked: Tensor) -> Tensor:
    """Return the positions that the last layer is to go on with; none where it is to with all."""
    for chosen in (_rounded_up(marked), marked):
        if int(chosen.sum()) <= _FEWER * len(marked):
            return chosen.nonzero().squeeze(1)
    return marked.new_zeros(0, dtype=torch.int64)


def _rounded_up(counts: Tensor) -> Tensor:
    """Let some of the padding count, so that the number of tokens is a round one if it can be."""
    more = -int(counts.sum()) % ROUND
    if not more:
        return counts
    run = counts.clone().flatten()
    run[(~run).nonzero()[:more]] = True
    return run.view(counts.shape)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' own function does, or within each sequence of a row.

    Args:
        module: The attention layer.
        query: ``[B, H, S, D]``; of a row of many sequences ``[1, H, N, D]``.
        key: As the query, with as many heads or a divisor of them.
        value: As the key.
        attention_mask: A mask, or what `tell` returns of a row of many sequences.
        dropout: Share of the attention weights to drop.
        scaling: Of the scores.
        more: What transformers passes besides.

    Returns:
        ``[B, S, H, D]``, of a row ``[1, N, H, D]``; and None.
    """
    if attention_mask is None or not is_told(attention_mask):
        out = _padded(module, query, key, value, attention_mask, dropout, scaling, **more)
        return out, None
    for name in CHANGES_SCORES:
        if more.get(name) is not None:
            raise NotImplementedError(f"rows of many sequences with this model's {name}")
    offsets, longest, _ = heard(attention_mask)
    if dropout:  # of a family whose name for it `set_dropout` does not know
        at = torch.arange(query.shape[2], device=query.device)
        mask = segment_attention(torch.searchsorted(offsets.contiguous(), at, right=True)[None])
        return _padded(module, query, key, value, mask, dropout, scaling, **more), None
    # Rotary embeddings may leave float32 queries beside bfloat16 values.
    q, k, v = (_rows(one, query.shape[3]).to(value.dtype) for one in (query, key, value))
    out = ragged_attention(q, k, v, offsets, longest, scaling)
    return out[None, ..., : value.shape[3]], None


def _rows(heads: Tensor, width: int) -> Tensor:
    """Take ``[1, H, N, D]`` to ``[N, H, width]``; values narrower than keys get zeros."""
    # Backwards an index would fill memory with zeros and copy into it; this is a view.
    rows = heads.squeeze(0).transpose(0, 1)
    if rows.shape[2] < width:
        rows = nn.functional.pad(rows, (0, width - rows.shape[2]))
    return rows if rows.stride(2) == 1 else rows.contiguous()


def _padded(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    **more: Any,
) -> Tensor:
    """Attend as transformers' own function does."""
    # On a CPU torch's attention takes longer in bfloat16 than in float32, twice as long backwards;
    # autocast would bring it back.
    device = value.device.type
    dtype = torch.float32 if device == "cpu" else value.dtype
    q, k, v = (one.to(dtype) for one in (query, key, value))
    if mask is not None and mask.is_floating_point():
        mask = mask.to(dtype)
    with torch.autocast(device, enabled=False):
        out: Tensor = sdpa_attention_forward(
            module, q, k, v, mask, dropout=dropout, scaling=scaling, **more
        )[0]
    return out.to(value.dtype)


@torch.no_grad()
def _same(model: Any, asked: list[list[bool]]) -> bool:
    """Ask the model for positions of two short sequences, padded and as one row."""
    lengths = torch.tensor([2, 3], device=model.device)
    tokens = torch.arange(6, device=model.device).view(2, 3) % model.config.vocab_size
    where = torch.tensor(asked, device=model.device)
    training = model.training
    model.eval()
    try:
        found = ragged_hidden_states(model, tokens, lengths, where)
        padded = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    except Exception:  # whatever a model does with what it does not expect
        return False
    finally:
        model.train(training)
    expected = padded[where]
    rough = 1e-4 if found.dtype == torch.float32 else 0.02
    return found.shape == expected.shape and bool(
        (found - expected).abs().max() <= rough * expected.abs().max()
    )
