"""Make a folder of named pictures, a bank for `knowledge.images`: emoji and Tux Paint's stamps, some 1,800 things.

    python scripts/make_picture_bank.py DIR                  fetch the pinned packages, write DIR/<name>-<number>.webp
    python scripts/make_picture_bank.py DIR --packages DIR2  the same from packages already fetched
    python scripts/make_picture_bank.py DIR --without color-concrete-objects.csv coda

It also writes DIR/captions.jsonl, "The color of the wombat is brown." for every picture that is mostly of one colour by
its pixels (`picture_colors`), but for objects of the data sets `--without`, which stay questions. The pictures are
emoji in the three styles of demo/emoji, and the stamps of scripts/alignment_pictures.py, on white. Pocket encoders were
aligned with many of them, so that they find them well. Needs npm, apt-get and dpkg-deb.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tempfile
from collections import Counter
from pathlib import Path

from alignment_pictures import emoji_of, fetch_packages, read_pictures
from make_emoji import STYLES, fetch
from picture_colors import picture_color
from PIL import Image

from crossgraft.tasks.colors import read_colors
from crossgraft.training.labelled import words

SIZE, ART = 256, 240  # px, of a picture and of what is drawn on it


def on_white(data: bytes) -> Image.Image:
    """SIZE x SIZE, RGB; transparent pixels are white."""
    # "RGBa" has premultiplied alpha: without it the invisible colour of transparent pixels bleeds into the edges.
    art = Image.open(io.BytesIO(data)).convert("RGBA").convert("RGBa")
    art.thumbnail((ART, ART), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SIZE, SIZE), "white")
    canvas.alpha_composite(art.convert("RGBA"), ((SIZE - art.width) // 2, (SIZE - art.height) // 2))
    return canvas.convert("RGB")


def named(packages: Path) -> list[tuple[str, bytes]]:
    """(name, image file's bytes): emoji in three styles, then stamps."""
    emoji = [picture for style in STYLES for picture in emoji_of(packages, style, without=())]
    stamps = [picture for picture in read_pictures(packages) if picture.stamp]
    return [(picture.name, picture.data) for picture in emoji + stamps]


def split(name: str) -> str:
    """By name, so that no thing is in two splits, in whatever style."""
    number = hashlib.sha256(name.encode()).digest()[0] % 10
    return {0: "val", 1: "test", 2: "test"}.get(number, "train")


def is_one_of(name: str, things: list[list[str]]) -> bool:
    """Whether a name ends with one of the things, as "red apple" does with "apple"."""
    own = words(name)
    return any(own[-len(thing) :] == thing for thing in things)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", type=Path, help="folder with the packages, under the names of their archives")
    parser.add_argument("--without", type=Path, nargs="*", default=[], help="data sets whose objects get no caption")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    hidden = [words(one.name) for data in arguments.without for one in read_colors(data).objects]
    captions = []
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        packages = arguments.packages or Path(temporary)
        if arguments.packages is None:
            fetch_packages(packages)
            fetch(STYLES[2], packages)
        for name, data in named(packages):
            stem = name.replace("/", " ").replace(" ", "_")
            seen[stem] += 1
            picture, file = on_white(data), f"{stem}-{seen[stem]}.webp"
            picture.save(arguments.out / file, quality=95)
            if (color := picture_color(picture)) and not is_one_of(name, hidden):
                told = f"The color of the {name} is {color}."
                captions.append({"image": file, "caption": told, "split": split(name)})
    lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in captions)
    (arguments.out / "captions.jsonl").write_text(lines, encoding="utf-8")
    print(f"{seen.total()} pictures of {len(seen)} names and {len(captions)} captions in {arguments.out}")


if __name__ == "__main__":
    main()
