"""ScienceQA: questions with choices of their own, with an image or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from task_files import make, pictures, write_json

from crossgraft.errors import InputError
from crossgraft.tasks import NoSuchSplit


def problem(split: str, answer: int | None = 0, count: int = 2, **more: Any) -> dict[str, Any]:
    """A problem without hint and image; its choices are "choice 0", "choice 1", ..."""
    made: dict[str, Any] = {
        "question": "Which one floats?",
        "choices": [f"choice {number}" for number in range(count)],
        "hint": "",
        "image": None,
        "task": "closed choice",
        "grade": "grade3",
        "subject": "natural science",
        "topic": "physics",
        "category": "Materials",
        "skill": "Compare",
        "lecture": "",
        "solution": "Never read.",
        "split": split,
    } | more
    return made if answer is None else made | {"answer": answer}


PROBLEMS = {
    "1": problem("train", 1),
    "2": problem("val", 2, 5, hint="A cork\nand a  stone.", image="image.png", lecture="Light things\nfloat."),
    "3": problem("test", 0, hint="A stone.", subject="social science", grade="grade7"),
    "4": problem("test", 3, 4, image="image.png", subject="language science", grade="grade12"),
    "7": problem("val", 0, choices=["An  Oak\ntree", "an oak tree"], grade="grade6"),
}
LISTS = {
    "train": ["1"],
    "val": ["7", "2"],
    "test": ["3", "4"],
    "trainval": ["1", "2", "7"],
    "minival": ["2"],
    "minitest": [4],
}


def files(folder: Path, problems: Any = PROBLEMS, lists: Any = LISTS) -> dict[str, Any]:
    """Fields of a task on files in the official layout."""
    images = pictures(folder / "images", "val/2/image.png", "test/4/image.png")
    paths = {"problems": write_json(folder / "problems.json", problems)}
    if lists is not None:
        paths["pid_splits"] = write_json(folder / "pid_splits.json", lists)
    return {"images": str(images)} | {key: str(path) for key, path in paths.items()}


def test_scienceqa(tmp_path: Path) -> None:
    task = make("scienceqa", **files(tmp_path))
    plain, pictured = task.load("val")
    assert [plain.id, pictured.id] == ["7", "2"]  # as pid_splits.json has them
    assert pictured.images == (tmp_path / "images" / "val" / "2" / "image.png",)
    assert pictured.text == (
        "Question: Which one floats?\n"
        "Context: A cork\nand a stone.\n"
        "Options: (A) choice 0 (B) choice 1 (C) choice 2 (D) choice 3 (E) choice 4"
    )
    assert (pictured.choices, pictured.targets) == (tuple("ABCDE"), (("C", 1.0),))
    assert pictured.reference == (2, ("NAT", "TXT", "IMG", "G1-6"))
    assert (plain.images, plain.choices) == ((), ("A", "B"))
    assert "\nContext: N/A\n" in plain.text
    assert plain.reference == (0, ("NAT", "NO", "G1-6"))
    assert (task.prefix, task.decoding.choices) == ("scienceqa: ", tuple("ABCDE"))


def test_without_pid_splits(tmp_path: Path) -> None:
    """Splits are those that the problems state, in the order of their file; the same examples otherwise."""
    fields = files(tmp_path)
    listed = make("scienceqa", **fields)
    del fields["pid_splits"]
    stated = make("scienceqa", **fields)
    for split in ("train", "val", "test"):
        assert sorted(stated.load(split), key=lambda example: example.id) == sorted(
            listed.load(split), key=lambda example: example.id
        )
    assert [example.id for example in stated.load("val")] == ["2", "7"]


def test_text_of_a_choice(tmp_path: Path) -> None:
    task = make("scienceqa", **files(tmp_path), answer="text")
    oak, _ = examples = task.load("val")
    assert oak.choices == ("An Oak tree", "an oak tree")
    assert oak.targets == (("An Oak tree", 1.0),)
    assert oak.text.endswith("Options: (A) An Oak\ntree (B) an oak tree")
    assert task.decoding.choices is None
    # Choices may differ in capitals only.
    assert task.score(examples, [" An Oak tree", "choice 2"])["accuracy"] == 100
    assert task.score(examples, ["an oak tree", "C"])["accuracy"] == 0
    task.write(examples, ["an oak  tree", "C"], tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == {"results": {"7": 1, "2": -1}}


def test_context_and_lecture(tmp_path: Path) -> None:
    fields = files(tmp_path)
    plain, pictured = make("scienceqa", **fields, context=False, lecture=True).load("val")
    assert plain.text == "Question: Which one floats?\nOptions: (A) An Oak\ntree (B) an oak tree"
    assert pictured.text.startswith("Question: Which one floats?\nOptions: (A) choice 0")
    assert pictured.text.endswith("(E) choice 4\nBECAUSE: Light things\nfloat.")
    # What kind of question it is does not depend on what the model is given.
    assert pictured.reference.kinds == ("NAT", "TXT", "IMG", "G1-6")


def test_score_and_result_file(tmp_path: Path) -> None:
    """By hand: 3 has a hint, 4 an image, 7 neither; 2 has both and counts in both."""
    task = make("scienceqa", **files(tmp_path))
    examples = task.load("test") + task.load("val")
    assert [example.id for example in examples] == ["3", "4", "7", "2"]
    answers = ["A", " D", "B", "none of them"]
    assert task.score(examples, answers) == pytest.approx(
        {
            "accuracy": 50,
            "accuracy.NAT": 0,
            "accuracy.SOC": 100,
            "accuracy.LAN": 100,
            "accuracy.TXT": 50,
            "accuracy.IMG": 50,
            "accuracy.NO": 0,
            "accuracy.G1-6": 0,
            "accuracy.G7-12": 100,
        }
    )
    # "C" is a letter, but not one that question 3 offers.
    assert task.score(examples[:1], ["C"]) == {f"accuracy{kind}": 0 for kind in ("", ".SOC", ".TXT", ".G7-12")}
    task.write(examples, [*answers[:2], "C", "c"], tmp_path / "results" / "out.json")
    assert json.loads((tmp_path / "results" / "out.json").read_text()) == {
        "results": {"3": 0, "4": 3, "7": -1, "2": -1}
    }


def test_no_labels(tmp_path: Path) -> None:
    fields = files(tmp_path, PROBLEMS | {"3": problem("test", None, 3, subject=["odd"], grade=None)}, None)
    example, _ = examples = make("scienceqa", **fields).load("test")
    assert (example.targets, example.reference, example.choices) == ((), None, ("A", "B", "C"))
    task = make("scienceqa", **fields)
    with pytest.raises(InputError, match=r"no labels \(1 of 2 examples, the first '3'\)"):
        task.score(examples, ["A", "A"])
    task.write(examples, ["B", "A"], tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == {"results": {"3": 1, "4": 0}}
    unlike = make("scienceqa", **files(tmp_path, {"1": problem("val", subject="art", grade="grade13")}, None))
    assert unlike.score(unlike.load("val"), ["A"]) == {"accuracy": 100, "accuracy.NO": 100}


def test_lists_that_stand_for_splits(tmp_path: Path) -> None:
    fields = files(tmp_path)

    def ids(split: str, **splits: str | None) -> list[str]:
        return [example.id for example in make("scienceqa", **fields, splits=splits).load(split)]

    assert ids("val", val="minival") == ["2"]
    assert ids("train", val="minival") == ["1"]
    assert ids("test", test="minitest") == ["4"]
    assert ids("train", train="trainval", val=None) == ["1", "2", "7"]
    with pytest.raises(NoSuchSplit, match="has no ids for split 'val'"):
        ids("val", train="trainval", val=None)
    for split in ("train", "val"):
        with pytest.raises(InputError, match=r"1 ids of split .* \(.*\) are in split .*, too, the first '2'"):
            ids(split, train="trainval", val="minival")
    with pytest.raises(InputError, match=r"no list 'minivel' \(splits.val\); did you mean 'minival'\? found: train"):
        ids("train", val="minivel")
    with pytest.raises(InputError, match="splits: unknown split 'dev'"):
        ids("train", dev="val")
    with pytest.raises(InputError, match="'pid_splits' is needed"):
        make("scienceqa", problems=fields["problems"], splits={"val": "minival"})


def test_only_images_and_limits(tmp_path: Path) -> None:
    for lists in (LISTS, None):
        fields = files(tmp_path, lists=lists) | {"pid_splits": str(tmp_path / "pid_splits.json") if lists else None}
        task = make("scienceqa", **fields, only_images=True, limits={"val": 1})
        assert [example.id for example in task.load("val")] == ["2"]
        with pytest.raises(NoSuchSplit):
            task.load("train")
        one = {make("scienceqa", **fields, seed=seed, limits={"val": 1}).load("val")[0].id for seed in range(9)}
        assert one == {"2", "7"}
        with pytest.raises(InputError, match=r"limits.val: must be at least 1"):
            make("scienceqa", **fields, limits={"val": 0})
    with pytest.raises(NoSuchSplit, match="no question of split 'train' has an image"):
        make("scienceqa", **files(tmp_path), only_images=True).load("train")


def test_own_problems_without_splits(tmp_path: Path) -> None:
    problems = {str(number): problem("", image="image.png") for number in range(20)}
    for row in problems.values():
        del row["split"]
    images = pictures(tmp_path / "photos", *(f"{number}/image.png" for number in range(20)))
    task = make("scienceqa", **files(tmp_path, problems, None) | {"images": str(images)})
    found = {split: [example.id for example in task.load(split)] for split in ("train", "val", "test")}
    assert [len(ids) for ids in found.values()] == [16, 2, 2]
    assert len(set.union(*map(set, found.values()))) == 20
    assert task.load("val")[0].images == (images / found["val"][0] / "image.png",)


def test_images(tmp_path: Path) -> None:
    fields = files(tmp_path)
    del fields["images"]
    # They are only needed where a question has one, and may lie in a folder a split.
    assert make("scienceqa", **fields).load("train")[0].images == ()
    with pytest.raises(InputError, match="'images' is needed"):
        make("scienceqa", **fields).load("val")
    folders = [str(tmp_path / "images" / split) for split in ("val", "test")]
    assert make("scienceqa", **fields, images=folders).load("test")[1].images[0].parent.name == "4"
    (tmp_path / "images" / "test" / "4" / "image.png").unlink()
    with pytest.raises(InputError, match=r"1 of 1 images are not in .*images, the first 'test/4/image.png'"):
        make("scienceqa", **fields, images=str(tmp_path / "images")).load("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 2}, "problems.json, problem 1: 'answer' must be 0 to 1, found 2"),
        ({"answer": -1}, "'answer' must be 0 to 1, found -1"),
        ({"answer": True}, "'answer' must be a whole number, found True"),
        ({"answer": "A"}, "problem 1: 'answer' must be a whole number, found 'A'"),
        ({"choices": "one, two"}, "problem 1: 'choices' must be a list, found 'one, two'"),
        ({"choices": ["one", 2]}, "problem 1: 'choices' must be 2 to 5 texts"),
        ({"choices": ["one"]}, "'choices' must be 2 to 5 texts"),
        ({"choices": list("abcdef")}, "'choices' must be 2 to 5 texts"),
        ({"question": " "}, "problem 1: 'question' is empty"),
        ({"hint": None}, "problem 1: 'hint' must be text, found None"),
        ({"image": 3}, "problem 1: 'image' must be text, found 3"),
    ],
)
def test_bad_problems(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    fields = files(tmp_path, PROBLEMS | {"1": PROBLEMS["1"] | change})
    with pytest.raises(InputError, match=message):
        make("scienceqa", **fields).load("train")
    assert len(make("scienceqa", **fields).load("val")) == 2


@pytest.mark.parametrize("key", ["question", "choices", "hint", "image"])
def test_keys_that_are_missing(tmp_path: Path, key: str) -> None:
    row = {name: value for name, value in PROBLEMS["1"].items() if name != key}
    with pytest.raises(InputError, match=f"problem 1: '{key}' is missing; found: "):
        make("scienceqa", **files(tmp_path, {"1": row}, None)).load("train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problems": []}, "problems.json: expected the official layout"),
        ({"problems": {}}, "problems.json: expected the official layout"),
        ({"problems": {"1": "x"}}, "problems.json, problem 1: expected keys and values, found 'x'"),
        ({"problems": {"1": PROBLEMS["1"], "2": problem("")}, "lists": None}, "problem 2: 'split' is empty"),
        ({"problems": {"1": problem("minitrain")}, "lists": None}, "problem 1: 'split' must be train, val or test"),
        ({"lists": ["1"]}, "pid_splits.json: expected the official layout"),
        ({"lists": {"train": "1"}}, "pid_splits.json: 'train' must be a list of ids, found '1'"),
        ({"lists": {"train": [1.5]}}, "pid_splits.json: 'train' must be a list of ids"),
        ({"lists": {"train": ["1", "1"]}}, "pid_splits.json: 'train' lists 1 ids twice"),
        (
            {"lists": {"train": ["1", "8", "9"]}},
            r"pid_splits.json: 2 of 3 ids of 'train' are not in .*problems.json, the first '8'",
        ),
    ],
)
def test_bad_files(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make("scienceqa", **files(tmp_path, **change)).load("train")


def test_bad_recipes(tmp_path: Path) -> None:
    fields = files(tmp_path)
    with pytest.raises(InputError, match="unknown split 'dev'; known: train, val, test"):
        make("scienceqa", **fields).load("dev")
    with pytest.raises(InputError, match=r"answer: 'word'; .*known: letter, text"):
        make("scienceqa", **fields, answer="word")
    with pytest.raises(InputError, match="'problems' is needed"):
        make("scienceqa", images=fields["images"])
    with pytest.raises(NoSuchSplit, match="has no ids for split 'test'"):
        make("scienceqa", **files(tmp_path, lists={"train": ["1"]})).load("test")
