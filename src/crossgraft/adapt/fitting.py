"""What goes with the hidden states of a layer, made to fit them when new tokens stand before the text.

Attention masks of every kind, T5's position bias (zero wherever not both are text), and rotary positions (new tokens
stand just before a row's first real token, whatever padding is there).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Level(NamedTuple):
    """What a layer sees: how many new tokens, which of them are there (B, tokens), None: all; and what is added to the
    text before this layer (B or 1, 1, d)."""

    tokens: int = 0
    present: Tensor | None = None
    shift: Tensor | None = None

    def shown(self, rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Which new tokens are there, (rows, tokens), for a batch whose rows may have been repeated (beams)."""
        if self.present is None:
            return torch.ones(rows, self.tokens, dtype=dtype, device=device)
        return self.present.repeat_interleave(rows // len(self.present), 0).to(device, dtype)


def raised(below: Level, tokens: Tensor, present: Tensor | None, shift: Tensor | None) -> Level:
    """The level above `below` once tokens (B, n, d) have come in before its new tokens."""
    if present is None and below.present is None:
        return Level(below.tokens + tokens.shape[1], None, shift)
    size = tokens.shape[:2]
    new = torch.ones(size, dtype=torch.bool, device=tokens.device) if present is None else present
    old = new.new_ones(size[0], below.tokens) if below.present is None else below.present
    return Level(below.tokens + size[1], torch.cat((new, old), 1), shift)


class Shape(NamedTuple):
    """Of a layer's attention: queries and keys with the new tokens, and how many of the queries are new tokens."""

    queries: int
    keys: int
    new: int


def fit_mask(mask: Tensor | None, level: Level, shape: Shape, hidden: Tensor, causal: bool) -> Tensor | None:
    """A layer's attention mask: None, (B, L) as flash attention takes it, or (B, 1, queries, keys), boolean or not."""
    if mask is None:
        if level.present is None:
            return None  # everything is seen, or what is_causal says: new tokens come first
        mask = _open(len(hidden), shape, level, hidden.device, causal)
    short = shape.keys - mask.shape[-1]  # new tokens below the first layer are in it, when they come from the cache
    if mask.ndim == 2:
        return torch.cat((level.shown(len(mask), mask.dtype, mask.device)[:, :short], mask), 1)
    shown = level.shown(len(hidden), torch.bool, mask.device)[:, :short]
    text = mask.expand(len(hidden), -1, shape.queries - shape.new, -1)
    columns = shown[:, None, None].expand(-1, text.shape[1], text.shape[2], -1)
    fitted = torch.cat((_like(columns, mask), text), 3)
    if not shape.new:
        return fitted
    # New tokens see each other (those that are there, and themselves: no row may be empty), in a causal stack those
    # before them; and the text as its first row does, or none of it.
    among = shown[:, None, None, : shape.new] | torch.eye(shape.new, dtype=torch.bool, device=mask.device)
    among = (among.tril() if causal else among).expand(-1, text.shape[1], -1, -1)
    first = _like(torch.zeros_like(text[:, :, :1], dtype=torch.bool), mask) if causal else text[:, :, :1]
    rows = torch.cat((_like(among, mask), first.expand(-1, -1, shape.new, -1)), 3)
    return torch.cat((rows, fitted), 2)


def _open(rows: int, shape: Shape, level: Level, device: torch.device, causal: bool) -> Tensor:
    """A mask of the text alone that forbids nothing but, in a causal stack, what is to come."""
    text = torch.ones(shape.queries - shape.new, shape.keys - level.tokens, dtype=torch.bool, device=device)
    return (text.tril(text.shape[1] - text.shape[0]) if causal else text).expand(rows, 1, -1, -1)


def _like(allowed: Tensor, mask: Tensor) -> Tensor:
    """A boolean mask in the manner of another: boolean, or added to scores."""
    if mask.dtype == torch.bool:
        return allowed
    return torch.zeros_like(allowed, dtype=mask.dtype).masked_fill(~allowed, torch.finfo(mask.dtype).min)


def fit_bias(given: dict[str, Any], level: Level, shape: Shape, layer: nn.Module) -> None:
    """T5's position biases (1, heads, queries, keys), and its mask of the encoder's states, in a layer's arguments."""
    bias: Tensor | None = given.get("position_bias")
    if bias is None:  # the first layer makes the one that all others use
        attention: Any = layer.get_submodule("layer.0.SelfAttention")
        queries, keys = shape.queries - shape.new, shape.keys - level.tokens
        bias = attention.compute_bias(
            queries, keys, device=given["hidden_states"].device, past_seen_tokens=keys - queries
        )
    given["position_bias"] = functional.pad(bias, (shape.keys - bias.shape[3], 0, shape.queries - bias.shape[2], 0))
    for name in ("encoder_decoder_position_bias", "encoder_attention_mask"):  # the same for all queries
        cross: Tensor | None = given.get(name)
        if cross is not None:
            more = cross[:, :, :1].expand(-1, -1, shape.queries - cross.shape[2], -1)
            given[name] = torch.cat((more, cross), 2)


def fit_rotary(given: dict[str, Any], level: Level, shape: Shape, stack: nn.Module, mask: Tensor | None) -> None:
    """Rotary embeddings (B or 1, queries, head) and position ids in a layer's arguments, where tokens are let in.

    mask: (B, L) of the text; the first real token of a row has the position that new tokens lead up to.
    """
    if not shape.new:
        return
    positions: Tensor = given["position_ids"]
    if mask is None:
        first = positions[:, :1]
    else:
        at = mask.bool().int().argmax(1, keepdim=True)
        first = positions.expand(len(mask), -1).gather(1, at)
    there = level.shown(len(given["hidden_states"]), torch.long, positions.device)
    if level.present is None:
        there = there[:1]
    new = first - there.flip(1).cumsum(1).flip(
        1
    )  # (B or 1, new), below zero if need be; who is not there takes no place
    rotary: Any = stack.get_submodule("rotary_emb")
    before = rotary(given["hidden_states"], position_ids=new)
    given["position_embeddings"] = tuple(
        torch.cat((one, text.expand(len(one), -1, -1)), 1)
        for one, text in zip(before, given["position_embeddings"], strict=True)
    )
    given["position_ids"] = torch.cat((new, positions.expand(len(new), -1)), 1)
