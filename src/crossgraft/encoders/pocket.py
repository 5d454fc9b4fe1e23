"""Pocket encoders: a small image tower, MiniLM for texts, and an alignment between them that we built (docs/pocket.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from crossgraft.encoders.base import Encoder, ImageFeatures
from crossgraft.encoders.efficientnet_lite import HEAD_WIDTH, EfficientNetLite0
from crossgraft.encoders.fingerprint import fingerprint
from crossgraft.encoders.preprocess import Preprocess
from crossgraft.encoders.text import encode_in_batches
from crossgraft.errors import InputError
from crossgraft.files import read_json

MANIFEST = "crossgraft.json"
TEXT_LIMIT = 256  # tokens; what MiniLM was trained with


class ClipTower(nn.Module):
    """CLIP ViT-B/16: pixels (B, 3, 224, 224) -> grid (B, 197, 768), feature (B, 768), input of the alignment (B, 512)."""

    feature_dim, grid_shape = 768, (197, 768)

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import CLIPVisionModelWithProjection

        self.model = CLIPVisionModelWithProjection.from_pretrained(folder)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.model.vision_model(pixel_values=pixels)
        return output.last_hidden_state, output.pooler_output, self.model.visual_projection(output.pooler_output)


class LiteTower(nn.Module):
    """EfficientNet-Lite0: pixels -> grid (B, 49, 1280), feature (B, 1280), ImageNet logits (B, 1000) for the alignment."""

    feature_dim, grid_shape = HEAD_WIDTH, (49, HEAD_WIDTH)

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.model = EfficientNetLite0()
        self.model.load_state_dict(load_file(folder / "model.safetensors"))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grid, pooled, logits = self.model(pixels)
        return grid, pooled, logits


TOWERS: dict[str, type[ClipTower] | type[LiteTower]] = {"clip-vit-b16": ClipTower, "efficientnet-lite0": LiteTower}


class ClassMixture(nn.Module):
    """What a classifier sees, said in text space: the class-probability-weighted mean of centred class-name embeddings."""

    def __init__(self, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
        super().__init__()
        self.register_buffer("prototypes", tensors["prototypes"].float())  # (1000, d)
        self.temperature = settings["temperature"]

    def forward(self, logits: Tensor) -> Tensor:
        return (logits / self.temperature).softmax(-1) @ self.prototypes


class LinearMap(nn.Module):
    """A ridge regression from image to text space."""

    def __init__(self, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
        super().__init__()
        self.register_buffer("mean", tensors["image_mean"].float())  # (p,)
        self.register_buffer("weight", tensors["weight"].float())  # (p, d)

    def forward(self, features: Tensor) -> Tensor:
        return (F.normalize(features, dim=-1) - self.mean) @ self.weight


ALIGNMENTS: dict[str, type[ClassMixture] | type[LinearMap]] = {"class-mixture": ClassMixture, "linear": LinearMap}


class MiniLM(nn.Module):
    """MiniLM-L6 with masked mean pooling, as sentence-transformers uses it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import BertModel, PreTrainedTokenizerFast

        self.model = BertModel.from_pretrained(folder, add_pooling_layer=False)
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")
        # The shipped tokenizer.json pads and cuts to 128 by itself; here the batch decides.
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.backend_tokenizer.no_truncation()

    def forward(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=TEXT_LIMIT, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        states = self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        mask = tokens.attention_mask[..., None].to(states.dtype)  # (B, L, 1)
        return F.normalize((states * mask).sum(1).float() / mask.sum(1).float(), dim=-1)


class PocketEncoder(Encoder):
    """A pocket dual encoder read from its folder (see `crossgraft models pull pocket`).

    Texts are centred by the mean of the alignment's own texts before they are compared, since MiniLM's sentences share a direction.

    Raises:
        InputError: the folder is no pocket model, or was made by another version.
    """

    def __init__(self, name: str, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        manifest = read_json(folder / MANIFEST)
        try:
            settings = manifest["alignment"]
            tower = TOWERS[manifest["vision"]](folder / "vision")
            tensors = load_file(folder / "alignment.safetensors")
            alignment = ALIGNMENTS[settings["kind"]](tensors, settings)
            self.logit_scale = float(settings["logit_scale"])
            self._text_mean = tensors["text_mean"].float().to(device)
        except (KeyError, TypeError, FileNotFoundError) as error:
            raise InputError(f"{folder}: not a pocket model of this version ({error}); pull it again with --force") from error
        text = MiniLM(folder / "text")
        self.name, self.device, self.dtype = name, device, dtype
        self.preprocess = Preprocess.from_hf(read_json(folder / "vision" / "preprocessor_config.json"))
        self.embedding_dim = self._text_mean.shape[0]
        self.feature_dim, self.grid_shape = tower.feature_dim, tower.grid_shape
        weights = {f"{part}.{key}": value for part, module in (("vision", tower), ("text", text)) for key, value in module.state_dict().items()}
        self.fingerprint = fingerprint(weights | {f"alignment.{k}": v for k, v in tensors.items()}, [self.preprocess.to_dict(), settings])
        self._tower = tower.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._text = text.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._alignment = alignment.to(device)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor, *, grid: bool = False) -> ImageFeatures:
        tokens, feature, aligned = self._tower(pixels.to(self.device, self.dtype))
        embedding = F.normalize(self._alignment(aligned.float()), dim=-1)
        return ImageFeatures(embedding, feature.float(), tokens.float() if grid else None)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return encode_in_batches(texts, lambda batch: self._text(batch) - self._text_mean)
