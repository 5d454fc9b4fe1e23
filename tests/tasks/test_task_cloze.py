"""Captions with words masked: which, in which splits, and from which files."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_files import make, write_json, write_lines

from crossgraft.errors import InputError
from crossgraft.tasks import Example, Task
from crossgraft.tasks.cloze import MASK, first_word, masked_spans, spans, without_masks

CAPTIONS = ["A girl in a pink dress .", "Two dogs run on green grass", "a man's hat, well-worn and brown."]


def cloze(folder: Path, **options: Any) -> Task:
    lines = write_lines(folder / "captions.jsonl", [{"image": f"{n}.jpg", "captions": CAPTIONS} for n in range(10)])
    return make("cloze", **({"file": str(lines)} | options))


@given(
    text=st.text(alphabet="ab c-'.,é\u2019 ", max_size=40),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
def test_masked_words_are_found_again(text: str, share: float, seed: int) -> None:
    if not spans(text):
        return
    task = make("cloze", file="captions.txt", share=share)
    masked, weight = task.draw(Example("0", (), text), random.Random(seed))
    found = masked_spans(text, masked)
    assert weight == 1.0
    assert len(found) == max(1, round(share * len(spans(text)))) == masked.count(MASK)
    assert set(found) <= set(spans(text))
    rebuilt = masked
    for start, end in found:
        rebuilt = rebuilt.replace(MASK, text[start:end], 1)
    assert rebuilt == text
    assert MASK not in without_masks(masked)


def test_grounded_words_are_masked_first() -> None:
    task, rng = make("cloze", file="captions.txt", words="grounded"), random.Random(0)
    for caption, colour in ((CAPTIONS[0], "pink"), (CAPTIONS[1], "green"), (CAPTIONS[2], "brown")):
        for _ in range(5):
            assert colour not in task.draw(Example("0", (), caption), rng)[0]
    assert task.draw(Example("0", (), "a man and a dog"), rng)[0].count(MASK) == 1


def test_what_captions_say_of_colours_is_told_with_the_colour_last(tmp_path: Path) -> None:
    captions = [
        "A Brown dog in red and behind a black and white dog .",
        "A brown dog jumps; orange clothing, pink red hats, a yellow one, green standing trees",
    ]
    lines = write_lines(tmp_path / "captions.jsonl", [{"image": "a.jpg", "captions": captions}])
    said = {"words": "grounded", "statement": "The color of the {next} is {word}."}
    task = make("cloze", file=str(lines), fractions={"train": 1.0, "val": 0.0, "test": 0.0}, **said)
    examples = task.load("train")
    assert [example.text for example in examples] == [
        "The color of the dog is brown.",
        "The color of the dog is white.",
        "The color of the clothing is orange.",
        "The color of the hats is red.",
    ]
    assert {example.about["image"] for example in examples if example.about} == {"a.jpg"}
    assert task.draw(examples[0], random.Random(0))[0] == f"The color of the dog is {MASK}."
    asked = write_json(tmp_path / "asked.json", ["Dogs", "sun hat", "7"])
    left = make("cloze", file=str(lines), fractions={"train": 1.0, "val": 0.0, "test": 0.0}, without=str(asked), **said)
    assert [example.text[17:] for example in left.load("train")] == ["clothing is orange.", "hats is red."]
    write_lines(lines, [{"image": "a.jpg", "captions": ["a dog"]}])
    with pytest.raises(InputError, match=r"captions.jsonl: holds no caption with a grounded word before what it is of"):
        task.load("train")


def test_captions_without_a_grounded_word_are_left_out_and_images_are_named(tmp_path: Path) -> None:
    rows = [{"image": "a.jpg", "captions": ["a red dog", "a dog"]}, {"image": "b.jpg", "captions": ["a man"]}]
    lines = write_lines(tmp_path / "captions.jsonl", rows)
    whole = {"train": 1.0, "val": 0.0, "test": 0.0}
    (example,) = make("cloze", file=str(lines), words="grounded", fractions=whole).load("train")
    assert (example.text, example.about) == ("a red dog", {"image": "a.jpg"})
    assert len(make("cloze", file=str(lines), fractions=whole).load("train")) == 3


def test_the_first_word_is_never_asked(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "captions.jsonl", [{"captions": ["White snow falls", "white", "A red dog"]}] * 9)
    for words, texts in (("grounded", {"A [MASK] dog"}), ("any", {"White [MASK] falls", "White snow [MASK]"})):
        task = make("cloze", file=str(lines), words=words, fractions={"train": 0.2, "val": 0.8, "test": 0.0})
        found = {example.text for example in task.load("val")}
        assert texts <= found
        assert not any(text.startswith(MASK) for text in found)


def test_splits_keep_the_captions_of_an_image_together_and_hide_one_word_always_the_same(tmp_path: Path) -> None:
    task = cloze(tmp_path, words="grounded")
    train, val, test = (task.load(split) for split in ("train", "val", "test"))
    images = [{example.id.split("#")[0] for example in part} for part in (train, val, test)]
    assert [len(part) for part in images] == [8, 1, 1]
    assert [example.text for example in train[:3]] == CAPTIONS
    assert {example.text for example in val} == {
        "A girl in a [MASK] dress .",
        "Two dogs run on [MASK] grass",
        "a man's hat, well-worn and [MASK].",
    }
    assert {example.reference for example in val} == {"pink", "green", "brown"}
    assert task.load("val") == val


def test_answers_are_their_first_word_whatever_its_case(tmp_path: Path) -> None:
    task = cloze(tmp_path, words="grounded")
    val = sorted(task.load("val"), key=lambda example: str(example.reference))  # brown, green, pink
    assert task.score(val, [" Brown, and", "greenish", '"pink"'])["accuracy"] == pytest.approx(200 / 3)
    task.write(val, ["Brown x", "b", ""], tmp_path / "out.json")
    assert '"answer": "brown"' in (tmp_path / "out.json").read_text()
    assert [first_word(text) for text in ("", " ?", "Well-known man")] == ["", "", "well-known"]


@pytest.mark.parametrize("kind", ["txt", "csv", "json", "coco"])
def test_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"captions.{'json' if kind == 'coco' else kind}"
    if kind == "txt":
        path.write_text("\n".join([*CAPTIONS, ""]), encoding="utf-8")
    elif kind == "csv":
        path.write_text("image,caption\n" + "".join(f'{n}.jpg,"{c}"\n' for n, c in enumerate(CAPTIONS)))
    elif kind == "json":
        write_json(path, [{"image": f"{n}.jpg", "caption": c} for n, c in enumerate(CAPTIONS)])
    else:
        images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(3)]
        notes = [{"id": n, "image_id": n, "caption": c} for n, c in enumerate(CAPTIONS)]
        write_json(path, {"images": images, "annotations": notes})
    task = make("cloze", file=str(path), fractions={"train": 1.0, "val": 0.0, "test": 0.0})
    assert [example.text for example in task.load("train")] == CAPTIONS


def test_bad_input(tmp_path: Path) -> None:
    for options, message in (
        ({"share": 0.0}, "share: must be above 0"),
        ({"words": "colours"}, "words: must be any or grounded|words"),
        ({"file": str(tmp_path / "no.txt")}, "no.txt: no such file"),
        ({"word_list": str(tmp_path / "no.json"), "words": "grounded"}, "no.json"),
        ({"statement": "The {next} is {word}"}, "set words=grounded"),
        ({"words": "grounded", "statement": "The {next} is"}, "expected a sentence with {next} and behind it {word}"),
        ({"words": "grounded", "statement": "{next}-{word}"}, "expected a sentence with {next} and behind it {word}"),
        ({"words": "grounded", "statement": "In red light {next} is {word}"}, "statement: says 'red'"),
        ({"without": str(tmp_path / "asked.json")}, "asked.json"),
        ({"words": "grounded", "statement": "A {word} {next}"}, "expected a sentence with {next} and behind it {word}"),
    ):
        with pytest.raises(InputError, match=message):
            cloze(tmp_path, **options).load("val")
    latin = tmp_path / "latin.txt"
    latin.write_bytes("une fille à l'école\nun chien".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.txt: cannot be read as utf-8-sig text .*encoding=latin-1"):
        make("cloze", file=str(latin)).load("train")
    whole = {"train": 1.0, "val": 0.0, "test": 0.0}
    assert make("cloze", file=str(latin), encoding="latin-1", fractions=whole).load("train")[0].text.endswith("école")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="holds no caption"):
        make("cloze", file=str(tmp_path / "empty.txt")).load("train")
    (tmp_path / "mask.txt").write_text("a [MASK] dog\n")
    with pytest.raises(InputError, match=r"mask.txt, line 1: the caption holds \[MASK\]"):
        make("cloze", file=str(tmp_path / "mask.txt")).load("train")
    words = write_json(tmp_path / "words.json", ["girl", 3])
    with pytest.raises(InputError, match="expected a JSON list of words"):
        cloze(tmp_path, words="grounded", word_list=str(words)).load("val")
