"""Forward passes without padding: a batch's sequences laid end to end in one row.

Everything in a transformer but attention treats each token by itself, so the row needs no padding
there. Attention takes the sequences apart again. Where each token lies is told to it in the place
of the mask, as whole numbers: transformers hands a mask of four dimensions on as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from fairlead.attention import CHANGES_SCORES
from fairlead.linear import ROUND

RAGGED = "fairlead_ragged"

_SEES_SO_FAR = ("sliding_window", "attention_chunk_size")


def use_ragged(model: Any) -> None:
    """Let a model run rows of many sequences, if it computes the same then as with padding.

    Asking the model once is surer than a list of families: some take positions from elsewhere, or
    carry a state from token to token.
    """
    model._ragged = False
    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return
    AttentionInterface.register(RAGGED, ragged_attention)
    AttentionMaskInterface.register(RAGGED, sdpa_mask)
    model.set_attn_implementation(RAGGED)
    model._ragged = _same(model)
    if not model._ragged:
        model.set_attn_implementation("sdpa")


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
    row = run.flatten().cumsum(0).view(run.shape) - 1
    output = model.base_model(
        input_ids=tokens[run][None],
        position_ids=place[run][None],
        attention_mask=row.masked_fill(~run, -1)[None, None],
        use_cache=False,
    )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden[where[run]]


def _rounded_up(counts: Tensor) -> Tensor:
    """Let some of the padding count, so that the number of tokens is a round one if it can be."""
    more = -int(counts.sum()) % ROUND
    if not more:
        return counts
    run = counts.clone().flatten()
    run[(~run).nonzero()[:more]] = True
    return run.view(counts.shape)


def ragged_attention(
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
        attention_mask: A mask, or the row's layout: ``[1, 1, B, S]`` int64, where in the row each
            sequence's tokens lie, -1 past its end.
        dropout: Share of the attention weights to drop.
        scaling: Of the scores.
        more: What transformers passes besides.

    Returns:
        ``[B, S, H, D]``, of a row ``[1, N, H, D]``; and None.
    """
    # Rotary embeddings may leave float32 queries beside bfloat16 values. On a CPU attention in
    # bfloat16 takes longer than in float32, twice as long backwards; autocast would bring it back.
    device = value.device.type
    dtype = torch.float32 if device == "cpu" else value.dtype
    q, k, v = (one.to(dtype) for one in (query, key, value))
    with torch.autocast(device, enabled=False):
        if attention_mask is None or attention_mask.dtype != torch.int64:
            if attention_mask is not None and attention_mask.is_floating_point():
                attention_mask = attention_mask.to(dtype)
            out: Tensor = sdpa_attention_forward(
                module, q, k, v, attention_mask, dropout=dropout, scaling=scaling, **more
            )[0]
            return out.to(value.dtype), None
        for name in CHANGES_SCORES:
            if more.get(name) is not None:
                raise NotImplementedError(f"rows of many sequences with this model's {name}")
        layout = attention_mask[0, 0]
        attended = nn.functional.scaled_dot_product_attention(
            _apart(q, layout),
            _apart(k, layout),
            _apart(v, layout),
            is_causal=True,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    together = attended.transpose(1, 2).flatten(0, 1)
    if not _fills(layout, query):
        together = together.index_select(0, layout.flatten().ge(0).nonzero().squeeze(1))
    return together.to(value.dtype)[None], None


def _fills(layout: Tensor, row: Tensor) -> bool:
    """Whether the sequences are all as long as the longest: nothing is to be moved then."""
    return layout.numel() == row.shape[2]


def _apart(row: Tensor, layout: Tensor) -> Tensor:
    """Take ``[1, H, N, D]`` to ``[B, H, S, D]``; past a sequence's end lies what nothing reads."""
    spread = row[0].transpose(0, 1)
    if not _fills(layout, row):
        spread = spread.index_select(0, layout.flatten().clamp(min=0))
    return spread.view(*layout.shape, *spread.shape[1:]).transpose(1, 2)


@torch.no_grad()
def _same(model: Any) -> bool:
    """Ask the model for two short sequences, padded and as one row."""
    lengths = torch.tensor([2, 3], device=model.device)
    tokens = torch.arange(6, device=model.device).view(2, 3) % model.config.vocab_size
    where = torch.tensor([[True, True, False], [True, True, True]], device=model.device)
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
