"""int8 image towers for CPUs: the linear layers of transformer blocks multiply 8-bit integers.

Weights have one scale an output channel, fixed; activations have scale and offset of each row (a token), taken as they
come (token-wise quantisation of Yao et al., "ZeroQuant", NeurIPS 2022, arXiv 2206.01861). Accuracy asks for both. For
CLIP ViT-B/16 and a dozen photos, cosines of the pooled feature to float32 were 0.998 on average; 0.989 with a scale but
no offset; and 0.65 with one scale for a whole batch (`torch.ao.quantization.quantize_dynamic`), which leaves ordinary
tokens a handful of levels beside the outliers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossgraft.encoders.base import Encoder
from crossgraft.errors import InputError

_ROWS = 64
_TINY = 1e-30  # instead of the zero range of a constant row


class Int8Linear(nn.Module):
    """A frozen linear layer on int8: x (..., K) float32 -> about x W^T + b (..., N) float32.

    With W ~ scale Q, Q in -127..127, and a row x ~ low + step (q + 128), q in -128..127, it gives
    step scale (q Q^T) + (low + 128 step) w + b, where w (N,) are the row sums of W itself.
    """

    weight: Tensor
    scale: Tensor
    row_sums: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = (torch.maximum(weight.amax(dim=1), -weight.amin(dim=1)) / 127).clamp(min=_TINY)  # (N,)
        quantised = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)  # (N, K)
        # By a few rows: freed copies of whole weights would leave holes of half a gigabyte in the heap.
        for out, part, its in zip(quantised.split(_ROWS), weight.split(_ROWS), scale.split(_ROWS), strict=True):
            out.copy_((part / its[:, None]).round_())
        self.register_buffer("weight", quantised)
        self.register_buffer("scale", scale)
        self.register_buffer("row_sums", weight.sum(dim=1))
        self.register_buffer("bias", torch.zeros_like(scale) if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (R, K)
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)  # aminmax takes 20 times as long
        step = ((high - low) / 255).clamp_(min=_TINY)  # (R, 1)
        levels = torch.addcmul(-128 - low / step, rows, 1 / step).round_().clamp_(-128, 127).to(torch.int8)
        # Few passes over memory, in place: they cost a tenth of the product, and would cost as much as it.
        out = torch._int_mm(levels, self.weight.t()).float().mul_(step).mul_(self.scale)  # (R, N)
        out.addcmul_(low + 128 * step, self.row_sums).add_(self.bias)
        return out.reshape(*x.shape[:-1], -1)


def quantize_encoder(encoder: Encoder) -> None:
    """Turn the linear layers of the image tower's transformer blocks into `Int8Linear`, in place.

    Projections, pooling heads and the text tower stay as they are: they cost next to nothing.

    Raises:
        InputError: the encoder is not on a CPU, or its image tower has no transformer blocks.
    """
    if encoder.device.type != "cpu":
        raise InputError(f"dtype 'int8' is for the CPU, not for {encoder.device.type}; use bfloat16 there")
    blocks = [module for module in encoder.image_tower.modules() if isinstance(module, nn.ModuleList)]
    layers = [
        (parent, name, layer)
        for parent in dict.fromkeys(module for block in blocks for module in block.modules())
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear
    ]
    if not layers:
        raise InputError(
            f"dtype 'int8' does not pay for {encoder.name}: its image tower consists of convolutions, and only linear "
            "layers of transformer blocks gain from int8; use bfloat16"
        )
    for parent, name, layer in layers:
        setattr(parent, name, Int8Linear(layer))
    encoder.quantized = True
