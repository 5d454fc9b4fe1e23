"""Image folders, split files and CSVs become checked data or an InputError; supports are nested and reproducible."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossgraft.errors import InputError
from crossgraft.fewshot.data import (
    ImageData,
    ImageSplit,
    TestImages,
    hold_out,
    load_data,
    load_test_data,
    prompt_name,
    sample_support,
)
from crossgraft.fewshot.sealed import SealedLabels

EMOJI = Path(__file__).resolve().parents[2] / "demo" / "emoji"


def touch(root: Path, *paths: str) -> None:
    """Make empty files: nothing here opens an image."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def write_json(file: Path, content: Any) -> Path:
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def relative(split: ImageSplit | None, root: Path) -> list[tuple[str, int]]:
    assert split is not None
    return [(p.relative_to(root).as_posix(), label) for p, label in zip(split.paths, split.labels, strict=True)]


def sealed(test: TestImages | None, root: Path, names: list[str]) -> list[str]:
    """The paths of a test set, and that its labels are these names."""
    assert test is not None
    assert test.labels == SealedLabels(names)
    return [p.relative_to(root).as_posix() for p in test.paths]


def make_split(counts: list[int], root: str = "/data") -> ImageSplit:
    pairs = [(Path(root, f"class{c}", f"{i:03}.jpg"), c) for c, n in enumerate(counts) for i in range(n)]
    return ImageSplit(tuple(p for p, _ in pairs), tuple(label for _, label in pairs))


# Image folders


def test_folder_of_classes(tmp_path: Path) -> None:
    touch(tmp_path, "car_side/b.JPG", "car_side/deep/er/a.png", "ant/1.webp", "ant/.hidden.jpg", "ant/notes.txt")
    touch(tmp_path, ".git/x.jpg", "__MACOSX/ant/1.jpg", "readme.png")
    data = load_data(tmp_path)
    assert data.classes == ("ant", "car_side")
    assert relative(data.train, tmp_path) == [("ant/1.webp", 0), ("car_side/b.JPG", 1), ("car_side/deep/er/a.png", 1)]
    assert data.val is None
    assert data.test is None
    assert data.name == tmp_path.name
    assert str(tmp_path) in data.source


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_folder_of_splits(tmp_path: Path, val: str) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", f"{val}/a/3.jpg", "test/b/4.jpg", "docs/readme.txt")
    data = load_data(tmp_path)
    assert relative(data.train, tmp_path) == [("train/a/1.jpg", 0), ("train/b/2.jpg", 1)]
    assert relative(data.val, tmp_path) == [(f"{val}/a/3.jpg", 0)]
    assert sealed(data.test, tmp_path, ["b"]) == ["test/b/4.jpg"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "bus/2.jpg", "car/3.jpg")
    assert load_data(tmp_path).classes == ("bus", "car", "train")


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.jpg", "data/b/2.jpg")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "b" / "loop").symlink_to(tmp_path / "data" / "b")
    data = load_data(tmp_path / "data")
    assert relative(data.train, tmp_path / "data") == [("a/1.jpg", 0), ("b/2.jpg", 1)]


@pytest.mark.parametrize(
    ("files", "folders", "message"),
    [
        ([], [], "no image; expected a folder per class"),
        (["1.jpg", "2.jpg"], [], "2 images without a class folder"),
        (["a/1.jpg"], [], "only one class, 'a'"),
        (["a/1.jpg", "b/2.jpg"], ["c", "d"], "no image in the class folders 'c', 'd'"),
        (
            ["train/a/1.jpg", "train/b/1.jpg", "test/a/2.jpg", "test/zebra/3.jpg"],
            [],
            "training lacks: 'zebra'.*'a', 'b'",
        ),
        (["train/a/1.jpg", "train/b/1.jpg", "test/a/2.jpg", "bus/1.jpg"], [], "'bus' beside them hold images"),
        (["train/a/1.jpg", "val/a/2.jpg", "valid/a/3.jpg"], [], "name one split twice"),
        (["train/1.jpg", "test/2.jpg"], [], "1 images without a class folder"),
        (["test/a/1.jpg", "test/b/1.jpg"], [], 'no training image; expected images under "train"'),
        (["car side/1.jpg", "Car_Side/2.jpg"], [], "'Car_Side' and 'car side' differ only in case or spaces"),
    ],
)
def test_bad_folders(tmp_path: Path, files: list[str], folders: list[str], message: str) -> None:
    touch(tmp_path, *files)
    for folder in folders:
        (tmp_path / folder).mkdir()
    with pytest.raises(InputError, match=message):
        load_data(tmp_path)


