"""EfficientNet-Lite0: EfficientNet without squeeze-and-excite, with ReLU6. transformers has no such architecture.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (arXiv 1905.11946), Lite variant.
Batch norms are folded into the convolutions (the network is frozen here), and padding follows TensorFlow's SAME rule,
as trained.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expand: int
    width: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM_WIDTH, HEAD_WIDTH, IMAGENET_CLASSES = 32, 1280, 1000


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: the odd pixel goes to the right and below."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pad_h, pad_w = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:])
        if pad_h == pad_w and pad_h % 2 == 0:
            return functional.conv2d(x, self.weight, self.bias, self.stride, pad_h // 2, 1, self.groups)
        x = functional.pad(x, (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2))
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


class InvertedResidual(nn.Module):
    """1x1 expand - k x k depthwise - 1x1 project, with a skip where shapes allow."""

    def __init__(self, width_in: int, stage: Stage, stride: int) -> None:
        super().__init__()
        hidden = width_in * stage.expand
        self.expand = nn.Conv2d(width_in, hidden, 1) if stage.expand > 1 else None
        self.depthwise = SameConv2d(hidden, hidden, stage.kernel, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, stage.width, 1)
        self.skip = stride == 1 and width_in == stage.width

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.expand is None else functional.relu6(self.expand(x), inplace=True)
        h = self.project(functional.relu6(self.depthwise(h), inplace=True))
        return x + h if self.skip else h


class EfficientNetLite0(nn.Module):
    """Pixels (B, 3, 224, 224), scaled as (x - 127) / 128 -> grid (B, 49, 1280), pooled (B, 1280), logits (B, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv2d(3, STEM_WIDTH, 3, 2)
        blocks, width = [], STEM_WIDTH
        for stage in STAGES:
            for i in range(stage.repeats):
                blocks.append(InvertedResidual(width, stage, stage.stride if i == 0 else 1))
                width = stage.width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(width, HEAD_WIDTH, 1)
        self.classifier = nn.Linear(HEAD_WIDTH, IMAGENET_CLASSES)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = functional.relu6(self.stem(pixels.contiguous(memory_format=torch.channels_last)), inplace=True)
        x = functional.relu6(self.head(self.blocks(x)), inplace=True)  # (B, 1280, 7, 7)
        grid = x.flatten(2).transpose(1, 2)
        pooled = grid.mean(1)
        return grid, pooled, self.classifier(pooled)
