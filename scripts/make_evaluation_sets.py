"""Make few-shot evaluation sets from pinned packages of public registries: easy-vqa, openclipart, sklearn-digits.

    python scripts/make_evaluation_sets.py DIR                   fetch the packages with pip and apt-get, write DIR
    python scripts/make_evaluation_sets.py DIR --packages CACHE  the same from packages already fetched (checked, too)
    python scripts/make_evaluation_sets.py DIR --only easy-vqa   one set; needs only its package

Each set is a folder of images and a CoOp split file beside it: `crossgraft fewshot DIR/easy-vqa.json --model ...`.
Nothing is drawn at random: who is in train, val and test depends on names alone (order of SHA-256), and pictures that
are variants of one drawing are in one part. docs/evaluation.md says what the sets are and whose.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import evaluation_openclipart as openclipart
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from crossgraft.files import sha256_file
from crossgraft.pocket.sources import Wheel
from crossgraft.pocket.wheels import fetch_wheel

PARTS = ("train", "val", "test")
VAL = 4  # pictures a class, where a class has enough

EASY_VQA = Wheel(
    "easy-vqa",
    "1.0",
    "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    "easy_vqa/data/",
    "MIT",
)
EASY_VQA_FILE = "easy_vqa-1.0-py3-none-any.whl"
EASY_VQA_TRAIN, EASY_VQA_TEST = 24, 20  # pictures a class: more than 16, so that seeds draw different 16
COLOURS = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}
SHAPES = ("circle", "rectangle", "triangle")

OPENCLIPART = "openclipart-png=1:0.18+dfsg-19"
OPENCLIPART_FILE = "openclipart-png_1%3a0.18+dfsg-19_all.deb"
OPENCLIPART_SHA256 = "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02"
OPENCLIPART_TRAIN, OPENCLIPART_VAL = 8, 2  # its classes are small

DIGITS_SHA256 = "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"  # of the values, uint8 (1797, 8, 8)
DIGITS_TRAIN, DIGITS_TEST = 32, 60  # pictures a class
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Picture:
    """One picture of a set: its name (unique in its class), class, part, and the image."""

    name: str
    label: str
    part: str
    image: Image.Image


def by_hash(names: Iterable[str], salt: str) -> list[str]:
    """The names in an order that depends on nothing but themselves and `salt`."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt}/{name}".encode()).digest())


def divide(groups: Sequence[Sequence[str]], train: int, val: int, salt: str) -> dict[str, str]:
    """Picture -> part, for the pictures of one class; a group stays together.

    Large groups are placed first, each in the part that lacks most; the parts have `train`, `val` and all other
    pictures where the groups allow it.
    """
    total = sum(map(len, groups))
    lacking = {"train": train, "test": total - train - val, "val": val}
    order = {name: rank for rank, name in enumerate(by_hash((group[0] for group in groups), salt))}
    part_of: dict[str, str] = {}
    for group in sorted(groups, key=lambda group: (-len(group), order[group[0]])):
        part = max(lacking, key=lambda p: lacking[p])
        lacking[part] -= len(group)
        part_of |= dict.fromkeys(group, part)
    return part_of


# easy-VQA: a coloured shape a picture