# Split files


def coop(tmp_path: Path) -> dict[str, list[list[Any]]]:
    """A small split file's content, and its images."""
    touch(tmp_path, "images/Faces/1.jpg", "images/Faces/2.jpg", "images/yin_yang/1.jpg", "images/yin_yang/2.jpg")
    return {
        "train": [["yin_yang/1.jpg", 1, "yin_yang"], ["Faces/1.jpg", 0, "face"]],
        "val": [],
        "test": [["Faces/2.jpg", 0, "face"], ["yin_yang/2.jpg", 1, "yin_yang"]],
    }


def test_split_file(tmp_path: Path) -> None:
    file = write_json(tmp_path / "split_zhou_Small.json", coop(tmp_path))
    images = tmp_path / "images"
    data = load_data(images, split=file)
    assert data.name == "Small"
    assert data.classes == ("face", "yin_yang")
    assert relative(data.train, images) == [("yin_yang/1.jpg", 1), ("Faces/1.jpg", 0)]
    assert data.val is None
    assert sealed(data.test, images, list(data.classes)) == ["Faces/2.jpg", "yin_yang/2.jpg"]
    # The root is found as the file's only subfolder with the images, and below a given root too.
    (tmp_path / "other").mkdir()
    assert load_data(file) == data
    assert load_data(file, root=images) == data
    assert load_data(file, root=tmp_path) == data


def test_split_file_beside_its_images(tmp_path: Path) -> None:
    content = coop(tmp_path)
    data = load_data(write_json(tmp_path / "images" / "split.json", content))
    assert data.train.paths[0] == tmp_path / "images" / "yin_yang" / "1.jpg"


def test_two_possible_roots_are_an_error(tmp_path: Path) -> None:
    file = write_json(tmp_path / "split.json", coop(tmp_path))
    touch(tmp_path, "copy/Faces/1.jpg")
    with pytest.raises(InputError, match=r"copy.*images.*say which"):
        load_data(file)


def test_fingerprint_sees_content_only(tmp_path: Path) -> None:
    content = coop(tmp_path)
    first = load_data(write_json(tmp_path / "one.json", content))
    content["train"].reverse()
    (tmp_path / "images").rename(tmp_path / "moved")
    assert load_data(write_json(tmp_path / "two.json", content)).fingerprint == first.fingerprint
    content["test"].pop()
    assert load_data(write_json(tmp_path / "three.json", content)).fingerprint != first.fingerprint


