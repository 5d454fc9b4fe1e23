"""Named pictures for scripts/build_alignments.py, from pinned packages: Fluent emoji, and Tux Paint's stamps.

Emoji are in one style, the one nearest to photos: more styles of the same emoji add nothing. Stamps (Debian's
tuxpaint-stamps-default) are photos and drawings, cut out, with a caption each. The emoji of demo/emoji are left out, so
that the demo stays a test; so is what is no thing: flags, letters, coins.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from make_emoji import STYLES, Style, fetch, identities, tarball

from crossgraft.files import sha256_file

NAMES, EMOJI = STYLES[0], STYLES[1]  # the packages with the names of emoji, and with the pictures
STAMPS = "tuxpaint-stamps-default=2022.06.04-1"
STAMPS_FILE = "tuxpaint-stamps-default_2022.06.04-1_all.deb"
STAMPS_SHA256 = "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
STAMPS_BASE = "./usr/share/tuxpaint/stamps/"
NO_THINGS = ("symbols/", "town/flags/")  # folders of stamps
LEFT_OUT = {"Flags", "Symbols", "Component"}  # categories of emoji
LONGEST = 5  # words: longer captions tell stories


@dataclass(frozen=True)
class Picture:
    """The name of what is shown, an image file's bytes, and whether it is a stamp (else an emoji)."""

    name: str
    data: bytes
    stamp: bool


def fetch_packages(folder: Path) -> None:
    """Download all packages into `folder`, with npm and apt-get."""
    for style in (NAMES, EMOJI):
        fetch(style, folder)
    subprocess.run(["apt-get", "download", "--quiet", STAMPS], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def read_pictures(folder: Path) -> list[Picture]:
    """Every picture of the packages in `folder`, after their hashes have been checked."""
    return list(_emoji(folder)) + list(_stamps(folder))


def _emoji(folder: Path) -> Iterator[Picture]:
    demo = {emoji for _, _, emoji, _ in identities()}
    yield from emoji_of(folder, EMOJI, demo)


def emoji_of(
    folder: Path, style: Style, without: Collection[str] = (), left_out: Collection[str] = LEFT_OUT
) -> Iterator[Picture]:
    """Emoji in one style, but for the short names `without` and categories `left_out`, in the order of their files."""
    with tarfile.open(tarball(NAMES, folder)) as archive:
        table = json.load(archive.extractfile("package/emoji.json"))  # type: ignore[arg-type]
    wanted = {}
    for entry in table:
        if entry["category"] not in left_out and entry["short_name"] not in without:
            name = (entry["name"] or entry["short_name"].replace("_", " ")).lower()
            for code in {entry["unified"].lower(), (entry["non_qualified"] or entry["unified"]).lower()}:
                wanted[style.image.format(code=code)] = name
    with tarfile.open(tarball(style, folder)) as archive:
        for member in sorted(archive.getmembers(), key=lambda m: m.name):
            if member.name in wanted:
                stream = archive.extractfile(member)
                assert stream is not None
                yield Picture(wanted[member.name], stream.read(), stamp=False)


def _stamps(folder: Path) -> Iterator[Picture]:
    package = folder / STAMPS_FILE
    if (found := sha256_file(package)) != STAMPS_SHA256:
        sys.exit(f"{package}: SHA-256 differs from the pinned one: expected {STAMPS_SHA256}, found {found}")
    data = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {member.name.removeprefix(STAMPS_BASE): member for member in archive if member.isfile()}
        for path in sorted(files):
            caption = files.get(path.removesuffix(".png") + ".txt")
            if not path.endswith(".png") or path.startswith(NO_THINGS) or caption is None:
                continue
            image, text = archive.extractfile(files[path]), archive.extractfile(caption)
            assert image is not None
            assert text is not None
            name = thing(text.readline().decode("utf-8", errors="replace"))
            if 0 < len(name.split()) <= LONGEST:
                yield Picture(name, image.read(), stamp=True)


def thing(caption: str) -> str:
    """What a caption names: "A red apple." -> "red apple"."""
    words = re.sub(r"[\s.!]+$", "", caption.strip())
    words = re.sub(r"^(an?|the|some|our|your)\s+", "", words, flags=re.IGNORECASE)
    return words[:1].lower() + words[1:]
