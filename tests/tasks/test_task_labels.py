"""NLVR2, NLVR and SNLI-VE: a few fixed labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from task_files import make, pictures, write_lines

from crossgraft.encoders.images import UnreadableImage
from crossgraft.errors import InputError
from crossgraft.tasks.nlvr1 import cut_boxes


def nlvr2_row(identifier: str, label: str | None = None, **more: Any) -> dict[str, Any]:
    row = {"identifier": identifier, "sentence": f"sentence of {identifier}", "writer": "1", "left_url": "x", **more}
    return row if label is None else row | {"label": label}


def test_nlvr2(tmp_path: Path) -> None:
    rows = [("dev-1-0-0", "True"), ("dev-1-1-0", "False"), ("dev-1-0-1", "True"), ("dev-2-0-0", "False")]
    names = [f"dev-{pair}-img{side}.png" for pair in ("1-0", "1-1", "2-0") for side in (0, 1)]
    images = pictures(tmp_path / "images", *names)
    sentences = write_lines(tmp_path / "dev.json", [nlvr2_row(*row) for row in rows])
    task = make("nlvr2", images=str(images), splits={"val": {"sentences": str(sentences)}})
    examples = task.load("val")
    assert examples[1].images == (images / "dev-1-1-img0.png", images / "dev-1-1-img1.png")
    assert examples[1].targets == (("false", 1),)
    assert task.decoding.choices == ("true", "false")
    # Sentence 0 of set 1 is wrong on one of its pairs; the other two sentences are right throughout.
    scores = task.score(examples, ["true", "true", "True", "false"])
    assert scores == pytest.approx({"accuracy": 75, "consistency": 200 / 3})
    task.write(examples, ["true", "false", "", "false"], tmp_path / "result.csv")
    lines = (tmp_path / "result.csv").read_text().splitlines()
    assert lines == ["dev-1-0-0,True", "dev-1-1-0,False", "dev-1-0-1,", "dev-2-0-0,False"]


def test_nlvr2_numbered_folders_and_unlabelled(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", "train/7/train-5-0-img0.png", "7/train-5-0-img1.png")
    sentences = write_lines(tmp_path / "train.json", [nlvr2_row("train-5-0-0", directory=7)])
    (example,) = make("nlvr2", images=str(images), splits={"train": {"sentences": str(sentences)}}).load("train")
    assert [path.relative_to(images).as_posix() for path in example.images] == [
        "train/7/train-5-0-img0.png",
        "7/train-5-0-img1.png",
    ]
    assert (example.targets, example.reference) == ((), None)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{}"], "line 1: 'identifier' is missing; found: nothing"),
        ([""], "is empty; expected one JSON object a line"),
        (["[]"], "this is one JSON list, not JSON lines"),
        ([json.dumps(nlvr2_row("dev-1-0-0", "True")), "{"], "line 2: expected one JSON object a line"),
        ([json.dumps(nlvr2_row("dev-1-0-0", "Maybe"))], "'label' must be one of true, false, found 'Maybe'"),
        ([json.dumps(nlvr2_row("dev-1-0", "True"))], "'identifier' must be like dev-850-0-0"),
        (
            [json.dumps(nlvr2_row("dev-1-0-0", "True"))] * 2,
            "line 2: identifier 'dev-1-0-0' is already that of .* line 1",
        ),
        ([json.dumps(nlvr2_row("dev-9-0-0", "True"))], "2 of 2 images are not in .* the first 'dev-9-0-img0.png'"),
    ],
)
def test_nlvr2_bad_files(tmp_path: Path, lines: list[str], message: str) -> None:
    images = pictures(tmp_path / "images", "dev-1-0-img0.png", "dev-1-0-img1.png")
    (tmp_path / "dev.json").write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        make("nlvr2", images=str(images), splits={"val": {"sentences": str(tmp_path / "dev.json")}}).load("val")


def drawing(path: Path) -> Path:
    """Three boxes, red, green and blue, with grey between them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (400, 100), "grey")
    for left, colour in ((0, "red"), (150, "lime"), (300, "blue")):
        picture.paste(colour, (left, 0, left + 100, 100))
    picture.save(path)
    return path


def test_boxes_are_cut_once(tmp_path: Path) -> None:
    paths = cut_boxes(drawing(tmp_path / "1.png"), tmp_path / "boxes")
    for path, colour in zip(paths, ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=True):
        with Image.open(path) as box:
            assert box.size == (100, 100)
            assert box.getcolors() == [(10000, colour)]
    times = [path.stat().st_mtime_ns for path in paths]
    assert cut_boxes(tmp_path / "1.png", tmp_path / "boxes") == paths
    assert [path.stat().st_mtime_ns for path in paths] == times
    assert len(list((tmp_path / "boxes").iterdir())) == 3
    other = cut_boxes(drawing(tmp_path / "other" / "1.png"), tmp_path / "boxes")
    assert not set(other) & set(paths)
    pictures(tmp_path, "square.png")
    with pytest.raises(InputError, match="expected a drawing of three boxes, 400 x 100 pixels, found 4 x 4"):
        cut_boxes(tmp_path / "square.png", tmp_path / "boxes")


