"""Pocket encoders: a small image tower, MiniLM for texts, and our own alignment of the two (docs/pocket.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from crossgraft.encoders.alignment import Alignment
from crossgraft.encoders.base import Encoder, ImageFeatures, TextTokens
from crossgraft.encoders.drawn_text import draw_text
from crossgraft.encoders.efficientnet_lite import HEAD_WIDTH, EfficientNetLite0
from crossgraft.encoders.fingerprint import architecture, fingerprint
from crossgraft.encoders.preprocess import Preprocess
from crossgraft.encoders.text import check_texts, encode_in_batches
from crossgraft.errors import InputError
from crossgraft.files import read_json
from crossgraft.pocket.sources import DUAL_ENCODER, DUAL_ENCODERS, MANIFEST, POCKET_MODELS

TEXT_WIDTH = 384  # of MiniLM's states
TEXT_LIMIT = 256  # tokens; what MiniLM was trained with
DRAWN_BATCH = 8  # texts that the image tower reads at a time


class Tower(nn.Module):
    """A frozen image tower: pixels (B, 3, 224, 224) -> grid (B, T, g), feature (B, f), and `views` for an alignment."""

    feature_dim: int
    grid_shape: tuple[int, int]


class LiteTower(Tower):
    """EfficientNet-Lite0. Its view is `imagenet`, logits (B, 1000)."""

    feature_dim, grid_shape = HEAD_WIDTH, (49, HEAD_WIDTH)

    def __init__(self, folder: Path, preprocess: Preprocess) -> None:
        super().__init__()
        self.model = EfficientNetLite0()
        self.model.load_state_dict(load_file(folder / "model.safetensors"))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        grid, pooled, logits = self.model(pixels)
        return grid, pooled, {"imagenet": logits}


class ClipLiteTower(Tower):
    """OpenAI CLIP ViT-B/16, which gives grid and feature; its views are `clip`, the projected feature (B, 512), and
    EfficientNet-Lite0's `imagenet`: CLIP's own text tower is not on the package index, and an ImageNet classifier knows
    the names that CLIP lost with it. CLIP's image tower also reads texts that are drawn."""

    feature_dim, grid_shape = 768, (197, 768)
    scale: Tensor
    shift: Tensor

    def __init__(self, folder: Path, preprocess: Preprocess) -> None:
        super().__init__()
        from transformers import CLIPVisionModelWithProjection

        self.clip = CLIPVisionModelWithProjection.from_pretrained(folder)
        self.lite = LiteTower(folder / "lite", preprocess)
        # From CLIP's normalisation of pixels to Lite0's, (x - 127) / 128.
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        self.register_buffer("scale", (std * 255 / 128)[:, None, None], persistent=False)
        self.register_buffer("shift", ((mean * 255 - 127) / 128)[:, None, None], persistent=False)

    def read(self, pixels: Tensor) -> Tensor:
        """The projected feature (B, 512) of drawn texts."""
        return self.clip(pixel_values=pixels).image_embeds

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        output = self.clip.vision_model(pixel_values=pixels)
        views = {"clip": self.clip.visual_projection(output.pooler_output)}
        _, _, lite = self.lite(pixels * self.scale + self.shift)
        return output.last_hidden_state, output.pooler_output, views | lite


TOWERS: dict[str, type[LiteTower] | type[ClipLiteTower]] = {
    "efficientnet-lite0": LiteTower,
    "clip-vit-b16": ClipLiteTower,
}


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

    def read(self, texts: list[str]) -> TextTokens:
        """States of each token, in the model's dtype."""
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=TEXT_LIMIT, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        states = self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return TextTokens(states, tokens.attention_mask)

    def forward(self, texts: list[str]) -> Tensor:
        states, seen = self.read(texts)
        mask = seen[..., None].to(states.dtype)  # (B, L, 1)
        return functional.normalize((states * mask).sum(1).float() / mask.sum(1).float(), dim=-1)


def check_dual_encoder(name: str, model_type: object) -> None:
    """Raise InputError if this, from a manifest, is the type of a pocket model of another kind."""
    kind = {model.model_type: model.kind for model in POCKET_MODELS.values()}.get(str(model_type))
    if kind is not None and kind != DUAL_ENCODER:
        raise InputError(
            f"{name} is a {kind}, not a dual encoder of images and texts: choose {', '.join(DUAL_ENCODERS)} or another "
            "dual encoder"
        )


class PocketEncoder(Encoder):
    """A pocket dual encoder read from its folder (see `crossgraft models pull pocket`).

    pocket-clip encodes a text twice, as a sentence and as a picture of the text, so a text costs what an image costs.

    Raises:
        InputError: the folder is no pocket dual encoder, is damaged, or was made by another version.
    """

    def __init__(
        self, name: str, folder: Path, *, device: torch.device, dtype: torch.dtype, draft: bool = False
    ) -> None:
        manifest = read_json(folder / MANIFEST)
        try:
            check_dual_encoder(name, manifest["model_type"])
            settings = manifest["alignment"]
            preprocess = Preprocess.from_hf(read_json(folder / "vision" / "preprocessor_config.json"), draft=draft)
            tower = TOWERS[manifest["vision"]](folder / "vision", preprocess)
            alignment = Alignment(load_file(folder / "alignment.safetensors"), settings)
            self.logit_scale = float(settings["logit_scale"])
            text = MiniLM(folder / "text")
        except InputError:
            raise
        except Exception as error:  # a damaged file meets three libraries, and each has its own exceptions
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(
                f"{folder}: no pocket model of this version ({reason}); pull it again with --force"
            ) from error
        self.name, self.device, self.dtype, self.preprocess = name, device, dtype, preprocess
        self.embedding_dim = alignment.dim
        self.feature_dim, self.grid_shape = tower.feature_dim, tower.grid_shape
        self.text_width = TEXT_WIDTH
        weights = nn.ModuleDict({"vision": tower, "text": text, "alignment": alignment}).state_dict()
        self.n_parameters = sum(tensor.numel() for tensor in weights.values())
        configured = [module for module in (*tower.children(), text.model) if hasattr(module, "config")]
        towers = [architecture(module.config) for module in configured]
        vocabulary = text.tokenizer.get_vocab()
        self.fingerprint = fingerprint(
            weights, [manifest["vision"], towers, vocabulary, preprocess.to_dict(), settings]
        )
        self.image_tower = tower.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._text = text.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._alignment = alignment.to(device)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor, *, grid: bool = False) -> ImageFeatures:
        tokens, feature, views = self.image_tower(pixels.to(self.device, self.dtype))
        return ImageFeatures(self._alignment.image(views), feature.float(), tokens.float() if grid else None)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return encode_in_batches(texts, lambda batch: self._alignment.text(self._text(batch), self._read(batch)))

    @torch.inference_mode()
    def encode_text_tokens(self, texts: Sequence[str]) -> TextTokens:
        check_texts(texts)
        states, mask = self._text.read(list(texts))
        return TextTokens(states.float(), mask)

    def _read(self, texts: list[str]) -> Tensor | None:
        """What CLIP sees of drawn texts (n, 512)."""
        if not isinstance(self.image_tower, ClipLiteTower):
            return None
        features = []
        for start in range(0, len(texts), DRAWN_BATCH):
            pixels = torch.stack([self.preprocess(draw_text(text)) for text in texts[start : start + DRAWN_BATCH]])
            features.append(self.image_tower.read(pixels.to(self.device, self.dtype)).float())
        return torch.cat(features)
