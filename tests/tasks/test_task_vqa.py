"""VQA v2, GQA and easy-VQA: questions with open answers."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from task_files import make, pictures, write_json

from crossgraft.errors import InputError
from crossgraft.tasks import Decoding, Example, Task

VQA_ANSWERS = {
    10: ["cat"] * 4 + ["A cat"] * 2 + ["kitten"] * 3 + ["dog"],  # 6 cats, once normalised
    11: ["yes"] * 10,
    20: ["2"] * 2 + ["two"] + ["3"] * 7,
}


def vqa_question(number: int) -> dict[str, Any]:
    return {"image_id": number // 10, "question": f"question {number}?", "question_id": number}


def vqa_annotation(number: int) -> dict[str, Any]:
    answers = [
        {"answer": answer, "answer_confidence": "yes", "answer_id": place}
        for place, answer in enumerate(VQA_ANSWERS[number], 1)
    ]
    kind = {10: "other", 11: "yes/no", 20: "number"}[number]
    return {
        "question_id": number,
        "image_id": number // 10,
        "question_type": "what",
        "answer_type": kind,
        "multiple_choice_answer": answers[0]["answer"],
        "answers": answers,
    }


def vqa_files(
    folder: Path, questions: list[Any] | None = None, annotations: list[Any] | None = None, **options: Any
) -> dict[str, Any]:
    """Fields of a recipe with official files, three questions if nothing else is said."""
    questions = [vqa_question(number) for number in VQA_ANSWERS] if questions is None else questions
    annotations = [vqa_annotation(number) for number in VQA_ANSWERS] if annotations is None else annotations
    shared = {"info": {}, "data_type": "mscoco", "data_subtype": "train2014", "license": {}}
    images = pictures(folder / "images", "COCO_train2014_000000000001.jpg", "000000000002.jpg")
    files = {
        "questions": str(write_json(folder / "questions.json", shared | {"task_type": "", "questions": questions})),
        "annotations": str(write_json(folder / "annotations.json", shared | {"annotations": annotations})),
    }
    return {
        "images": str(images),
        "splits": {"train": files, "val": files, "test": {"questions": files["questions"]}},
        **options,
    }


def test_vqa_examples(tmp_path: Path) -> None:
    task = make("vqav2", **vqa_files(tmp_path))
    first, second, third = task.load("train")
    assert first.id == "10"
    assert first.text == "question 10?"
    assert first.images == (tmp_path / "images" / "COCO_train2014_000000000001.jpg",)
    assert third.images == (tmp_path / "images" / "000000000002.jpg",)
    assert dict(first.targets) == pytest.approx({"cat": 1, "kitten": 0.9, "dog": 0.3})
    assert second.targets == (("yes", 1),)
    assert dict(third.targets) == pytest.approx({"2": 0.9, "3": 1})
    assert (task.prefix, task.question_length, task.weighted, task.decoding) == ("vqa: ", 20, True, Decoding())


def test_vqa_accuracy_by_hand(tmp_path: Path) -> None:
    task = make("vqav2", **vqa_files(tmp_path))
    scores = task.score(task.load("val"), ["Kitten.", "yes", "nothing"])
    assert scores == pytest.approx(
        {"accuracy": (90 + 100 + 0) / 3, "accuracy.other": 90, "accuracy.yes/no": 100, "accuracy.number": 0}
    )


def test_vqa_raw_answers_and_vocabulary(tmp_path: Path) -> None:
    raw = make("vqav2", **vqa_files(tmp_path, normalise=False)).load("train")
    assert dict(raw[0].targets) == pytest.approx({"cat": 1, "A cat": 0.6, "kitten": 0.9, "dog": 0.3})
    for vocabulary in (["dog", "3"], {"dog": 0, "3": 1}):
        path = write_json(tmp_path / "words.json", vocabulary)
        task = make("vqav2", **vqa_files(tmp_path, vocabulary=str(path)))
        assert [example.id for example in task.load("train")] == ["10", "20"]
        assert [len(example.targets) for example in task.load("val")] == [1, 0, 1]
    path = write_json(tmp_path / "words.json", ["zebra"])
    with pytest.raises(InputError, match="no question of 'train' has an answer"):
        make("vqav2", **vqa_files(tmp_path, vocabulary=str(path))).load("train")


def test_vqa_leaves_out_training_questions_without_targets(tmp_path: Path) -> None:
    nothing = vqa_annotation(11)
    for row, answer in zip(nothing["answers"], ["the", "a"] * 5, strict=True):
        row["answer"] = answer
    annotations = [vqa_annotation(10), nothing, vqa_annotation(20)]
    task = make("vqav2", **vqa_files(tmp_path, annotations=annotations))
    assert [example.id for example in task.load("train")] == ["10", "20"]
    assert [len(example.targets) for example in task.load("val")] == [3, 0, 2]
    alone = make("vqav2", **vqa_files(tmp_path, [vqa_question(11)], [nothing]))
    with pytest.raises(InputError, match=r"questions\.json: no question of 'train' has an answer to learn"):
        alone.load("train")
    with pytest.raises(InputError, match=r"questions\.json: no questions"):
        make("vqav2", **vqa_files(tmp_path, [], [])).load("val")


def test_vqa_ids_as_text(tmp_path: Path) -> None:
    questions = [vqa_question(10) | {"question_id": "10", "image_id": "1"}]
    task = make("vqav2", **vqa_files(tmp_path, questions, [vqa_annotation(10)]))
    examples = task.load("val")
    assert examples[0].images[0].name == "COCO_train2014_000000000001.jpg"
    task.write(examples, ["cat"], tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == [{"question_id": 10, "answer": "cat"}]
    for key in ("question_id", "image_id"):
        task = make("vqav2", **vqa_files(tmp_path, [vqa_question(10) | {key: "q10"}], [vqa_annotation(10)]))
        with pytest.raises(InputError, match=f"'questions' entry 1: '{key}' must be a whole number, found 'q10'"):
            task.load("test")


def test_vqa_draws_in_proportion_and_weighs(tmp_path: Path) -> None:
    task = make("vqav2", **vqa_files(tmp_path))
    example = task.load("train")[0]
    rng = random.Random(0)
    drawn = Counter(task.draw(example, rng) for _ in range(4400))
    assert dict(drawn.keys()) == pytest.approx({"cat": 1, "kitten": 0.9, "dog": 0.3})
    for (_, weight), count in drawn.items():
        assert count / 4400 == pytest.approx(weight / 2.2, abs=0.03)


def test_vqa_result_file_and_unlabelled_split(tmp_path: Path) -> None:
    task = make("vqav2", **vqa_files(tmp_path))
    examples = task.load("test")
    assert all(example.targets == () and example.reference is None for example in examples)
    with pytest.raises(InputError, match="no labels"):
        task.score(examples, ["", "", ""])
    task.write(examples, ["cat", "", "é"], tmp_path / "new" / "result.json")
    assert json.loads((tmp_path / "new" / "result.json").read_text()) == [
        {"question_id": 10, "answer": "cat"},
        {"question_id": 11, "answer": ""},
        {"question_id": 20, "answer": "é"},
    ]
    with pytest.raises(InputError, match="2 answers for 3 examples"):
        task.write(examples, ["", ""], tmp_path / "result.json")


def test_vqa_joins_several_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = vqa_files(tmp_path / "a", [vqa_question(10)], [vqa_annotation(10)])
    two = vqa_files(tmp_path / "b", [vqa_question(20)], [vqa_annotation(20)])
    joined = {key: [one["splits"]["train"][key], two["splits"]["train"][key]] for key in ("questions", "annotations")}
    task = make("vqav2", splits={"train": joined}, images=[one["images"], two["images"]])
    assert [example.id for example in task.load("train")] == ["10", "20"]


def test_vqa_finds_images_of_another_year_by_their_number(tmp_path: Path) -> None:
    fields = vqa_files(tmp_path, [vqa_question(30)], [vqa_annotation(10) | {"question_id": 30}])
    pictures(tmp_path / "images", "COCO_val2014_000000000003.png")
    (example,) = make("vqav2", **fields).load("train")
    assert example.images[0].name == "COCO_val2014_000000000003.png"


def test_limit_is_seeded_and_only_needs_its_own_images(tmp_path: Path) -> None:
    def ids(seed: int) -> list[str]:
        fields = vqa_files(tmp_path, seed=seed)
        fields["splits"]["train"]["limit"] = 2
        return [example.id for example in make("vqav2", **fields).load("train")]

    assert all(ids(seed) == ids(seed) and len(ids(seed)) == 2 for seed in range(3))
    assert len({tuple(ids(seed)) for seed in range(12)}) == 3
    fields = vqa_files(tmp_path, [vqa_question(10), vqa_question(30)])
    fields["splits"] = {"test": fields["splits"]["test"] | {"limit": 1}}
    loaded, refused = [], []
    for seed in range(12):
        try:
            loaded += make("vqav2", **fields, seed=seed).load("test")
        except InputError as error:
            refused.append(str(error))
    assert {example.id for example in loaded} == {"10"}
    assert refused
    assert all("1 of 1 images" in message for message in refused)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": [vqa_question(10)]}, r"2 of 3 ids of .*annotations\.json are not in .*, the first '11'"),
        ({"annotations": [vqa_annotation(10)]}, r"2 of 3 ids of .*questions\.json are not in .*annotations"),
        ({"questions": [vqa_question(10)] * 2}, r"'questions' entry 2: question_id '10' is already that of"),
        ({"questions": [{"question_id": 10}], "annotations": [vqa_annotation(10)]}, "entry 1: 'image_id' is missing"),
        ({"questions": [vqa_question(10) | {"question_id": None}]}, "'question_id' must be text or a whole number"),
        ({"annotations": [vqa_annotation(n) | {"answers": ["x"]} for n in VQA_ANSWERS]}, "each of 'answers' must be"),
        ({"annotations": [vqa_annotation(n) | {"answers": []} for n in VQA_ANSWERS]}, "'answers' is empty"),
        ({"questions": ["x"]}, "'questions' entry 1: expected keys and values"),
        ({"annotations": [vqa_annotation(n) | {"answers": 3} for n in VQA_ANSWERS]}, "'answers' must be a list"),
    ],
)  # fmt: skip
def test_vqa_bad_files(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make("vqav2", **vqa_files(tmp_path, **change)).load("train")


def test_vqa_bad_recipes(tmp_path: Path) -> None:
    fields = vqa_files(tmp_path)
    with pytest.raises(InputError, match="has no split 'val' in the recipe"):
        make("vqav2", images=fields["images"], splits={"test": fields["splits"]["test"]}).load("val")
    with pytest.raises(InputError, match="unknown split 'valid'; did you mean 'val'"):
        make("vqav2", splits={"valid": fields["splits"]["val"]})
    with pytest.raises(InputError, match="limit: must be at least 1"):
        make("vqav2", splits={"val": fields["splits"]["val"] | {"limit": 0}})
    with pytest.raises(InputError, match="'images' is needed"):
        make("vqav2", splits=fields["splits"]).load("val")
    with pytest.raises(InputError, match="no such folder"):
        make("vqav2", splits=fields["splits"], images=str(tmp_path / "absent")).load("val")
    swapped = {"questions": fields["splits"]["val"]["annotations"]}
    with pytest.raises(InputError, match="with the key 'questions'"):
        make("vqav2", splits={"val": swapped}, images=fields["images"]).load("val")


def gqa_question(image: str, answer: str | None = None, structural: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"question": "Is it red?", "imageId": image, "isBalanced": True, "semantic": []}
    if answer is not None:
        made["answer"] = answer
    if structural is not None:
        made["types"] = {"structural": structural, "semantic": "attr", "detailed": "x"}
    return made


def test_gqa(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", "n1.jpg", "22.jpg")
    (tmp_path / "shards").mkdir()
    write_json(tmp_path / "shards" / "0.json", {"01": gqa_question("n1", "yes", "verify")})
    write_json(
        tmp_path / "shards" / "1.json", {"02": gqa_question("22", "table", "query"), "03": gqa_question("22", "no")}
    )
    shards = [str(tmp_path / "shards" / name) for name in ("0.json", "1.json")]
    for questions in (shards, str(tmp_path / "shards")):
        task = make("gqa", images=str(images), splits={"val": {"questions": questions}})
        examples = task.load("val")
        assert [(example.id, example.targets) for example in examples] == [
            ("01", (("yes", 1),)),
            ("02", (("table", 1),)),
            ("03", (("no", 1),)),
        ]
    scores = task.score(examples, ["Yes ", "desk", "no"])
    assert scores == pytest.approx({"accuracy": 200 / 3, "accuracy.verify": 100, "accuracy.query": 0})
    task.write(examples, ["Yes ", "", "no"], tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())[:2] == [
        {"questionId": "01", "prediction": "yes"},
        {"questionId": "02", "prediction": ""},
    ]
    assert task.prefix == "gqa: "
    assert make("gqa", splits={}, prefix="gaq: ").prefix == "gaq: "


def test_gqa_bad_files(tmp_path: Path) -> None:
    images = str(pictures(tmp_path / "images", "1.jpg"))

    def load(*contents: Any) -> list[Example]:
        paths = [str(write_json(tmp_path / f"{row}.json", content)) for row, content in enumerate(contents)]
        return make("gqa", images=images, splits={"test": {"questions": paths}}).load("test")

    assert load({"1": gqa_question("1")})[0].reference is None
    with pytest.raises(InputError, match="question id '1' is already in"):
        load({"1": gqa_question("1")}, {"1": gqa_question("1")})
    with pytest.raises(InputError, match="question 2: 'answer' is missing, as it is in 1 of 2"):
        load({"1": gqa_question("1", "yes"), "2": gqa_question("1")})
    with pytest.raises(InputError, match="expected the official layout"):
        load([gqa_question("1")])
    with pytest.raises(InputError, match="no questions"):
        load({})


def easy_data(folder: Path, train: int = 20) -> Path:
    for part, count in (("train", train), ("test", 2)):
        pictures(folder / part / "images", *(f"{number}.png" for number in range(count)))
        rows = [[f"is it {answer}?", answer, number] for number in range(count) for answer in ("yes", "red", "circle")]
        write_json(folder / part / "questions.json", rows)
    (folder / "answers.txt").write_text("circle\nred\nyes\nno\n")
    return folder


def test_easy_vqa(tmp_path: Path) -> None:
    task = make("easy-vqa", data=str(easy_data(tmp_path)))
    train, val, test = (task.load(split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (54, 6, 6)
    assert not {example.images for example in train} & {example.images for example in val}
    assert {example.id for example in train} | {example.id for example in val} == {str(row) for row in range(60)}
    scores = task.score(test, ["yes", "blue", "circle"] * 2)
    assert scores == pytest.approx(
        {"accuracy": 200 / 3, "accuracy.yes/no": 100, "accuracy.colour": 0, "accuracy.shape": 100}
    )
    assert len(make("easy-vqa", data=str(tmp_path), limits={"train": 5}).load("train")) == 5
    task.write(test, [""] * 6, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())[5] == {"question_id": 5, "answer": ""}
    write_json(tmp_path / "test" / "questions.json", [["what?", "purple", 0]])
    with pytest.raises(InputError, match="entry 1: the answer 'purple' is not in answers"):
        task.load("test")
    write_json(tmp_path / "test" / "questions.json", [["what?", "red"]])
    with pytest.raises(InputError, match=r"expected \[question, answer, image id\]"):
        task.load("test")
    with pytest.raises(InputError, match=r"'data' must be the folder of easy-VQA"):
        make("easy-vqa", data=str(tmp_path / "absent")).load("test")


def test_easy_vqa_of_the_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its data are found, its code is never run."""
    package = tmp_path / "easy_vqa"
    easy_data(package / "data")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    task: Task = make("easy-vqa")
    assert task.load("test")[0].images[0] == package / "data" / "test" / "images" / "0.png"


def test_easy_vqa_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install easy-vqa"):
        make("easy-vqa").load("train")