def test_nlvr1_by_index(tmp_path: Path) -> None:
    rows = []
    for sentence in range(10):
        for number in range(2):
            drawing(tmp_path / "dev" / f"{sentence}-{number}.png")
            name = f"dev/{sentence}-{number}.png"
            rows.append(
                {"identifier": f"{sentence}-{number}", "image": name, "sentence": "x", "label": "true", "split": "dev"}
            )
    index = str(write_lines(tmp_path / "index.jsonl", rows))
    task = make("nlvr1", index=index, boxes=str(tmp_path / "boxes"))
    found = {split: task.load(split) for split in ("train", "val", "test")}
    assert [len(found[split]) for split in found] == [16, 2, 2]
    sentences = [{example.id.split("-")[0] for example in found[split]} for split in found]
    assert sum(map(len, sentences)) == len(set.union(*sentences)) == 10
    assert len(found["val"][0].images) == 3
    assert task.score(found["val"], ["true", "false"]) == {"accuracy": 50, "consistency": 0}
    whole = make("nlvr1", index=index, fractions={"train": 0.5, "val": 0.5, "test": 0}, limits={"train": 3})
    assert [len(whole.load(split)) for split in ("train", "val")] == [3, 10]
    assert len(whole.load("val")[0].images) == 1
    with pytest.raises(InputError, match="split 'test' is empty"):
        whole.load("test")
    with pytest.raises(InputError, match="either 'splits' or 'index' is needed"):
        make("nlvr1")


def test_nlvr1_official_files(tmp_path: Path) -> None:
    image = drawing(tmp_path / "images" / "3" / "dev-12-0-0.png")
    row = {"identifier": "12-0", "sentence": "A box.", "label": "false", "directory": "3"}
    sentences = str(write_lines(tmp_path / "dev.json", [row]))
    task = make("nlvr1", splits={"val": {"sentences": sentences, "images": str(tmp_path / "images")}})
    (example,) = task.load("val")
    assert (example.images, example.targets) == ((image,), (("false", 1),))
    task.write([example], ["true"], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "12-0,true\n"


def test_nlvr1_a_damaged_drawing_costs_its_example(tmp_path: Path) -> None:
    images = tmp_path / "images" / "3"
    for number in range(3):
        drawing(images / f"dev-{number}-0-0.png")
    damaged, absent = images / "dev-1-0-0.png", images / "dev-2-0-0.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    absent.unlink()
    absent.symlink_to("nowhere.png")
    for path in (damaged, absent):
        with pytest.raises(UnreadableImage, match=path.name):
            cut_boxes(path, tmp_path / "boxes")
    rows = [
        {"identifier": f"{number}-0", "sentence": "A box.", "label": "true", "directory": "3"} for number in range(3)
    ]
    files = {"sentences": str(write_lines(tmp_path / "dev.json", rows)), "images": str(tmp_path / "images")}
    first, *others = make("nlvr1", splits={"val": files}, boxes=str(tmp_path / "boxes")).load("val")
    assert len(first.images) == 3
    assert [example.images for example in others] == [(damaged,), (absent,)]  # encoders skip what they cannot decode


def snli_row(photo: int, label: str | None = "neutral", number: int = 0) -> dict[str, Any]:
    row = {
        "Flickr30K_ID": str(photo),
        "pairID": f"{photo}.jpg#{number}",
        "sentence1": "A premise.",
        "sentence2": f"Hypothesis {number}.",
    }
    return row if label is None else row | {"gold_label": label}


def test_snli_ve(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", "1.jpg", "2.jpg")
    rows = [snli_row(1, "entailment"), snli_row(1, "contradiction", 1), snli_row(2), snli_row(2, "-", 1)]
    files = {"pairs": str(write_lines(tmp_path / "dev.jsonl", rows))}
    task = make("snli-ve", images=str(images), splits={"val": files})
    examples = task.load("val")
    assert [example.id for example in examples] == ["1.jpg#0", "1.jpg#1", "2.jpg#0"]
    assert examples[1].text == "Hypothesis 1."
    assert examples[1].targets == (("contradiction", 1),)
    assert task.decoding.choices == ("entailment", "neutral", "contradiction")
    scores = task.score(examples, ["entailment", "neutral", "neutral"])
    assert scores == pytest.approx(
        {"accuracy": 200 / 3, "accuracy.entailment": 100, "accuracy.contradiction": 0, "accuracy.neutral": 100}
    )
    task.write(examples, ["neutral"] * 3, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["1.jpg#1"] == "neutral"
    premise = make("snli-ve", images=str(images), splits={"val": files}, premise=True)
    assert premise.load("val")[1].text == "A premise. Hypothesis 1."


def test_snli_ve_divides_one_file_by_photo(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", *(f"{photo}.jpg" for photo in range(10)))
    file = write_lines(tmp_path / "all.jsonl", [snli_row(photo, "neutral", n) for photo in range(10) for n in range(3)])
    task = make("snli-ve", file=str(file), images=str(images))
    found = [task.load(split) for split in ("train", "val", "test")]
    assert [len(examples) for examples in found] == [24, 3, 3]
    photos = [{example.images for example in examples} for examples in found]
    assert len(set.union(*photos)) == sum(map(len, photos)) == 10
    with pytest.raises(InputError, match="unknown split 'dev'"):
        task.load("dev")
    with pytest.raises(InputError, match="sum to at most 1"):
        make("snli-ve", file=str(file), fractions={"train": 0.9})