def test_missing_images_are_counted(tmp_path: Path) -> None:
    content = coop(tmp_path)
    content["train"] += [[f"gone/{i}.jpg", 0, "face"] for i in range(5)]
    with pytest.raises(
        InputError, match=r"5 of 9 images are missing below .*images: 'gone/0.jpg'.*and 2 more"
    ) as caught:
        load_data(write_json(tmp_path / "split.json", content))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("part", "entry", "message"),
    [
        ("train", ["Faces/2.jpg", 0], 'entry 2 of "train": expected'),
        ("train", ["Faces/2.jpg", "0", "face"], r"expected \[path, label, class name\]"),
        ("train", ["Faces/2.jpg", True, "yin_yang"], "expected"),
        ("train", ["Faces/2.jpg", -1, "ant"], "expected"),
        ("train", ["Faces/2.jpg", 0.0, "face"], "expected"),
        ("train", {"path": "Faces/2.jpg"}, "expected"),
        ("train", ["Faces/2.jpg", 0, "leopard"], "label 0 is 'leopard' here and 'face' before"),
        ("train", ["Faces/2.jpg", 7, "face"], "class 'face' has label 7 here and 0 before"),
        ("train", ["Faces/1.jpg", 1, "yin_yang"], "'Faces/1.jpg' is 'face' and 'yin_yang'"),
        ("train", ["/etc/passwd", 0, "face"], "leaves the image root"),
        ("train", ["Faces/../../x.jpg", 0, "face"], "leaves the image root"),
        ("train", ["C:\\x.jpg", 0, "face"], "leaves the image root"),
        ("train", ["..\\x.jpg", 0, "face"], "leaves the image root"),
        ("train", ["Faces/\0.jpg", 0, "face"], "no path of an image"),
        ("train", ["", 0, "face"], "no path of an image"),
        ("train", ["Faces/2.jpg", 0, " "], "no class name"),
        ("train", ["Faces/2.jpg", 2, "\ud800"], "no class name"),
        ("train", ["Faces/2.jpg", 0, "face"], "1 images are both in train and in test: 'Faces/2.jpg'"),
        ("val", ["./Faces/1.jpg", 0, "face"], "both in train and in val"),
        ("test", ["Faces/3.jpg", 5, "Face"], "'face' and 'Face' differ only in case"),
        ("test", ["Faces/3.jpg", 5, "zebra"], "classes in test that training lacks: 'zebra'"),
    ],
)
def test_bad_split_entries(tmp_path: Path, part: str, entry: Any, message: str) -> None:
    content = coop(tmp_path)
    touch(tmp_path, "images/Faces/3.jpg")
    content[part].append(entry)
    file = write_json(tmp_path / "split.json", content)
    with pytest.raises(InputError, match=message) as caught:
        load_data(file)
    assert "split.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"train": [', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe{\x00", "byte 0 is not UTF-8"),
        (b"[]", 'keys "train", "val", "test", found list'),
        (b"{}", "keys"),
        (b'{"tests": []}', "found 'tests'"),
        (b'{"train": {}}', '"train" must be a list'),
        (b'{"train": []}', "no training image"),
    ],
)
def test_bad_split_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "split.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_data(tmp_path / "split.json")


def test_bad_arguments(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "data.pkl")
    file = write_json(tmp_path / "s.json", {"train": [["a/1.jpg", 0, "a"], ["b/2.jpg", 1, "b"]]})
    for match, call in {
        "no such file or folder": lambda: load_data(tmp_path / "none"),
        "unknown kind of file": lambda: load_data(tmp_path / "data.pkl"),
        "goes with a split file or a CSV": lambda: load_data(tmp_path, root=tmp_path),
        "given twice": lambda: load_data(tmp_path, split=file, root=tmp_path),
        "must be the folder of the images": lambda: load_data(file, split=file),
        "image root is no folder": lambda: load_data(file, root=tmp_path / "none"),
        "cannot be read": lambda: load_data(tmp_path, split=tmp_path / "none.json"),
    }.items():
        with pytest.raises(InputError, match=match):
            call()


# CSV


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_dialects(tmp_path: Path, delimiter: str, newline: str, bom: bytes) -> None:
    touch(tmp_path, "a, b;c.jpg", "x/2.jpg", "3.jpg")
    rows = [["Image", "LABEL", "note", "split"], ["a, b;c.jpg", "café au lait", 'so "x"', "train"]]
    rows += [["x\\2.jpg", "tea", "", "Training"], ["3.jpg", "tea", "", "TEST"]]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=newline).writerows(rows)
    (tmp_path / "data.csv").write_bytes(bom + (text.getvalue() + newline).encode())
    data = load_data(tmp_path / "data.csv")
    assert data.classes == ("café au lait", "tea")
    assert relative(data.train, tmp_path) == [("a, b;c.jpg", 0), ("x/2.jpg", 1)]
    assert sealed(data.test, tmp_path, [data.classes[1]]) == ["3.jpg"]


