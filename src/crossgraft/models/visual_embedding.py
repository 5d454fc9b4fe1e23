"""From frozen visual features to tokens of a language model (VL-Adapter, Sung, Cho and Bansal, CVPR 2022; VL-T5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from crossgraft.errors import InputError

BOX = 5  # x1, y1, x2, y2, area
STD = 0.02  # of weights at the start, as the authors have it


class VisualEmbedding(nn.Module):
    """LN(Linear(feature)) + LN(Linear(box and area)) + image order + object order.

    The object order is no parameter of its own: it is the word embedding, counted from its end.

    Args:
        feature_width: g, of the features.
        width: d, of the language model.
        images: how many images an input may hold.
        norm: makes a layer norm of a width (T5's has no bias).
    """

    def __init__(self, feature_width: int, width: int, images: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.feature_width, self.images = feature_width, images
        self.feature = nn.Sequential(nn.Linear(feature_width, width), norm(width))
        self.box = nn.Sequential(nn.Linear(BOX, width), norm(width))
        self.image_order = nn.Parameter(torch.randn(images, width) * STD)
        for linear in (self.feature[0], self.box[0]):
            nn.init.normal_(linear.weight, std=STD)  # type: ignore[arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def scale_to(self, words: nn.Embedding) -> None:
        """Let tokens start as large as words are (root mean square), where nothing norms the two together: a T5's words
        are some 13 times as large as the output of a new layer norm, and images would not be heard among them."""
        self.feature[1].weight.fill_(words.weight.float().square().mean().sqrt())  # type: ignore[operator, union-attr]

    def forward(self, features: Tensor, words: nn.Embedding, boxes: Tensor | None = None) -> Tensor:
        """features (B, I, T, g), boxes (B, I, T, 5) or None -> tokens (B, I * T, d).

        The authors give grids boxes of zeros. Their term is zero at the start and never more than a constant, but its
        layer norm, at zero, multiplies gradients by 1 / sqrt(eps): it is left out; `image_order` is a constant too.

        Raises:
            InputError: features of another width, more images than orders, or more tokens than words.
        """
        batch, images, tokens, width = features.shape
        if width != self.feature_width:
            raise InputError(f"visual features are {width} wide, this model takes {self.feature_width}")
        if images > self.images:
            raise InputError(f"an input holds {images} images, this model takes {self.images}")
        count = words.weight.shape[0]
        if tokens > count:
            raise InputError(f"an image has {tokens} tokens, more than the vocabulary has words ({count})")
        order = words.weight[count - tokens :].flip(0)  # (T, d): the last word is the first object
        embedded = self.feature(features.to(self.image_order.dtype)) + self.image_order[:images, None] + order
        if boxes is not None:
            embedded = embedded + self.box(boxes.to(self.image_order.dtype))
        return embedded.reshape(batch, images * tokens, -1)
