"""Pictures of a page: small, once each, up to a limit; what cannot be shown is named."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from crossgraft.reporting.thumbnails import SIZE, Picture, Thumbnails


@pytest.fixture
def photo(tmp_path: Path) -> Picture:
    return picture(tmp_path / "a photo.png")


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (400, 200)) -> Picture:
    Image.new("RGB", size, colour).save(path)
    return Picture(path, f"red/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest()[:16])


def test_a_picture_is_held_once_and_shown_where_it_is_wanted(photo: Picture) -> None:
    thumbnails = Thumbnails()
    first, second = thumbnails(photo, "test photo"), thumbnails(photo, "support")
    assert 'aria-label="test photo: red/a photo.png"' in first
    assert 'href="#p0"' in first
    assert 'href="#p0"' in second
    (content,) = re.findall(r'href="data:image/jpeg;base64,([^"]+)"', thumbnails.definitions())
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (image.size, image.format) == ((SIZE, SIZE // 2), "JPEG")
    assert image.getpixel((5, 5)) == pytest.approx((254, 0, 0), abs=3)
    assert (thumbnails.shown, thumbnails.missing, thumbnails.left_out) == (1, 0, 0)


@pytest.mark.parametrize("damage", ["gone", "changed", "no image", "a folder"])
def test_a_file_that_is_not_what_the_run_saw_is_named(photo: Picture, damage: str) -> None:
    if damage in ("gone", "a folder"):
        photo.path.unlink()
    if damage == "a folder":
        photo.path.mkdir()
    if damage == "changed":
        Image.new("RGB", (9, 9), "blue").save(photo.path)
    if damage == "no image":
        photo.path.write_bytes(b"no image")
        photo = Picture(photo.path, photo.name, hashlib.sha256(b"no image").hexdigest()[:16])
    thumbnails = Thumbnails()
    shown = thumbnails(photo, "test photo")
    assert "a photo.png" in shown
    assert "moved, deleted or changed" in shown
    assert (thumbnails.shown, thumbnails.missing) == (0, 1)
    assert "data:" not in thumbnails.definitions()


def test_at_most_so_many(tmp_path: Path) -> None:
    thumbnails = Thumbnails(limit=2)
    shown = [thumbnails(picture(tmp_path / f"{i}.png", size=(i + 1, 5)), "x") for i in range(4)]
    assert [one.startswith("<svg") for one in shown] == [True, True, False, False]
    assert "3.png" in shown[3]
    assert (thumbnails.shown, thumbnails.left_out) == (2, 2)


def test_names_are_escaped(tmp_path: Path) -> None:
    odd = Picture(tmp_path / "x", '"><script>alert(1)</script>\udcff.png', "0")
    assert "<script" not in Thumbnails()(odd, "<b>")
