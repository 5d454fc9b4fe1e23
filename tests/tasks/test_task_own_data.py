"""People's own questions and captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from task_files import make, pictures, write_json, write_lines

from crossgraft.errors import InputError
from crossgraft.tasks import Task

TABLE = """\ufeffImage,question,answer,split,id
1.png,"What, then?",red|Dark red,train,a
1.png,How many?,2,val,b
2.png,Where?,on the table,dev,c
"""


def own(tmp_path: Path, text: str, name: str = "vqa-csv", **fields: Any) -> Task:
    """A task of a file with that text; images 0.png to 9.png lie beside it."""
    pictures(tmp_path, *(f"{number}.png" for number in range(10)))
    (tmp_path / "data").write_text(text, encoding="utf-8")
    return make(name, file=str(tmp_path / "data"), **fields)


@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_questions(tmp_path: Path, between: str) -> None:
    text = TABLE.replace('"What, then?"', '"What; then?"') if between == ";" else TABLE
    if between != ",":
        text = text.replace(", then", "\0").replace(",", between).replace("\0", ", then")
    task = own(tmp_path, text)
    (first,) = task.load("train")
    assert (first.id, first.images, first.targets) == ("a", (tmp_path / "1.png",), (("red", 1), ("Dark red", 1)))
    assert first.text.startswith("What")
    assert task.question_length is None
    examples = task.load("val")
    assert [example.id for example in examples] == ["b", "c"]
    assert task.score(examples, ["Two.", "chair"]) == {"accuracy": 50}
    assert task.score(examples, ["2", "on table"]) == {"accuracy": 100}
    task.write(examples, ["2", ""], tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())[0] == {
        "id": "b",
        "image": "1.png",
        "question": "How many?",
        "answer": "2",
    }
    with pytest.raises(InputError, match="no row has the split 'test'"):
        task.load("test")


def test_questions_are_divided_by_image(tmp_path: Path) -> None:
    rows = "".join(f"{image}.png,q{n},yes\n" for image in range(10) for n in range(3))
    task = own(tmp_path, f"image,question,answer\n{rows}")
    found = [task.load(split) for split in ("train", "val", "test")]
    assert [len(examples) for examples in found] == [24, 3, 3]
    images = [{example.images for example in examples} for examples in found]
    assert len(set.union(*images)) == sum(map(len, images)) == 10
    other = own(tmp_path, f"image,question,answer\n{rows}", seed=1)
    assert {example.images for example in other.load("test")} != images[2] or other.load("val") != found[1]


def test_unlabelled_questions(tmp_path: Path) -> None:
    task = own(tmp_path, "image,question,answer,split\n1.png,q,,test\n2.png,q,no,val\n")
    (example,) = task.load("test")
    assert (example.id, example.targets, example.reference) == ("2", (), None)
    with pytest.raises(InputError, match="no labels"):
        task.score([example], ["x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows; expected a header with image, question, answer"),
        (
            "image,question\n1.png,q\n",
            "line 1: column 'answer' is missing; needed: image, question, answer; found: image",
        ),
        ("image,question,answer,image\n", "a column comes twice"),
        ("image,question,answer\n1.png,Who, me?,yes\n", "line 2: 4 cells, but the header has 3 columns"),
        ("image,question,answer\n\n1.png,,yes\n", "line 3: 'question' is empty"),
        (
            "image,question,answer,split\n1.png,q,yes,trian\n",
            "line 2: 'split' must be train, val or test, found 'trian'",
        ),
        (
            "image,question,answer,split\n1.png,q,a,train\n2.png,q,a,\n",
            "line 3: 'split' is empty, but 1 other rows state",
        ),
        ("image,question,answer,id\n1.png,q,a,x\n1.png,q,a,x\n", "line 3: id 'x' is already that of .*line 2"),
        (
            "image,question,answer,split\n1.png,q,a,train\n1.png,q,,train\n",
            "line 3: 'answer' is empty, as in 1 of 2 rows",
        ),
        (
            "image,question,answer,split\n99.png,q,a,train\n",
            "1 of 1 images are not in .* the first '99.png'; add the files",
        ),
        ("image,question,answer,split\n1.JPG,q,a,train\n", "the first '1.JPG'; there is '1.png'; add the files"),
        ('image,question,answer\n1.png,"q,a\n', "not CSV"),
    ],
)
def test_bad_questions(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        own(tmp_path, text).load("train")


def test_a_missing_file_and_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        make("vqa-csv", file=str(tmp_path / "absent.csv")).load("train")
    with pytest.raises(InputError, match="'file' is needed"):
        make("vqa-csv")
    (tmp_path / "latin.csv").write_bytes(b"image,question,answer\n\xe9,\n")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        make("vqa-csv", file=str(tmp_path / "latin.csv")).load("train")


CAPTIONS = [
    {"image": "1.png", "captions": ["A dog. ", "The dog"], "split": "train"},
    {"image": "2.png", "caption": "Two cats", "split": "test"},
    {"image": "sub/3.png", "caption": "A house", "split": "test"},
]


@pytest.mark.parametrize("layout", ["list", "lines", "csv"])
def test_captions(tmp_path: Path, layout: str) -> None:
    pictures(tmp_path / "photos", "1.png", "2.png", "sub/3.png")
    file = tmp_path / "captions"
    if layout == "list":
        write_json(file, CAPTIONS)
    elif layout == "lines":
        write_lines(file, CAPTIONS)
    else:
        rows = ["image,caption,split", "1.png,A dog. ,train", "2.png,Two cats,test", "sub/3.png,A house,test"]
        file.write_text("\n".join([*rows, "1.png,The dog,train"]))
    task = make("caption-csv" if layout == "csv" else "caption-json", file=str(file), images=str(tmp_path / "photos"))
    (first,) = task.load("train")
    assert (first.id, first.text, first.targets) == ("1.png", "", (("A dog.", 1), ("The dog", 1)))
    examples = task.load("test")
    assert examples[1].images == (tmp_path / "photos" / "sub" / "3.png",)
    assert task.score(examples, ["two cats", "a house"])["BLEU-1"] == pytest.approx(100)
    task.write(examples, ["two cats", ""], tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())[1] == {"image": "sub/3.png", "caption": ""}


def test_each_image_is_written_once(tmp_path: Path) -> None:
    task = own(tmp_path, json.dumps(CAPTIONS[:1]), "caption-json", per_caption=True)
    examples = task.load("train")
    assert [example.id for example in examples] == ["1.png#0", "1.png#1"]
    task.write(examples, ["a dog", "a dog"], tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == [{"image": "1.png", "caption": "a dog"}]


def test_captions_in_cocos_layout(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(10)]
    captions = [{"id": number, "image_id": number, "caption": f"caption {number}"} for number in range(10)]
    task = own(tmp_path, json.dumps({"images": images, "annotations": captions}), "caption-json")
    found = [task.load(split) for split in ("train", "val", "test")]
    assert [len(examples) for examples in found] == [8, 1, 1]
    assert all(example.reference == (f"caption {Path(example.id).stem}",) for example in found[0])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "caption-json",
            '[{"image": "1.png"}]',
            r"entry 1: 'captions' \(a list\) or 'caption' is missing; found: image",
        ),
        ("caption-json", '[{"image": "1.png", "captions": "x"}]', "entry 1: 'captions' must be a list"),
        ("caption-json", '[{"image": "1.png", "captions": [1]}]', "'captions' must be a list of texts"),
        ("caption-json", '{"image": "1.png", "caption": "x"}\nnot json', "line 2: expected one JSON object a line"),
        ("caption-json", '["1.png"]', "entry 1: expected keys and values"),
        (
            "caption-json",
            '[{"image": "1.png", "caption": "x"}]',
            "split 'val' is empty: 1 images or sentences are too few",
        ),
        (
            "caption-csv",
            "image,caption,split\n1.png,a,train\n1.png,b,val\n",
            "line 3: image '1.png' has another split than in",
        ),
        ("caption-csv", "image,text\n1.png,a\n", "column 'caption' is missing"),
    ],
)
def test_bad_captions(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        own(tmp_path, text, name).load("val")


def test_some_images_without_caption(tmp_path: Path) -> None:
    rows = [{"image": "1.png", "captions": ["a"], "split": "val"}, {"image": "2.png", "captions": [], "split": "val"}]
    with pytest.raises(InputError, match="entry 2: no caption, as in 1 of 2 images of split 'val'"):
        own(tmp_path, json.dumps(rows), "caption-json").load("val")
