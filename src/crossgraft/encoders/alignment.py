"""How the images and texts of a pocket encoder come to share a space (docs/pocket.md says how it was made)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Alignment(nn.Module):
    """Images and texts as unit vectors made of parts, so that a cosine is a weighted mean of the parts' cosines.

    `classes`: what an ImageNet classifier sees, its class probabilities, against how much a text resembles each class
    name, exp(sharpness * cosine) between sentence embeddings. 1000 wide; pocket-lite has this part only.

    `meaning`: a ridge regression from CLIP's projected image feature to the sentence embedding of a picture's name.

    `drawn`: CLIP's projected image feature against that of the text drawn as a picture, both centred among their own
    kind and whitened by the covariance of pictures (discriminant analysis with one covariance).

    Args:
        tensors: text_mean (d,), imagenet_names (1000, d); for CLIP also clip_mean (p,), clip_map (p, d), drawn_mean
            (p,), whitening (p, p).
        settings: temperature (of the class probabilities), sharpness; for CLIP also weights, of the three parts.
    """

    text_mean: Tensor
    imagenet_names: Tensor
    clip_mean: Tensor
    clip_map: Tensor | None
    drawn_mean: Tensor
    whitening: Tensor

    def __init__(self, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
        super().__init__()
        self.temperature, self.sharpness = float(settings["temperature"]), float(settings["sharpness"])
        self.weights = [float(weight) for weight in settings.get("weights", [1.0])]
        for name in ("text_mean", "imagenet_names"):
            self.register_buffer(name, tensors[name].float())
        for name in ("clip_mean", "clip_map", "drawn_mean", "whitening"):
            self.register_buffer(name, tensors[name].float() if len(self.weights) > 1 else None)
        parts = [len(self.imagenet_names)]
        if self.clip_map is not None:
            parts += [self.clip_map.shape[1], self.whitening.shape[1]]
        self.dim = sum(parts)

    def image(self, views: dict[str, Tensor]) -> Tensor:
        """What towers see, `imagenet` logits (B, 1000) and for CLIP `clip` (B, p) -> (B, dim), unit length."""
        return self._join(self.image_parts(views))

    def text(self, sentences: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Sentence embeddings (B, d), and for CLIP what it sees of the drawn texts (B, p) -> (B, dim), unit length."""
        return self._join(self.text_parts(sentences, drawn))

    def image_parts(self, views: dict[str, Tensor]) -> list[Tensor]:
        """The unit vectors, one (B, ...) a part, that `image` joins."""
        parts = [(views["imagenet"].float() / self.temperature).softmax(-1)]
        if self.clip_map is not None:
            centred = functional.normalize(views["clip"].float(), dim=-1) - self.clip_mean
            parts += [centred @ self.clip_map, centred @ self.whitening]
        return [functional.normalize(part, dim=-1) for part in parts]

    def text_parts(self, sentences: Tensor, drawn: Tensor | None = None) -> list[Tensor]:
        """The unit vectors, one (B, ...) a part, that `text` joins."""
        meaning = functional.normalize(sentences.float() - self.text_mean, dim=-1)
        parts = [(self.sharpness * meaning @ self.imagenet_names.T).exp()]
        if drawn is not None:
            centred = functional.normalize(drawn.float(), dim=-1) - self.drawn_mean
            parts += [meaning, centred @ self.whitening]
        return [functional.normalize(part, dim=-1) for part in parts]

    def _join(self, parts: list[Tensor]) -> Tensor:
        weighted = [weight**0.5 * part for weight, part in zip(self.weights, parts, strict=True)]
        return functional.normalize(torch.cat(weighted, dim=-1), dim=-1)
