"""The emoji set that the repository ships is what its README says."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
EMOJI = REPOSITORY / "demo" / "emoji"
STYLES = ("noto", "fluent", "twemoji")


def read_split(style: str) -> dict[str, list[tuple[str, int, str]]]:
    split = json.loads((EMOJI / f"{style}.json").read_text(encoding="utf-8"))
    return {part: [tuple(entry) for entry in entries] for part, entries in split.items()}


def identity(path: str) -> str:
    """The emoji without its style: "noto/bird/owl.webp" -> "bird/owl"."""
    return path.split("/", 1)[1].removesuffix(".webp")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_emoji", REPOSITORY / "scripts" / "make_emoji.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules["make_emoji"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("style", STYLES)
def test_counts_and_labels(style: str) -> None:
    split = read_split(style)
    assert {part: len(entries) for part, entries in split.items()} == {"train": 160, "val": 80, "test": 152}
    names = {label: name for entries in split.values() for _, label, name in entries}

    assert sorted(names) == list(range(20))
    assert [names[i] for i in range(20)] == sorted(names.values())
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)?", name) for name in names.values())
    assert set(Counter(label for _, label, _ in split["train"]).values()) == {8}
    assert set(Counter(label for _, label, _ in split["val"]).values()) == {4}
    assert min(Counter(label for _, label, _ in split["test"]).values()) == 6


def test_identities_are_disjoint_and_the_same_in_every_style() -> None:
    parts = [{part: {identity(p) for p, _, _ in e} for part, e in read_split(style).items()} for style in STYLES]
    assert parts[0] == parts[1] == parts[2]
    assert not parts[0]["train"] & parts[0]["val"]
    assert not parts[0]["train"] & parts[0]["test"]
    assert not parts[0]["val"] & parts[0]["test"]
    # An emoji must not hide under two classes either.
    stems = [Path(i).name for part in parts[0].values() for i in part]
    assert len(stems) == len(set(stems)) == 392


@pytest.mark.parametrize("style", STYLES)
def test_files_are_the_split_and_readable(style: str) -> None:
    listed = {path: name for entries in read_split(style).values() for path, _, name in entries}
    on_disk = {p.relative_to(EMOJI).as_posix() for p in (EMOJI / style).rglob("*") if p.is_file()}
    assert on_disk == set(listed)
    for path, name in listed.items():
        assert path.split("/")[1] == name.replace(" ", "_")
        with Image.open(EMOJI / path) as image:
            assert (image.size, image.mode, image.format) == ((72, 72), "RGB", "WEBP"), path
            pixels = np.asarray(image)
        # White margin, and something drawn inside it.
        assert pixels[0, 0].min() > 225, path
        assert pixels.std() > 3, path


def test_no_picture_appears_twice() -> None:
    contents = [p.read_bytes() for p in EMOJI.rglob("*.webp")]
    assert len(contents) == len(set(contents)) == 1176
    assert sum(map(len, contents)) < 3_000_000


def test_the_script_still_makes_this_set(script: ModuleType) -> None:
    made = {(script.file_name(e), name, label, part) for name, label, e, part in script.identities()}
    shipped = {
        (Path(path).stem, name, label, part)
        for part, entries in read_split("noto").items()
        for path, label, name in entries
    }
    assert made == shipped


def test_script_refuses_a_changed_package(script: ModuleType, tmp_path: Path) -> None:
    style = script.STYLES[1]
    (tmp_path / "lobehub-fluent-emoji-3d-1.1.0.tgz").write_bytes(b"not the package")
    with pytest.raises(SystemExit, match="SHA-512 differs"):
        script.tarball(style, tmp_path)


def test_every_style_is_credited() -> None:
    text = (EMOJI / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for style, licence in zip(
        STYLES, ("Apache License, Version 2.0", "Permission is hereby granted", "CC-BY-4.0"), strict=True
    ):
        section = text.split(f"\n## {style}:")[1].split("\n## ")[0]
        assert licence in section