def shown(answered: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """The (colour, shape) that the answered questions about a picture leave possible, if they leave one."""
    colours, shapes = set(COLOURS), set(SHAPES)
    for question, answer in answered:
        words = set(question.rstrip("?").split())
        named = words & (COLOURS.keys() | set(SHAPES))
        if answer in ("yes", "no"):
            present = (answer == "yes") != bool(words & {"no", "not"})
        else:
            present = True  # "what colour is the circle?": there is one
            named |= {answer}
        for possible in (colours, shapes):
            if mentioned := named & (COLOURS.keys() if possible is colours else set(SHAPES)):
                possible.intersection_update(mentioned if present else possible - mentioned)
    return (colours.pop(), shapes.pop()) if len(colours) == len(shapes) == 1 else None


def seen(image: Image.Image) -> tuple[str, str]:
    """The (colour, shape) that the pixels show, by how much of its bounding box the shape fills, soft edges left out.

    Of a tiny triangle these are so few that it may pass for a circle.
    """
    pixels = np.asarray(image.convert("RGB"))
    masks = {name: (pixels == rgb).all(axis=2) for name, rgb in COLOURS.items()}
    colour = max(masks, key=lambda name: int(masks[name].sum()))
    rows, columns = np.nonzero(masks[colour])
    filled = len(rows) / (np.ptp(rows) + 1) / (np.ptp(columns) + 1)
    return colour, "rectangle" if filled == 1 else "circle" if filled > 0.66 else "triangle"


def easy_vqa(packages: Path) -> list[Picture]:
    """24 classes, a colour and a shape each; train and val from the package's train half, test from its test half.

    A picture counts if its answered questions leave one class, and its pixels show it.
    """
    pictures = []
    with zipfile.ZipFile(packages / EASY_VQA_FILE) as wheel:
        for half in ("train", "test"):
            folder = f"{EASY_VQA.reads}{half}"
            answered: dict[int, list[tuple[str, str]]] = {}
            for question, answer, number in json.loads(wheel.read(f"{folder}/questions.json")):
                answered.setdefault(number, []).append((question, answer))
            of_class: dict[str, dict[str, Image.Image]] = {}
            for number, questions in answered.items():
                if label := shown(questions):
                    image = Image.open(io.BytesIO(wheel.read(f"{folder}/images/{number}.png"))).convert("RGB")
                    if seen(image) == label:
                        of_class.setdefault(" ".join(label), {})[f"{half}-{number}"] = image
            for name, images in sorted(of_class.items()):
                wanted = EASY_VQA_TRAIN + VAL if half == "train" else EASY_VQA_TEST
                for i, picture in enumerate(by_hash(images, f"easy-vqa/{name}")[:wanted]):
                    part = "test" if half == "test" else "train" if i < EASY_VQA_TRAIN else "val"
                    pictures.append(Picture(picture, name, part, images[picture]))
    return pictures


# Clip art


def clip_art(packages: Path) -> list[Picture]:
    """Drawings of animals, food, tools and vehicles; variants of one drawing are in one part."""
    of_class: dict[str, list[openclipart.Drawing]] = {}
    for drawing in openclipart.read_drawings(packages / OPENCLIPART_FILE):
        of_class.setdefault(drawing.name, []).append(drawing)
    pictures = []
    for label, drawings in sorted(of_class.items()):
        names = [drawing.path.replace("/", "-") for drawing in drawings]
        groups = openclipart.groups([(d.path, openclipart.thumbnail(d.image)) for d in drawings])
        part_of = divide(
            [[names[i] for i in group] for group in groups], OPENCLIPART_TRAIN, OPENCLIPART_VAL, f"openclipart/{label}"
        )
        pictures += [Picture(n, label, part_of[n], d.image) for n, d in zip(names, drawings, strict=True)]
    return pictures


# Handwritten digits


def digits(_: Path) -> list[Picture]:
    """The digits that scikit-learn carries: 8 x 8 grey values, here ink on paper, 64 px.

    13 people wrote them, and neighbours in the list look alike. So train and val come from its first half and test from
    its last third, and most likely mostly from other hands.
    """
    data = load_digits()
    values = data.images.astype(np.uint8)
    found = hashlib.sha256(values.tobytes()).hexdigest()
    if found != DIGITS_SHA256:
        sys.exit(f"scikit-learn's digits: SHA-256 differs from the pinned one: expected {DIGITS_SHA256}, found {found}")
    pictures = []
    for digit, word in enumerate(DIGIT_NAMES):
        numbers = np.flatnonzero(data.target == digit)
        halves = [f"{n:04d}" for n in numbers if n < 900], [f"{n:04d}" for n in numbers if n >= 1200]
        early, late = (by_hash(names, f"sklearn-digits/{word}") for names in halves)
        chosen = [(n, "train" if i < DIGITS_TRAIN else "val") for i, n in enumerate(early[: DIGITS_TRAIN + VAL])]
        for name, part in chosen + [(n, "test") for n in late[:DIGITS_TEST]]:
            ink = Image.fromarray((255 - values[int(name)].astype(np.float32) * 255 / 16).astype(np.uint8))
            image = ink.resize((64, 64), Image.Resampling.BICUBIC).convert("RGB")
            pictures.append(Picture(name, f"handwritten {word}", part, image))
    return pictures


# Fetching, writing


def fetch(name: str, folder: Path) -> None:
    """Download what a set is made of into `folder`, with the package manager of its registry."""
    if name == "easy-vqa":
        fetch_wheel(EASY_VQA, folder)
    elif name == "openclipart":
        subprocess.run(
            ["apt-get", "download", "--quiet", OPENCLIPART], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )


def check(name: str, folder: Path) -> None:
    """Refuse a package whose SHA-256 is not the pinned one."""
    pins = {"easy-vqa": (EASY_VQA_FILE, EASY_VQA.sha256), "openclipart": (OPENCLIPART_FILE, OPENCLIPART_SHA256)}
    if name in pins:
        file, pin = pins[name]
        if not (folder / file).is_file():
            sys.exit(f"{folder}: no {file}; fetch it, or leave out --packages")
        if (found := sha256_file(folder / file)) != pin:
            sys.exit(f"{folder / file}: SHA-256 differs from the pinned one: expected {pin}, found {found}")


def write_set(root: Path, name: str, pictures: Sequence[Picture]) -> dict[str, int]:
    """Write `root`/`name`/ and its split file `root`/`name`.json (CoOp format); return the number of images a part."""
    shutil.rmtree(root / name, ignore_errors=True)
    labels = {label: i for i, label in enumerate(sorted({p.label for p in pictures}))}
    split: dict[str, list[tuple[str, int, str]]] = {part: [] for part in PARTS}
    for picture in pictures:
        folder = re.sub(r"\W+", "_", picture.label)
        relative = f"{name}/{folder}/{picture.name}.png"
        (root / name / folder).mkdir(parents=True, exist_ok=True)
        picture.image.save(root / relative)
        split[picture.part].append((relative, labels[picture.label], picture.label))
    text = json.dumps({part: sorted(entries) for part, entries in split.items()}, indent=1)
    (root / f"{name}.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    return {part: len(entries) for part, entries in split.items()}


SETS: dict[str, Callable[[Path], list[Picture]]] = {
    "easy-vqa": easy_vqa,
    "openclipart": clip_art,
    "sklearn-digits": digits,
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="folder to write")
    parser.add_argument("--packages", type=Path, help="folder with the packages, as pip and apt-get name them")
    parser.add_argument("--only", choices=SETS, action="append", help="a set (may be repeated; default: all)")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    for name in args.only or SETS:
        with tempfile.TemporaryDirectory() as temp:
            packages = args.packages or Path(temp)
            if not args.packages:
                fetch(name, packages)
            check(name, packages)
            counts = write_set(args.dir, name, SETS[name](packages))
        print(f"{name}: " + ", ".join(f"{part} {count}" for part, count in counts.items()))


if __name__ == "__main__":
    main()
