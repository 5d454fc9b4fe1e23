"""Make a folder of named pictures, a bank for `knowledge.images`: emoji and Tux Paint's stamps, some 1,800 things.

    python scripts/make_picture_bank.py DIR                  fetch the pinned packages, write DIR/<name>-<number>.webp
    python scripts/make_picture_bank.py DIR --packages DIR2  the same from packages already fetched
    python scripts/make_picture_bank.py DIR --without color-concrete-objects.csv coda

It also writes DIR/captions.jsonl, "The color of the wombat is brown." for every picture that is mostly of one colour by
its pixels (`picture_colors`) and whose name says no colour. What is asked about in the data sets `--without` gets no
caption, and is listed in DIR/asked.json for `without` of the task `cloze`. The pictures are emoji of things in the
three styles of demo/emoji, and the stamps of scripts/alignment_pictures.py, cut out, on white. Pocket encoders were
aligned with many of them, so that they find them well. Needs npm, apt-get and dpkg-deb.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from alignment_pictures import emoji_of, fetch_packages, read_pictures
from make_emoji import STYLES, fetch
from picture_colors import picture_color
from PIL import Image, ImageOps

from crossgraft.errors import InputError
from crossgraft.tasks.cloze import COLOURS
from crossgraft.tasks.colors import read_colors
from crossgraft.tasks.nouns import name_words, names

SIZE, ART = 256, 240  # px, of a picture and of what is drawn on it
OPAQUE = 255
LEFT_OUT = {"Flags", "Symbols", "Component", "Smileys & Emotion", "People & Body"}  # categories of emoji


def cut_out(data: bytes) -> Image.Image:
    """A picture without its transparent margin, its longer side ART; RGBA, or RGB if nothing of it is transparent."""
    art = Image.open(io.BytesIO(data)).convert("RGBA")
    alpha = art.getchannel("A")
    if alpha.getextrema()[0] == OPAQUE:
        return ImageOps.contain(art.convert("RGB"), (ART, ART), Image.Resampling.LANCZOS)
    box = alpha.getbbox()
    # "RGBa" has premultiplied alpha: without it the invisible colour of transparent pixels bleeds into the edges.
    return ImageOps.contain(art.crop(box).convert("RGBa"), (ART, ART), Image.Resampling.LANCZOS).convert("RGBA")


def on_white(art: Image.Image) -> Image.Image:
    """SIZE x SIZE, RGB."""
    canvas = Image.new("RGBA", (SIZE, SIZE), "white")
    canvas.alpha_composite(art.convert("RGBA"), ((SIZE - art.width) // 2, (SIZE - art.height) // 2))
    return canvas.convert("RGB")


def named(packages: Path) -> list[tuple[str, bytes]]:
    """(name, image file's bytes): emoji of things in three styles, then stamps."""
    emoji = [picture for style in STYLES for picture in emoji_of(packages, style, left_out=LEFT_OUT)]
    stamps = [picture for picture in read_pictures(packages) if picture.stamp]
    return [(picture.name, picture.data) for picture in emoji + stamps]


def split(name: str) -> str:
    """By name, so that no thing is in two splits, in whatever style."""
    number = hashlib.sha256(name.encode()).digest()[0] % 10
    return {0: "val", 1: "test", 2: "test"}.get(number, "train")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", type=Path, help="folder with the packages, under the names of their archives")
    parser.add_argument("--without", type=Path, nargs="*", default=[], help="data sets whose objects get no caption")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        asked = sorted({one.name for data in arguments.without for one in read_colors(data).objects})
    except InputError as error:
        sys.exit(str(error))
    hidden = [name_words(thing) for thing in asked]
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
            art, file = cut_out(data), f"{stem}-{seen[stem]}.webp"
            on_white(art).save(arguments.out / file, quality=95)
            own = name_words(name)
            untold = COLOURS & {*own} or any(names(own, thing) for thing in hidden)
            if (color := picture_color(art)) and not untold:
                told = f"The color of the {name} is {color}."
                captions.append({"image": file, "caption": told, "split": split(name)})
    lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in captions)
    (arguments.out / "captions.jsonl").write_text(lines, encoding="utf-8")
    (arguments.out / "asked.json").write_text(json.dumps(asked) + "\n", encoding="utf-8")
    print(f"{seen.total()} pictures of {len(seen)} names and {len(captions)} captions in {arguments.out}")


if __name__ == "__main__":
    main()
