"""The scripts that make the evaluation sets: labels, groups of variants, division, files. On fabricated inputs."""

from __future__ import annotations

import importlib
import io
import json
import lzma
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageDraw

from crossgraft.fewshot.data import load_data

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture(scope="module")
def sets() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("make_evaluation_sets")
    for name in ("make_evaluation_sets", "evaluation_openclipart"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def openclipart(sets: ModuleType) -> ModuleType:
    module: ModuleType = sets.openclipart
    return module


def drawing(
    colour: str, box: tuple[int, int, int, int], size: tuple[int, int] = (60, 40), shape: str = "ellipse"
) -> bytes:
    """A PNG with one shape on transparent ground."""
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    getattr(ImageDraw.Draw(image), shape)(box, fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def debian_package(path: Path, files: dict[str, bytes], links: dict[str, str]) -> Path:
    """An ar archive that holds data.tar.xz, as dpkg-deb makes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./usr/share/openclipart/png/{name}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in links.items():
            member = tarfile.TarInfo(f"./usr/share/openclipart/png/{name}.png")
            member.type, member.linkname = tarfile.SYMTYPE, f"{target}.png"
            archive.addfile(member)
    content = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0"), ("data.tar.xz", lzma.compress(buffer.getvalue()))):
        content += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    path.write_bytes(content)
    return path


# easy-VQA


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        ([("what is the blue shape?", "rectangle")], ("blue", "rectangle")),
        ([("what color is the shape?", "teal"), ("is a circle present?", "yes")], ("teal", "circle")),
        ([("what color is the triangle?", "red")], ("red", "triangle")),
        ([("is no gray shape present?", "no"), ("is there not a circle?", "no")], ("gray", "circle")),
        (
            [
                ("what color is the shape?", "black"),
                ("is there a circle?", "no"),
                ("does the image not contain a triangle?", "yes"),
            ],
            ("black", "rectangle"),
        ),
        ([("what color is the shape?", "black"), ("is there a circle?", "no")], None),
        ([("what is the blue shape?", "circle"), ("is there a blue shape?", "no")], None),
    ],
)
def test_questions_leave_one_class(
    sets: ModuleType, answered: list[tuple[str, str]], expected: tuple[str, str] | None
) -> None:
    assert sets.shown(answered) == expected


@pytest.mark.parametrize(("shape", "colour"), [("circle", "black"), ("rectangle", "yellow"), ("triangle", "brown")])
def test_pixels_show_colour_and_shape(sets: ModuleType, shape: str, colour: str) -> None:
    image = Image.new("RGB", (64, 64), (240, 230, 235))
    draw = ImageDraw.Draw(image)
    if shape == "triangle":
        draw.polygon([(10, 40), (22, 14), (34, 40)], fill=sets.COLOURS[colour])
    else:
        (draw.ellipse if shape == "circle" else draw.rectangle)((10, 14, 30, 34), fill=sets.COLOURS[colour])
    assert sets.seen(image) == (colour, shape)


# Clip art


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("animals/mammals/horses/cavallo_01", "farm animal"),
        ("food/fruit/lemon_wedge_ganson", "citrus fruit"),
        ("food/fruit/orange_juice_box", "cold drink"),
        ("food/fruit/pineapple", None),
        ("transportation/roadsigns/cattle", "warning road sign"),
        ("transportation/roadsigns/oneway", "traffic sign"),
        ("tools/weapons/bullet_hole_linda_kim_z", None),
        ("plants/trees/apple", None),
    ],
)
def test_class_of_a_path(openclipart: ModuleType, path: str, expected: str | None) -> None:
    assert openclipart.class_of(path) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("food/muffin1", "food/muffin3_bw"),
        ("animals/dino_francesco_01", "animals/dino_francesco_10"),
        ("fruit/lemon_half_ganson", "fruit/lime_half_ganson"),
        ("a/dodge_neon_green_ganson", "b/dodge_neon_pink_ganson"),
    ],
)
def test_variants_have_one_stem(openclipart: ModuleType, one: str, other: str) -> None:
    assert openclipart.stem(one) == openclipart.stem(other) != ""


def test_variants_are_one_group(openclipart: ModuleType) -> None:
    def flat(value: float) -> np.ndarray:
        return np.full((16, 16), value, dtype=np.float32)

    items = [
        ("pie_apple", flat(0)),
        ("glace_01_bw_jean-victor__01", flat(20)),
        ("swan", flat(40)),
        ("pie_apple_bw", flat(60)),
        ("glace_01_jean-victor_bal_01", flat(80)),
        ("cigno", flat(41)),
        ("pie_cherry", flat(100)),
    ]
    assert openclipart.groups(items) == [[0, 3], [1, 4], [2, 5], [6]]


def test_a_drawing_is_cut_out_and_put_on_white(openclipart: ModuleType) -> None:
    image = openclipart.drawn_part(drawing("red", (20, 10, 59, 29), shape="rectangle"))
    size, margin = openclipart.SIZE, openclipart.MARGIN
    assert image.size == (size, size)
    assert image.getpixel((margin + 2, size // 2)) == image.getpixel((size - margin - 3, size // 2)) == (255, 0, 0)
    assert image.getpixel((margin - 1, size // 2)) == (255, 255, 255)
    assert image.getpixel((size // 2, margin + 2)) == (255, 255, 255)  # 2 : 1, so white above and below


@pytest.mark.parametrize(
    "data",
    [
        b"no picture",
        drawing("white", (0, 0, 50, 30)),
        drawing("red", (0, 0, 9, 9)),
        drawing("red", (0, 0, 50, 30))[:60],
    ],
    ids=["no picture", "white on white", "tiny", "cut off"],
)
def test_useless_pictures_are_left_out(openclipart: ModuleType, data: bytes) -> None:
    assert openclipart.drawn_part(data) is None


def test_what_the_alignment_saw_is_left_out(openclipart: ModuleType, tmp_path: Path) -> None:
    kept, copied, named = (drawing("red", (0, 0, 50, width)) for width in (20, 25, 30))
    files = {
        "food/apple": drawing("green", (0, 0, 50, 35)),
        "food/fruit/apple_core": kept,
        "food/fruit/an_apple": copied,
        "plants/something_else": copied,
        "food/fruit/apple_wedge": named,
        "animals/shape": drawing("blue", (0, 0, 50, 35)),
    }
    links = {"unsorted/apple_wedge": "../food/fruit/apple_wedge", "food/fruit/apple_ball": "../apple"}
    found = openclipart.read_drawings(debian_package(tmp_path / "clips.deb", files, links))
    assert [(d.path, d.name) for d in found] == [
        (
            "food/fruit/apple_ball",
            "apple or pear",
        ),  # its file lies in a folder that says nothing, a link in one that does
        ("food/fruit/apple_core", "apple or pear"),
    ]


# Division and files


def test_groups_stay_together_and_parts_get_their_number(sets: ModuleType) -> None:
    groups = [["a1", "a2", "a3"], ["b1", "b2"], *([name] for name in "cdefghijk")]
    part_of = sets.divide(groups, 8, 2, "salt")
    assert all(len({part_of[name] for name in group}) == 1 for group in groups)
    counts = [list(part_of.values()).count(part) for part in sets.PARTS]
    assert counts == [8, 2, 4]


def test_division_depends_on_names_alone(sets: ModuleType) -> None:
    groups = [[f"{letter}{i}" for i in range(1 + n % 3)] for n, letter in enumerate("abcdefghijkl")]
    assert sets.divide(groups, 8, 2, "s") == sets.divide(groups[::-1], 8, 2, "s") != sets.divide(groups, 8, 2, "t")


def test_written_set_is_read_back(sets: ModuleType, tmp_path: Path) -> None:
    pictures = [
        sets.Picture(f"{i}-{part}", label, part, Image.new("RGB", (4, 4), (i, 0, 0)))
        for label in ("red circle", "blue circle")
        for part in sets.PARTS
        for i in range(2)
    ]
    assert sets.write_set(tmp_path, "tiny", pictures) == {"train": 4, "val": 4, "test": 4}
    first = (tmp_path / "tiny.json").read_bytes()
    data = load_data(tmp_path / "tiny.json")
    assert data.classes == ("blue circle", "red circle")
    assert data.val is not None
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (4, 4, 4)
    sets.write_set(tmp_path, "tiny", pictures[::-1])
    assert (tmp_path / "tiny.json").read_bytes() == first
    paths = [entry[0] for part in json.loads(first).values() for entry in part]
    assert len(set(paths)) == len(pictures)


def test_digits_have_every_class_and_no_picture_twice(sets: ModuleType, tmp_path: Path) -> None:
    pictures = sets.digits(tmp_path)
    names = {(picture.label, picture.name) for picture in pictures}
    assert len(names) == len(pictures)
    trained = [picture for picture in pictures if picture.part == "train"]
    assert len(trained) == 10 * sets.DIGITS_TRAIN
    assert {p.label for p in pictures if p.part == "test"} == {p.label for p in trained}
    latest = max(int(picture.name) for picture in pictures if picture.part != "test")
    assert latest < min(int(picture.name) for picture in pictures if picture.part == "test")


def test_another_package_is_refused(sets: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="leave out --packages"):
        sets.check("easy-vqa", tmp_path)
    (tmp_path / sets.EASY_VQA_FILE).write_bytes(b"not it")
    with pytest.raises(SystemExit, match="SHA-256 differs"):
        sets.check("easy-vqa", tmp_path)
