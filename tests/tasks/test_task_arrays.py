"""Arrays of features in place of image files, in every task that shows images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from task_files import make, pictures, write_json, write_lines

from crossgraft.errors import InputError
from crossgraft.tasks import TASKS
from crossgraft.tasks.images import ImageFolders
from crossgraft.training.settings import Visual
from crossgraft.training.visual import VisualSource

Fields = dict[str, Any]


def arrays(folder: Path, *names: str) -> Path:
    """Write grids of 4 tokens of 3 numbers, by name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (np.save if path.suffix == ".npy" else np.savez)(path, np.ones((4, 3), np.float32))
    return folder


def vqav2(folder: Path) -> Fields:
    questions = [{"question_id": 1, "image_id": 7, "question": "what?"}]
    return {"splits": {"val": {"questions": str(write_json(folder / "q.json", {"questions": questions}))}}}


def gqa(folder: Path) -> Fields:
    path = write_json(folder / "q.json", {"1": {"question": "what?", "imageId": "7"}})
    return {"splits": {"val": {"questions": str(path)}}}


def nlvr2(folder: Path) -> Fields:
    path = write_lines(folder / "dev.json", [{"identifier": "dev-7-0-0", "sentence": "x"}])
    return {"splits": {"val": {"sentences": str(path)}}}


def nlvr1(folder: Path) -> Fields:
    path = write_lines(folder / "dev.json", [{"identifier": "7-0", "sentence": "x", "directory": 3}])
    return {"splits": {"val": {"sentences": str(path)}}}


def snli_ve(folder: Path) -> Fields:
    row = {"pairID": "7#0", "Flickr30K_ID": 7, "sentence2": "x"}
    return {"splits": {"val": {"pairs": str(write_lines(folder / "dev.jsonl", [row]))}}}


def scienceqa(folder: Path) -> Fields:
    problem = {"question": "what?", "choices": ["a", "b"], "hint": "", "image": "image.png", "split": "val"}
    return {"problems": str(write_json(folder / "problems.json", {"7": problem}))}


def coco(folder: Path) -> Fields:
    path = write_json(folder / "captions.json", {"images": [{"id": 7, "file_name": "7.jpg"}]})
    return {"splits": {"val": {"captions": str(path)}}}


def karpathy(folder: Path) -> Fields:
    row = {"imgid": 7, "filename": "7.jpg", "filepath": "val2014", "split": "val", "sentences": [{"raw": "x"}]}
    return {"karpathy": str(write_json(folder / "dataset.json", {"images": [row]}))}


def table(folder: Path) -> Fields:
    (folder / "data.csv").write_text("image,question,answer,caption,split\nmine/7.jpg,what?,x,x,val\n")
    return {"file": str(folder / "data.csv")}


def own_json(folder: Path) -> Fields:
    return {"file": str(write_json(folder / "own.json", [{"image": "7.jpg", "caption": "x", "split": "val"}]))}


CASES: list[tuple[str, Callable[[Path], Fields], tuple[str, ...]]] = [
    ("vqav2", vqav2, ("COCO__000000000007.npy",)),
    ("vqav2", vqav2, ("000000000007.npz",)),
    ("vqav2", vqav2, ("features_7.npy",)),
    ("gqa", gqa, ("7.npy",)),
    ("nlvr2", nlvr2, ("dev-7-0-img0.npy", "dev/dev-7-0-img1.npz")),
    ("nlvr1", nlvr1, ("3/dev-7-0-0.npy",)),
    ("snli-ve", snli_ve, ("7.npz",)),
    ("scienceqa", scienceqa, ("val/7/image.npy",)),
    ("coco-captions", coco, ("7.npy",)),
    ("coco-captions", karpathy, ("val2014/7.npy",)),
    ("coco-captions", karpathy, ("7.npz",)),
    ("vqa-csv", table, ("mine/7.npy",)),
    ("caption-csv", table, ("mine/7.npy",)),
    ("caption-json", own_json, ("7.npz",)),
]


@pytest.mark.parametrize(("name", "files", "found"), CASES)
def test_arrays_stand_for_images(
    tmp_path: Path, name: str, files: Callable[[Path], Fields], found: tuple[str, ...]
) -> None:
    task = make(name, **files(tmp_path), images=str(arrays(tmp_path / "arrays", *found)))
    (example,) = task.load("val")
    assert example.images == tuple(tmp_path / "arrays" / part for part in found)
    source = VisualSource.open(Visual(side=2), [example], {task.visual})
    assert source.of(example, task.visual).shape == (len(found), 4, 3)


def test_every_task_of_images_is_among_the_cases() -> None:
    own = {name: task for name, task in TASKS.items() if task.__module__.startswith("crossgraft.")}
    shown = {name for name, task in own.items() if task.visual == "grid"}
    texts = {"glue", "cloze"}
    assert {name for name, *_ in CASES} == shown - texts - {"easy-vqa"}  # which has a layout of its own, in a package


def test_easy_vqa_of_arrays(tmp_path: Path) -> None:
    arrays(tmp_path / "test" / "images", "0.npy")
    write_json(tmp_path / "test" / "questions.json", [["what?", "red", 0]])
    (tmp_path / "answers.txt").write_text("red\n")
    assert make("easy-vqa", data=str(tmp_path)).load("test")[0].images == (tmp_path / "test" / "images" / "0.npy",)


def test_results_name_images_as_the_file_does(tmp_path: Path) -> None:
    task = make("vqa-csv", **table(tmp_path), images=str(arrays(tmp_path / "arrays", "mine/7.npy")))
    task.write(task.load("val"), ["x"], tmp_path / "out.json")
    assert '"image": "mine/7.jpg"' in (tmp_path / "out.json").read_text()


def test_an_image_comes_before_its_array_and_a_folder_before_the_next(tmp_path: Path) -> None:
    first = arrays(pictures(tmp_path / "first", "both.jpg", "a3.png"), "both.npy", "two.npz", "two.npy", "b3.npy")
    second = arrays(pictures(tmp_path / "second", "one.jpg", "two.jpg"), "both.npy")
    images = ImageFolders((first, second), "vqav2")
    assert images.path("both.jpg") == first / "both.jpg"
    assert images.path("one.jpg") == second / "one.jpg"
    assert images.path("two.jpg") == first / "two.npy"
    assert images.path("another.jpg", "both.png") == first / "both.npy"
    assert images.path("absent.jpg", number=3) == first / "a3.png"
    images.check()
    assert images.path("absent4.jpg", number=4) == first / "absent4.jpg"
    with pytest.raises(
        InputError, match=r"the first 'absent4\.jpg'; .*\(or arrays of .*: absent4\.npy, absent4\.npz\)"
    ):
        images.check()


def test_only_images_and_arrays_are_found_by_number(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "images", "a_3.jpg")
    for name in ("a_3.json", "a_3.txt", "._a_3.jpg"):
        (folder / name).write_text("x")
    assert ImageFolders(folder, "vqav2").path("absent.jpg", number=3) == folder / "a_3.jpg"


def test_arrays_cannot_be_cut_into_boxes(tmp_path: Path) -> None:
    images = arrays(tmp_path / "arrays", "3/dev-7-0-0.npy")
    with pytest.raises(InputError, match=r"dev-7-0-0\.npy: an array cannot be cut into boxes; leave 'boxes' out"):
        make("nlvr1", **nlvr1(tmp_path), images=str(images), boxes=str(tmp_path / "boxes")).load("val")
