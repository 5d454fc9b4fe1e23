"""CLIP, SigLIP and SigLIP 2 as transformers holds them, by name or folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.encoders.base import Encoder, ImageFeatures, TextTokens
from crossgraft.encoders.fingerprint import architecture, fingerprint
from crossgraft.encoders.preprocess import Preprocess
from crossgraft.encoders.text import check_texts, encode_in_batches

FAMILIES = ("clip", "siglip")


class HuggingFaceEncoder(Encoder):
    """A dual encoder of transformers (CLIP: Radford et al., arXiv 2103.00020; SigLIP: Zhai et al., arXiv 2303.15343).

    For CLIP `feature` is the pooled image state before `visual_projection`; SigLIP has no projection, so there
    `feature` is the pooled state that `embedding` is the unit form of. The grid holds the vision tower's last hidden
    states (CLIP: with [CLS]).
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Any, preprocess: Preprocess, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.name = name
        self.preprocess = preprocess
        towers = (model.config.vision_config, model.config.text_config)
        settings = [model.config.model_type, *map(architecture, towers), tokenizer.get_vocab(), preprocess.to_dict()]
        self.fingerprint = fingerprint(model.state_dict(), settings)
        self.device, self.dtype = device, dtype
        self.n_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.logit_scale = float(model.logit_scale.detach().exp())
        self._model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self.image_tower = self._model.vision_model
        self._tokenizer = tokenizer
        vision = model.config.vision_config
        self._is_clip = model.config.model_type == "clip"
        self.feature_dim = vision.hidden_size
        self.text_width = model.config.text_config.hidden_size
        self.embedding_dim = model.config.projection_dim if self._is_clip else vision.hidden_size
        self.grid_shape = ((vision.image_size // vision.patch_size) ** 2 + int(self._is_clip), vision.hidden_size)
        # SigLIP was trained on texts padded to their full length, saw the padding, and pools the last position: there
        # padding stays, and no mask hides it, whatever the tokenizer gives.
        self._max_length = model.config.text_config.max_position_embeddings
        self._padding: bool | str = True if self._is_clip else "max_length"

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor, *, grid: bool = False) -> ImageFeatures:
        output = self._model.vision_model(pixel_values=pixels.to(self.device, self.dtype))
        pooled = output.pooler_output
        projected = self._model.visual_projection(pooled) if self._is_clip else pooled
        tokens = output.last_hidden_state.float() if grid else None
        return ImageFeatures(functional.normalize(projected.float(), dim=-1), pooled.float(), tokens)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        def encode(batch: list[str]) -> Tensor:
            output, _ = self._read(batch)
            return self._model.text_projection(output.pooler_output) if self._is_clip else output.pooler_output

        return encode_in_batches(texts, encode)

    @torch.inference_mode()
    def encode_text_tokens(self, texts: Sequence[str]) -> TextTokens:
        check_texts(texts)
        output, mask = self._read(list(texts))
        return TextTokens(output.last_hidden_state.float(), mask)

    def _read(self, texts: list[str]) -> tuple[Any, Tensor]:
        """What the text tower makes of texts, and which of its tokens are real (n, L)."""
        tokens = self._tokenizer(
            texts, padding=self._padding, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(self.device)
        mask = tokens.attention_mask if self._is_clip else None
        output = self._model.text_model(input_ids=tokens.input_ids, attention_mask=mask)
        return output, torch.ones_like(tokens.input_ids) if mask is None else mask
