"""COCO and Karpathy captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from task_files import make, pictures, write_json

from crossgraft.errors import InputError
from crossgraft.tasks import Decoding, NoSuchSplit


def coco(images: dict[int, str], captions: list[tuple[int, str]] | None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "info": {},
        "licenses": [],
        "images": [{"id": number, "file_name": name, "height": 4, "width": 4} for number, name in images.items()],
    }
    if captions is not None:
        made["annotations"] = [
            {"image_id": image, "id": number, "caption": caption} for number, (image, caption) in enumerate(captions)
        ]
    return made


def test_official_files(tmp_path: Path) -> None:
    images = pictures(tmp_path / "val2017", "000000000007.jpg", "000000000009.jpg")
    content = coco(
        {7: "000000000007.jpg", 9: "COCO_val2014_000000000009.jpg"}, [(9, "Two cats."), (7, "A dog. "), (7, "The dog")]
    )
    captions = str(write_json(tmp_path / "captions.json", content))
    unlabelled = str(write_json(tmp_path / "image_info.json", coco({7: "000000000007.jpg"}, None)))
    splits = {"train": {"captions": captions}, "val": {"captions": captions}, "test": {"captions": unlabelled}}
    task = make("coco-captions", images=str(images), splits=splits)
    first, second = examples = task.load("val")
    assert (first.id, first.text, first.targets) == ("7", "", (("A dog.", 1), ("The dog", 1)))
    assert second.images == (images / "000000000009.jpg",)
    assert (task.prefix, task.decoding) == ("caption: ", Decoding(40, 5))
    assert make("coco-captions", splits=splits, num_beams=3).decoding == Decoding(40, 3)
    scores = task.score(examples, ["a dog", "two cats"])
    assert next(iter(scores)) == task.metric == "CIDEr"
    assert (scores["BLEU-1"], scores["ROUGE-L"]) == pytest.approx((100, 100))
    task.write(examples, ["a dog", ""], tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {"image_id": 7, "caption": "a dog"},
        {"image_id": 9, "caption": ""},
    ]
    (alone,) = task.load("test")
    with pytest.raises(InputError, match="no labels"):
        task.score([alone], ["a"])
    each = make("coco-captions", images=str(images), splits=splits, per_caption=True)
    assert [(example.id, example.targets) for example in each.load("train")] == [
        ("7#0", (("A dog.", 1),)),
        ("7#1", (("The dog", 1),)),
        ("9#0", (("Two cats.", 1),)),
    ]
    assert len(each.load("val")) == 2


def test_each_image_is_scored_and_written_once(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", "7.jpg", "9.jpg")
    content = coco({7: "7.jpg", 9: "9.jpg"}, [(9, "Two cats."), (7, "A dog."), (7, "The dog")])
    splits = {"train": {"captions": str(write_json(tmp_path / "captions.json", content))}}
    task = make("coco-captions", images=str(images), splits=splits, per_caption=True)
    examples = task.load("train")
    answers = ["a dog", "another", "two cats"]
    task.write(examples, answers, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {"image_id": 7, "caption": "a dog"},
        {"image_id": 9, "caption": "two cats"},
    ]
    whole = make("coco-captions", images=str(images), splits=splits)
    assert task.score(examples, answers) == whole.score(whole.load("train"), ["a dog", "two cats"])
    with pytest.raises(InputError, match="2 answers for 3 examples"):
        task.write(examples, answers[:2], tmp_path / "out.json")


def test_image_ids_as_text(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", "7.jpg", "9.jpg")
    content = coco({7: "7.jpg", 9: "9.jpg"}, [(7, "A dog."), (9, "Two cats.")])
    content["images"][0]["id"] = "7"
    content["annotations"][1]["image_id"] = "009"

    def task() -> Any:
        captions = str(write_json(tmp_path / "captions.json", content))
        return make("coco-captions", images=str(images), splits={"val": {"captions": captions}})

    examples = task().load("val")
    assert [example.targets[0][0] for example in examples] == ["A dog.", "Two cats."]
    task().write(examples, ["a", "b"], tmp_path / "out.json")
    assert [row["image_id"] for row in json.loads((tmp_path / "out.json").read_text())] == [7, 9]
    for wrong in ("seven", "", "7.0", "1_0", "9" * 19):
        content["images"][0]["id"] = wrong
        with pytest.raises(InputError, match=f"'images' entry 1: 'id' must be a whole number, found '{wrong}'"):
            task().load("val")
    content["images"][0]["id"] = "9"
    with pytest.raises(InputError, match=r"'images' entry 2: id '9' is already that of .* entry 1"):
        task().load("val")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco({7: "7.jpg", 8: "8.jpg"}, [(7, "a")]), "1 images have no caption, the first has the id 8"),
        (coco({7: "7.jpg"}, [(7, "a"), (8, "b")]), "1 captioned images are not among 'images', the first has the id 8"),
        (coco({7: "7.jpg"}, [(7, " ")]), "'annotations' entry 1: 'caption' is empty"),
        (coco({}, []), "'images' is empty"),
        (coco({7: "absent.jpg"}, [(7, "a")]), "1 of 1 images are not in .* the first 'absent.jpg'"),
        ([], "expected an object with the key 'images'"),
    ],
)
def test_bad_official_files(tmp_path: Path, content: Any, message: str) -> None:
    images = pictures(tmp_path / "images", "0.jpg")
    captions = str(write_json(tmp_path / "captions.json", content))
    with pytest.raises(InputError, match=message):
        make("coco-captions", images=str(images), splits={"val": {"captions": captions}}).load("val")


def karpathy(*images: tuple[int, str], cocoid: bool = True) -> dict[str, Any]:
    rows = []
    for number, split in images:
        row = {
            "filename": f"{number}.jpg",
            "imgid": number,
            "split": split,
            "sentids": [number],
            "sentences": [{"raw": f"Caption of {number}.", "tokens": [], "imgid": number, "sentid": number}],
        }
        rows.append(row | {"cocoid": number + 100, "filepath": "train2014"} if cocoid else row)
    return {"images": rows, "dataset": "coco"}


def test_karpathy(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", "train2014/0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    content = karpathy((0, "train"), (1, "restval"), (2, "val"), (3, "test"), (4, "train"))
    fields = {"karpathy": str(write_json(tmp_path / "dataset.json", content)), "images": str(images)}
    task = make("coco-captions", **fields)
    assert [example.id for example in task.load("train")] == ["100", "101", "104"]
    assert task.load("train")[0].images == (images / "train2014" / "0.jpg",)
    assert task.load("test")[0].targets == (("Caption of 3.", 1),)
    assert [example.id for example in make("coco-captions", **fields, restval=False).load("train")] == ["100", "104"]
    assert len(make("coco-captions", **fields, limits={"train": 2}).load("train")) == 2
    flickr = write_json(tmp_path / "flickr.json", karpathy((2, "val"), cocoid=False))
    assert make("coco-captions", karpathy=str(flickr), images=str(images)).load("val")[0].id == "2"
    with pytest.raises(NoSuchSplit, match="no image has the split 'test'; there are: val"):
        make("coco-captions", karpathy=str(flickr), images=str(images)).load("test")
    rows = karpathy((2, "val"), cocoid=False)
    rows["images"][0]["imgid"] = "two"
    with pytest.raises(InputError, match="'images' entry 1: 'imgid' must be a whole number, found 'two'"):
        make("coco-captions", karpathy=str(write_json(tmp_path / "text.json", rows)), images=str(images)).load("val")
    other = write_json(tmp_path / "other.json", coco({7: "7.jpg"}, [(7, "a")]))
    with pytest.raises(InputError, match="found the official COCO layout; name it in 'splits'"):
        make("coco-captions", karpathy=str(other), images=str(images)).load("val")
    with pytest.raises(InputError, match="either 'splits' or 'karpathy' is needed"):
        make("coco-captions")
    with pytest.raises(InputError, match="num_beams: must be at least 1"):
        make("coco-captions", **fields, num_beams=0)
