"""What every frozen dual encoder offers: images and texts as unit vectors in one space, and what lies before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crossgraft.encoders.preprocess import Preprocess
from crossgraft.errors import InputError


class ImageFeatures(NamedTuple):
    """One batch of encoded images, float32 on the encoder's device.

    `embedding` (B, d) is unit length and shares its space with texts; `feature` (B, f) is the pooled image feature
    before any projection to that space (not normalised), the better cache key; `grid` (B, T, g) holds the token grid,
    or None.
    """

    embedding: Tensor
    feature: Tensor
    grid: Tensor | None


class TextTokens(NamedTuple):
    """Texts token by token: states (n, L, g), float32, and which are real (n, L)."""

    tokens: Tensor
    mask: Tensor


class Encoder(ABC):
    """A frozen dual encoder. Build one with `load_encoder`.

    Attributes:
        name: what the user called it (a pocket name, a Hugging Face name, or a folder).
        fingerprint: SHA-256 (hex) over weights, configuration and preprocessing; two encoders with the same fingerprint
            give the same features.
        embedding_dim, feature_dim: d and f of `ImageFeatures`.
        grid_shape: (T, g) of the token grid.
        text_width: g of `TextTokens`; None: it gives none.
        n_parameters: of both towers and what joins them, all frozen.
        logit_scale: s; s * cosine(image, text) are the zero-shot logits.
        preprocess: turns an image into the pixel tensor that `encode_images` takes.
        image_tower: what `encode_images` runs, frozen.
        device, dtype: where and in what precision the towers run (float32 or bfloat16). Outputs are float32 always.
        quantized: whether the image tower multiplies in int8 (`quantize_encoder`).
    """

    name: str
    fingerprint: str
    embedding_dim: int
    feature_dim: int
    grid_shape: tuple[int, int]
    n_parameters: int
    logit_scale: float
    preprocess: Preprocess
    image_tower: nn.Module
    device: torch.device
    dtype: torch.dtype
    text_width: int | None = None
    quantized: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What an encoder has to be to give these features again: name, fingerprint, dtype, draft."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "dtype": "int8" if self.quantized else str(self.dtype).removeprefix("torch."),
            "draft": self.preprocess.draft,
        }

    def loader(self, device: str) -> Callable[[], Encoder]:
        """A picklable function that loads this encoder again, onto a device, in another process."""
        from crossgraft.encoders.load import load_encoder  # it imports every encoder there is

        how = {key: self.identity[key] for key in ("dtype", "draft")}
        return partial(load_encoder, self.name, device=device, **how)

    @abstractmethod
    def encode_images(self, pixels: Tensor, *, grid: bool = False) -> ImageFeatures:
        """Encode preprocessed images: pixels (B, 3, H, W) float32 -> `ImageFeatures`; the grid only if asked."""

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode n texts -> (n, d) unit vectors, float32; padding is trimmed to the longest text of a batch."""

    def encode_text_tokens(self, texts: Sequence[str]) -> TextTokens:
        """The last states of the text tower, one a token, padded to the longest text.

        Raises:
            InputError: this encoder gives none; a text is empty.
        """
        raise InputError(f"{self.name} gives no tokens of texts; use another encoder")
