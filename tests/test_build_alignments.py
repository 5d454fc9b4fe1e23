"""The script that rebuilds the alignments: names and pictures from packages, fits and choices. On made-up data."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from crossgraft.encoders.alignment import Alignment

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture(scope="module")
def build() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("build_alignments")
    for name in ("build_alignments", "alignment_pictures", "make_emoji"):
        sys.modules.pop(name, None)


@pytest.fixture
def pictures(build: ModuleType) -> ModuleType:
    return sys.modules["alignment_pictures"]


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("An Adelaide Rosella.\n", "adelaide Rosella"),
        ("Eat your broccoli!", "eat your broccoli"),
        ("Some  cherries . ", "cherries"),
        ("a", "a"),
        (" \n", ""),
    ],
)
def test_what_a_caption_names(pictures: ModuleType, caption: str, name: str) -> None:
    assert pictures.thing(caption) == name


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, files: dict[str, bytes], mode: str) -> None:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_pictures_are_named_things_outside_the_demo(
    pictures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emoji: no flags, none of the demo's, code points with or without FE0F. Stamps: no letters, no stories."""
    entry = {"category": "Animals & Nature", "non_qualified": None}
    table = [
        {**entry, "name": "BATHTUB", "short_name": "bathtub", "unified": "1F6C1"},
        {**entry, "name": None, "short_name": "fried_shrimp", "unified": "1F364-FE0F", "non_qualified": "1F364"},
        {**entry, "name": "OWL", "short_name": "owl", "unified": "1F989"},
        {**entry, "category": "Flags", "name": "FLAG", "short_name": "flag", "unified": "1F3F3"},
    ]
    pack(tmp_path / "names.tgz", {"package/emoji.json": json.dumps(table).encode()}, "w:gz")
    emoji = {f"package/assets/{code}.webp": png(code_colour) for code, code_colour in EMOJI.items()}
    pack(tmp_path / "emoji.tgz", emoji | {"package/other/1f6c1.webp": png("black")}, "w:gz")
    base = pictures.STAMPS_BASE
    stamps = {
        f"{base}animals/emu.png": png("brown"),
        f"{base}animals/emu.txt": b"An emu.\nfr.utf8=Un \xc3\xa9meu.\n",
        f"{base}animals/nameless.png": png("grey"),
        f"{base}animals/spin.png": png("pink"),
        f"{base}animals/spin.txt": b"If it lands here put two of them back.\n",
        f"{base}symbols/a.png": png("red"),
        f"{base}symbols/a.txt": b"The letter A.\n",
    }
    data = tmp_path / "data.tar"
    pack(data, stamps, "w")
    (tmp_path / pictures.STAMPS_FILE).write_bytes(b"package")
    monkeypatch.setattr(
        pictures, "tarball", lambda style, folder: folder / ("names.tgz" if style == pictures.NAMES else "emoji.tgz")
    )
    unpacked = subprocess.CompletedProcess([], 0, stdout=data.read_bytes())
    monkeypatch.setattr(pictures.subprocess, "run", lambda *_, **__: unpacked)
    with pytest.raises(SystemExit, match="SHA-256 differs"):
        pictures.read_pictures(tmp_path)
    monkeypatch.setattr(pictures, "STAMPS_SHA256", pictures.sha256_file(tmp_path / pictures.STAMPS_FILE))
    found = {(p.name, p.stamp): p.data for p in pictures.read_pictures(tmp_path)}
    assert found == {
        ("bathtub", False): png("blue"),
        ("fried shrimp", False): png("orange"),
        ("emu", True): png("brown"),
    }


EMOJI = {"1f6c1": "blue", "1f364": "orange", "1f989": "white", "1f3f3": "green"}
D, P, CLASSES = 12, 24, 10


def a_world(build: ModuleType, noise: float) -> tuple[Any, dict[str, Tensor]]:
    """60 names with three pictures each (stamps of the first 40 names), whose clip view is linear in their meaning; the
    classifier knows the nearest of ten names; drawn texts are clip views of their own, elsewhere."""
    random = torch.Generator().manual_seed(0)
    meaning = functional.normalize(torch.randn(60, D, generator=random), dim=-1)
    mixing, elsewhere = torch.randn(D, P, generator=random), torch.randn(P, generator=random)
    ids = torch.arange(180) % 60
    clip = meaning[ids] @ mixing + noise * torch.randn(180, P, generator=random) + 1
    drawn = meaning[:40] @ mixing + noise * torch.randn(40, P, generator=random) + 3 * elsewhere
    names = functional.normalize(torch.randn(CLASSES, D, generator=random), dim=-1)
    shared = {"text_mean": torch.zeros(D), "imagenet_names": names}
    return build.Seen(clip, 9 * meaning[ids] @ names.T, ids, meaning, drawn, ids < 40), shared


def test_a_fit_names_pictures_of_names_it_has_not_seen(build: ModuleType) -> None:
    seen, shared = a_world(build, noise=0.05)
    parts, ids = build.held_out(seen, shared, 5.0, 0.1, 1.0)
    assert ids.shape == (120,)
    for part in parts:
        assert part.shape == (120, 40)
        assert (part.argmax(1) == ids).float().mean() > 0.9


def test_held_out_means_that_no_picture_of_the_name_was_fitted(build: ModuleType) -> None:
    """With meanings that have nothing to do with the pictures, nothing can be right but by chance."""
    seen, shared = a_world(build, noise=0.05)
    random = torch.Generator().manual_seed(1)
    unrelated = functional.normalize(torch.randn(60, D, generator=random), dim=-1)
    parts, ids = build.held_out(replace(seen, sentences=unrelated), shared, 5.0, 0.1, 1.0)
    assert (parts[1].argmax(1) == ids).float().mean() < 0.15


def test_what_does_not_help_gets_the_least_weight(build: ModuleType) -> None:
    seen, shared = a_world(build, noise=0.3)
    noise = torch.randn(seen.drawn.shape, generator=torch.Generator().manual_seed(2))
    lite, clip, strength, shrinkage = build.choose(replace(seen, drawn=noise), shared)
    assert clip["weights"][2] == min(build.WEIGHTS)
    assert clip["weights"][1] > min(build.WEIGHTS)
    assert lite.keys() == {"temperature", "sharpness", "logit_scale"}
    tensors = shared | build.fit(seen, torch.ones(180, dtype=torch.bool), shared["text_mean"], strength, shrinkage)
    assert Alignment(tensors, clip).dim == CLASSES + D + P


def test_reciprocal_rank(build: ModuleType) -> None:
    similarities = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.1, 0.7]])
    assert build.reciprocal_rank(similarities, torch.tensor([0, 1])) == pytest.approx((1 + 1 / 3) / 2)
