"""The script that makes a bank of named pictures and what it says of their colours."""

from __future__ import annotations

import importlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, ImageDraw

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
MODULES = ("make_picture_bank", "picture_colors", "alignment_pictures", "make_emoji")


@pytest.fixture(scope="module")
def bank() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("make_picture_bank")
    for name in MODULES:
        sys.modules.pop(name, None)


def drawing(*colors: str) -> bytes:
    """Stripes of equal width on transparent ground."""
    image = Image.new("RGBA", (100, 100))
    for place, color in enumerate(colors):
        left = 20 + place * 60 // len(colors)
        ImageDraw.Draw(image).rectangle((left, 20, left + 60 // len(colors) - 1, 80), color)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("color", "name"),
    [
        ("#c1694f", "brown"), ("#ffffff", "white"),
        ("#ffc83d", "yellow"), ("#e8590c", "orange"), ("#7b4a2b", "brown"), ("#c92a2a", "red"), ("#ffb3c6", "pink"),
        ("#2f9e44", "green"), ("#1971c2", "blue"), ("#7b2cbf", "purple"), ("#d63384", "pink"), ("#101014", "black"),
        ("#8c8c90", "grey"), ("#e4e4e6", "white"),
    ],
)  # fmt: skip
def test_colours_by_their_pixels(bank: ModuleType, color: str, name: str) -> None:
    art = bank.cut_out(drawing(color))
    assert max(art.size) == 240
    assert bank.picture_color(art) == name
    assert bank.picture_color(bank.cut_out(drawing(color, "#2f9e44" if name == "red" else "#c92a2a"))) is None
    assert bank.picture_color(art.convert("RGB")) == (None if color == "#ffffff" else name)  # white is paper there


def test_captions_leave_out_what_is_asked_about(
    bank: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "objects.csv").write_text("object,color\ncherry,red\ncrow,black\n")
    things = {"wombat": "#7b4a2b", "sweet cherries": "#c92a2a", "cherry pie": "#7b4a2b", "crow": "#101014"}
    things |= {"red heart": "#c92a2a", "ladder": "#8c8c90"}
    pictures = [(name, drawing(color)) for name, color in things.items()]
    monkeypatch.setattr(bank, "named", lambda packages: [*pictures, *pictures, ("harlequin", drawing("red", "blue"))])
    out = tmp_path / "out"
    arguments = [str(out), "--packages", str(tmp_path), "--without", str(tmp_path / "objects.csv")]
    monkeypatch.setattr(sys, "argv", ["make_picture_bank.py", *arguments])
    bank.main()
    assert "13 pictures of 7 names and 4 captions" in capsys.readouterr().out
    assert len(list(out.glob("*.webp"))) == 13
    rows = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
    assert [(row["image"], row["caption"]) for row in rows] == [
        ("wombat-1.webp", "The color of the wombat is brown."),
        ("ladder-1.webp", "The color of the ladder is grey."),
        ("wombat-2.webp", "The color of the wombat is brown."),
        ("ladder-2.webp", "The color of the ladder is grey."),
    ]
    assert rows[0]["split"] == rows[2]["split"]
    assert json.loads((out / "asked.json").read_text()) == ["cherry", "crow"]
    assert Image.open(out / "crow-1.webp").size == (256, 256)
