"""Grids small enough to be read by a language model: max-pooled to a few tokens an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.encoders.base import Encoder, ImageFeatures, TextTokens
from crossgraft.encoders.fingerprint import fingerprint
from crossgraft.errors import InputError


def pool_grid(grid: Tensor, side: int = 6) -> Tensor:
    """Max-pool square grids of tokens (..., T, g), row by row, to (..., side * side, g).

    With T = n^2 + 1 the first token is a class token and left out. Where side does not divide n, windows overlap
    (`torch.nn.functional.adaptive_max_pool2d`). VL-Adapter (Sung et al., CVPR 2022, arXiv 2112.06825) feeds 6 x 6.

    Raises:
        InputError: T is neither a square nor a square and one, or side is not within 1 and n.
    """
    *lead, tokens, width = grid.shape
    n = grid_side(tokens, side)
    patches = grid[..., tokens - n * n :, :].reshape(math.prod(lead), n, n, width)
    pooled = functional.adaptive_max_pool2d(patches.movedim(-1, 1), side)  # (B, g, side, side)
    return pooled.flatten(2).transpose(1, 2).reshape(*lead, side * side, width)


def grid_side(tokens: int, side: int) -> int:
    """n of an n x n grid of so many tokens, with or without a class token, that can be pooled to side x side.

    Raises:
        InputError: there is none.
    """
    n = next((n for n in (math.isqrt(tokens), math.isqrt(max(tokens - 1, 0))) if n * n in (tokens, tokens - 1)), 0)
    if n == 0:
        raise InputError(f"{tokens} tokens are no square grid, with or without a class token: they cannot be pooled")
    if not 1 <= side <= n:
        raise InputError(f"a grid of {n} x {n} tokens cannot be pooled to a side of {side}: expected 1 to {n}")
    return n


class PooledGrid(Encoder):
    """An encoder whose grid is that of another, max-pooled (`pool_grid`); all else is the other's.

    `identity` tells how to make it again: the other's name, dtype and draft, and `grid_side`. The fingerprint is its
    own, so features of the two never mix in a store.

    Args:
        encoder: whose grid to pool.
        side: of the pooled grid; `grid_shape` becomes (side * side, g).

    Raises:
        InputError: the encoder's grid is not square, or smaller than side x side.
    """

    def __init__(self, encoder: Encoder, side: int = 6) -> None:
        tokens, width = encoder.grid_shape
        grid_side(tokens, side)
        self.encoder, self.side = encoder, side
        self.grid_shape, self.text_width = (side * side, width), encoder.text_width
        self.fingerprint = fingerprint({}, ["max-pooled grid", side, encoder.fingerprint])

    def __getattr__(self, name: str) -> Any:
        """Every attribute that is not set above is the other encoder's."""
        if name == "encoder" or name.startswith("__"):  # asked for while this is being unpickled
            raise AttributeError(name)
        return getattr(self.encoder, name)

    @property
    def quantized(self) -> bool:  # type: ignore[override]
        return self.encoder.quantized

    @quantized.setter
    def quantized(self, value: bool) -> None:
        self.encoder.quantized = value

    @property
    def identity(self) -> dict[str, Any]:
        return self.encoder.identity | {"fingerprint": self.fingerprint, "grid_side": self.side}

    def loader(self, device: str) -> Callable[[], Encoder]:
        return partial(_load_pooled, self.encoder.loader(device), self.side)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor, *, grid: bool = False) -> ImageFeatures:
        features = self.encoder.encode_images(pixels, grid=grid)
        return features if features.grid is None else features._replace(grid=pool_grid(features.grid, self.side))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return self.encoder.encode_texts(texts)

    def encode_text_tokens(self, texts: Sequence[str]) -> TextTokens:
        return self.encoder.encode_text_tokens(texts)


def pooled(encoder: Encoder, side: int | None) -> Encoder:
    """An encoder with its grid pooled to side x side; None: as it is."""
    return encoder if side is None else PooledGrid(encoder, side)


def _load_pooled(load: Callable[[], Encoder], side: int) -> Encoder:
    return PooledGrid(load(), side)