def test_csv_without_splits_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.jpg", "images/2.jpg", "images/3.jpg", "lists/other.txt")
    file = tmp_path / "lists" / "data.csv"
    file.write_text("image,label\n1.jpg,0\n\n2.jpg,1\n2.jpg,1\n3.jpg,1\n", encoding="utf-8")
    data = load_data(file, root=tmp_path / "images")
    assert data.test is None
    assert data.train.labels == (0, 1, 1)  # a repeated line counts once


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the header"),
        ("file,class\n1.jpg,a\n", "line 1: expected the header image,label"),
        ("image,label\n1.jpg,a\n2.jpg\n", "line 3: expected 2 cells as in the header, found 1"),
        ("image,label\n1.jpg,a\n,b\n", "line 3: '' is no path"),
        ("image,label\n1.jpg,a\n2.jpg,\n", "line 3: '' is no class name"),
        ('image,label\n1.jpg,"a"b\n', "line 2: not valid CSV"),
        ("image,label,split\n1.jpg,a,dev\n", "line 2: split is 'dev'; expected train, val or test"),
        ("image,label,split\n1.jpg,a,\n", "line 2: split is ''"),
        ("image,label\n1.jpg,a\n/x/2.jpg,b\n", "line 3: '/x/2.jpg' leaves the image root"),
        ("image,label\n1.jpg,a\n1.jpg,b\n", "'1.jpg' is 'a' and 'b'"),
        ("image,label,split\n1.jpg,a,train\n1.jpg,a,test\n", "both in train and in test"),
        ("image,label\n1.jpg,a\n2.jpg,a\n", "only one class"),
        ("image,label\n1.jpg,a\n3.jpg,b\n", "1 of 2 images are missing"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "data.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_data(tmp_path / "data.csv")


# Test data for given classes


def test_test_data_is_matched_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "Yin Yang/1.jpg", "FACE/2.jpg")
    data = load_test_data(tmp_path, ("ant", "face", "yin_yang"))
    assert data.classes == ("ant", "face", "yin_yang")
    assert sealed(data.test, tmp_path, list(data.classes[1:3])) == ["FACE/2.jpg", "Yin Yang/1.jpg"]
    assert len(data.train) == 0
    assert data.val is None


def test_test_data_takes_the_test_split_and_needs_no_other_image(tmp_path: Path) -> None:
    content = coop(tmp_path)
    file = write_json(tmp_path / "split.json", content)
    for path, _, _ in content["train"]:
        (tmp_path / "images" / path).unlink()
    assert len(load_test_data(file, ("face", "yin_yang")).test or ()) == 2


def test_test_data_with_unknown_classes(tmp_path: Path) -> None:
    touch(tmp_path, "zebra/1.jpg", "face/2.jpg")
    with pytest.raises(InputError, match="training lacks: 'zebra'; known classes: 'ant', 'face'"):
        load_test_data(tmp_path, ("ant", "face"))


def test_the_emoji_set_loads() -> None:
    data = load_data(EMOJI / "noto.json")
    assert (len(data.classes), len(data.train), len(data.val or ()), len(data.test or ())) == (20, 160, 80, 152)
    for style in ("fluent", "twemoji"):
        other = load_test_data(EMOJI / f"{style}.json", data.classes)
        assert data.test is not None
        assert other.test is not None
        assert [p.name for p in other.test.paths] == [p.name for p in data.test.paths]
        assert other.test.labels == data.test.labels


def test_prompt_name() -> None:
    assert prompt_name("car_side") == "car side"
    assert prompt_name(" Boeing_747-400 ") == "Boeing 747-400"


# Drawing the support


def test_support_is_the_same_everywhere() -> None:
    # Recorded once: a change here changes every published number.
    assert sample_support(make_split([6, 5]), 2, 3, seed=1).tolist() == [4, 0, 2, 7, 10, 6]


@given(st.lists(st.integers(8, 20), min_size=1, max_size=5), st.integers(0, 2**32), st.randoms())
def test_supports_are_nested_balanced_and_independent_of_order(counts: list[int], seed: int, random: Any) -> None:
    split = make_split(counts)
    shuffled = list(range(len(split)))
    random.shuffle(shuffled)
    other = split.take(shuffled)
    previous: set[Path] = set()
    for shots in (1, 2, 4, 8):
        support = split.take(sample_support(split, len(counts), shots, seed))
        assert Counter(support.labels) == dict.fromkeys(range(len(counts)), shots)
        assert len(set(support.paths)) == shots * len(counts)
        assert previous <= set(support.paths)
        assert other.take(sample_support(other, len(counts), shots, seed)) == support
        previous = set(support.paths)
    everything = sample_support(split, len(counts), "all", seed)
    assert sorted(everything) == list(range(len(split)))
    # The place of the data does not matter either.
    moved = make_split(counts, root="/elsewhere/deeper")
    np.testing.assert_array_equal(
        sample_support(moved, len(counts), 4, seed), sample_support(split, len(counts), 4, seed)
    )


def test_seeds_differ() -> None:
    split = make_split([20, 20])
    draws = {tuple(sample_support(split, 2, 4, seed)) for seed in range(10)}
    assert len(draws) > 8


@given(st.lists(st.integers(8, 20), min_size=1, max_size=5), st.integers(0, 2**32), st.integers(0, 3))
def test_hold_out_is_everything_outside_the_largest_support(counts: list[int], seed: int, val: int) -> None:
    split, n = make_split(counts), len(counts)
    held_out = hold_out(split, n, [1, 4, 2], seed, val=val)
    support = sample_support(split, n, 4, seed)
    assert sorted([*support, *held_out.val, *held_out.test]) == list(range(len(split)))
    assert Counter(split.take(held_out.val).labels) == {c: val for c in range(n) if val}
    assert set(split.take(held_out.test).labels) == set(range(n))


def test_too_few_images() -> None:
    split = make_split([4, 2, 3])
    with pytest.raises(InputError, match=r"2 of 3 classes .* 4 shots: 'ant \(2\)', 'bee \(3\)'; .*--shots all"):
        sample_support(split, 3, 4, 1, classes=("cat", "ant", "bee"))
    with pytest.raises(InputError, match=r"1 of 3 classes .* for 2 shots and 1 to test on: '1 \(2\)'"):
        hold_out(split, 3, [1, 2], 1)
    with pytest.raises(InputError, match=r"too few images for 1 shots: '3 \(0\)'"):
        sample_support(split, 4, "all", 1)


@pytest.mark.parametrize("shots", [0, -1, True, 1.5, "four", None])
def test_bad_shots(shots: Any) -> None:
    with pytest.raises(InputError, match="expected an integer of at least 1"):
        sample_support(make_split([4, 4]), 2, shots, 1)


def test_other_bad_arguments() -> None:
    split = make_split([4, 4])
    with pytest.raises(InputError, match="seed is -1"):
        sample_support(split, 2, 1, -1)
    with pytest.raises(InputError, match="label 1; expected 0 to 0"):
        sample_support(split, 1, 1, 1)
    with pytest.raises(InputError, match="leaves no image to test on"):
        hold_out(split, 2, [1, "all"], 1)


# Anything at all leads to valid data or an InputError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["a", "b", "B", "c_d", "c d", " a", "é", "\0", "\ud800", ""])
PATHS = st.sampled_from(
    ["1.jpg", "2.jpg", "3.jpg", "./1.jpg", "x\\4.jpg", "x/../1.jpg", "../1.jpg", "/1.jpg", "n" * 300, "x"]
)
PARTS = st.sampled_from(["train", "val", "test"])
ENTRIES = st.tuples(PATHS, st.integers(-1, 2), NAMES).map(list) | JSON_VALUES
SPLITS = st.dictionaries(PARTS | st.text(max_size=3), st.lists(ENTRIES, max_size=4) | JSON_VALUES, max_size=4)
GOOD_ENTRIES = st.tuples(st.sampled_from(["1.jpg", "2.jpg", "3.jpg", "x/4.jpg"]), st.integers(0, 1)).map(
    lambda e: [e[0], e[1], "ab"[e[1]]]
)
GOOD_SPLITS = st.dictionaries(PARTS, st.lists(GOOD_ENTRIES, max_size=3), min_size=1)
CELLS = (
    NAMES
    | PATHS
    | st.sampled_from(["train", "test", "image", "label", "split", '"', "\r", "\n", "\t", ",", ";", "\u2028"])
)
CSV_TEXTS = st.tuples(
    st.sampled_from(["image,label", "image;label;split", "image\tlabel", "Split,Label,Image", '"image",label', ""]),
    st.lists(st.tuples(st.lists(CELLS, max_size=4), st.sampled_from([",", ";", "\t"])), max_size=5),
).map(lambda t: "\n".join([t[0], *(delimiter.join(cells) for cells, delimiter in t[1])]))

FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def load_or_refuse(file: Path) -> ImageData | None:
    """Load a file that may hold anything, and check what comes out."""
    touch(file.parent, "1.jpg", "2.jpg", "3.jpg", "x/4.jpg")
    for load in (load_data, lambda f: load_test_data(f, ("a", "b", "c d"))):
        try:
            data = load(file)
        except InputError as error:
            str(error).encode()  # a message that cannot be printed is no message
            continue
        seen: list[Path] = []
        for split in (data.train, data.val, data.test):
            if split is not None:
                assert len(split.paths) == len(split.labels)
                if split is not data.test:
                    assert all(0 <= label < len(data.classes) for label in split.labels)
                assert all(p.is_file() and p.is_relative_to(file.parent) for p in split.paths)
                seen += split.paths
        assert len(seen) == len(set(seen)) > 0
        assert len(data.fingerprint) == 64
        assert len(set(data.classes)) == len(data.classes)
        if load is load_data:
            assert set(data.train.labels) == set(range(len(data.classes)))
            return data
    return None


@FUZZ
@given(st.binary(max_size=200), st.sampled_from([".json", ".csv", ".tsv"]))
def test_any_bytes(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"data{suffix}"
    file.write_bytes(content)
    load_or_refuse(file)


@FUZZ
@given(SPLITS | JSON_VALUES)
def test_any_split_file(tmp_path: Path, content: Any) -> None:
    load_or_refuse(write_json(tmp_path / "data.json", content))


@FUZZ
@given(GOOD_SPLITS)
def test_plausible_split_files_are_read_or_refused_for_a_reason(tmp_path: Path, content: dict[str, Any]) -> None:
    data = load_or_refuse(write_json(tmp_path / "data.json", content))
    paths = {part: {tuple(e) for e in entries} for part, entries in content.items()}
    listed = [path for entries in paths.values() for path, _, _ in entries]
    valid = len(listed) == len(set(listed)) and {label for _, label, _ in paths.get("train", set())} == {0, 1}
    assert (data is not None) == valid


@FUZZ
@given(CSV_TEXTS)
def test_any_csv(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    load_or_refuse(tmp_path / "data.csv")


def test_unreadable_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "b").chmod(0)
    try:
        if os.access(tmp_path / "b", os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(InputError, match="cannot read the folder"):
            load_data(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o755)
