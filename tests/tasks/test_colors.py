"""Objects and colours: the public layouts, their traps, articles and number, and prompts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from task_files import write_json, write_lines

from crossgraft.errors import InputError
from crossgraft.tasks.color_prompts import PROMPTS, check_prompts, fill, read_prompts
from crossgraft.tasks.colors import COLORS, ColoredObject, article, load_colors, read_colors

MEMORY = (
    {"descriptor": "a", "item": "lamp post", "label": "black", "picture": "x", "picture_path": "y"},
    {"descriptor": "the inside of a", "item": "fig", "label": "red"},
    {"descriptor": "", "item": "lentils", "label": "orange"},
    {"descriptor": "", "item": "moss", "label": "green"},
    {"descriptor": "an", "item": "anvil", "label": "gray"},
)
COUNTED = "beaver carrot cello cherry cloud cockroach crow deer dolphin elephant forest gorilla".split()  # noqa: SIM905


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def said(key: str, worker: int, **counts: float) -> dict[str, Any]:
    """A line of CoDa's annotations, which has "gray"."""
    every = {color if color != "grey" else "gray": 0 for color in COLORS} | counts
    return {"class_id": key, "display_name": "X", "action": "submitted", **every, "worker_id": worker, "included": True}


def thing(key: str, one: str | None, all_: str | None, verb: str = "are") -> dict[str, Any]:
    first = {"class_id": key, "display_name": "X", "object_s": one, "areis_s": one and "is"}
    return first | {"object_pl": all_, "areis_pl": verb, "ngram": "x"}


def coda(folder: Path, annotations: list[Any], objects: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    write_lines(folder / "annotations.jsonl", annotations)
    write_lines(folder / "objects.jsonl", objects)
    return folder


def test_memory_colors_as_its_authors_publish_it(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "any.name", MEMORY)
    data = read_colors(path)
    assert data.name == "memory-colors"
    assert [one.phrase for one in data.objects] == [
        "a lamp post",
        "the inside of a fig",
        "lentils",
        "moss",
        "an anvil",
    ]
    assert [one.color for one in data.objects] == ["black", "red", "orange", "green", "grey"]
    assert [one.several for one in data.objects] == [False, False, True, False, False]
    assert data.notes == ("5 objects, but memory-colors has 109: scores on this copy compare with no published ones",)
    assert data.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_colors(path) == list(data.objects)
    assert load_colors(write_json(tmp_path / "list.json", list(MEMORY))) == list(data.objects)


def test_memory_colors_as_valm_has_it(tmp_path: Path) -> None:
    lines = ("Index,Descriptor,Item,Color", "1,a ,lamp post,black", "2,,moss,Green", "3,a,pumpkin,red")
    path = write(tmp_path / "m.csv", *lines)
    left, corrected = read_colors(path), read_colors(path, correct=True)
    assert [(one.phrase, one.color) for one in left.objects] == [
        ("a lamp post", "black"),
        ("moss", "green"),
        ("a pumpkin", "red"),
    ]
    assert left.notes[1] == (
        "pumpkin is red in this copy, orange in the authors' file: left as it is here (--correct takes the authors' "
        "label)"
    )
    assert corrected.objects[2].color == "orange"
    assert corrected.notes[1].endswith("taken as orange")


def test_color_terms_get_the_articles_that_they_lack(tmp_path: Path) -> None:
    rows = [f"{name},brown" for name in COUNTED]
    data = read_colors(write(tmp_path / "c.csv", "object,color", *rows, "ash,grey", "sky,blue"))
    assert data.name == "color-terms"
    assert [one.phrase for one in data.objects[-5:]] == ["an elephant", "a forest", "a gorilla", "ash", "the sky"]
    assert "14 objects, but color-terms has 52" in data.notes[0]


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    data = read_colors(write(tmp_path / "c.csv", "object;descriptor;colour", "kettle;my;grey", "tongs;;black"))
    assert (data.name, data.notes) == ("colors", ())
    assert [(one.phrase, one.several) for one in data.objects] == [("my kettle", False), ("tongs", True)]


def test_coda_is_the_mean_of_what_people_say(tmp_path: Path) -> None:
    annotations = [
        said("/m/1", 0, red=3, gray=1),
        said("/m/1", 1, red=1, gray=9),
        said("/m/1", 2, pink=7) | {"included": False},
        {"class_id": "/m/1", "display_name": "X", "action": "skipped", "worker_id": 3, "included": False},
        said("/m/2", 0, white=5),
        said("/m/9", 0, white=5),  # of no object
    ]
    data = read_colors(coda(tmp_path, annotations, [thing("/m/1", "axe", "axes"), thing("/m/2", "oven", "ovens")]))
    first, second = data.objects
    assert (data.name, first.color, second.color) == ("coda", "grey", "white")
    assert first.shares == pytest.approx([(0.75 + 0.1) / 2, *[0] * 9, (0.25 + 0.9) / 2])
    assert data.files.keys() == {"annotations.jsonl", "objects.jsonl"}
    assert len(data.fingerprint) == 64


def test_of_equal_shares_the_first_name_is_taken_and_said(tmp_path: Path) -> None:
    thirds = [said("/m/1", number, **{color: 1}) for number, color in enumerate(("white", "red", "black"))]
    data = read_colors(coda(tmp_path, thirds, [thing("/m/1", "axe", "axes")]))
    assert data.objects[0].color == "black"
    assert data.notes[1] == "1 of 1 objects have several likeliest colours: the first by name is taken"


@pytest.mark.parametrize(
    ("one", "all_", "verb", "phrase", "several"),
    [
        ("axe", "axes", "are", "an axe", False),
        ("unicycle", "unicycles", "are", "a unicycle", False),
        ("fish", "fish", "are", "a fish", False),
        ("rice", "rice", "is", "rice", False),
        ("sky", "sky", "is", "the sky", False),
        (None, "human hair", "is", "human hair", False),
        (None, "trousers", "are", "trousers", True),
        ("scissors", "scissors", "are", "scissors", True),
    ],
)
def test_codas_words_in_a_sentence(
    tmp_path: Path, one: str | None, all_: str, verb: str, phrase: str, several: bool
) -> None:
    (found,) = load_colors(coda(tmp_path, [said("/m/1", 0, red=1)], [thing("/m/1", one, all_, verb)]))
    assert (found.phrase, found.several, found.plural) == (phrase, several, all_)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["object,color", "cup,mauve"], "line 2: 'color' must be one of red, .*, found 'mauve'"),
        (["object,color", "cup,"], "line 2: 'color' is empty"),
        (["object,color", "cup,red", "cup,blue"], "line 3: 'cup' is already at .*line 2"),
        (["item,descriptor,color", "cup,[DESCRIPTOR],red"], r"line 2: 'descriptor' is a placeholder .*\[DESCRIPTOR\]"),
        (["object,color", "{object},red"], "is a placeholder that nobody filled in"),
        (["thing,color", "cup,red"], "expected item, descriptor and label .* found: thing, color"),
        (['{"item": "cup"}'], "expected item, descriptor and label .* found: item"),
        (["[]"], "found: nothing"),
        (['{"class_id": "/m/1", "label": [0.1]}'], "is a part of CoDa; give the folder"),
        (["object,color"], "no rows"),
    ],
)
def test_bad_files_are_said(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_colors(write(tmp_path / "data.txt", *lines))
    assert "data.txt" in str(caught.value)


@pytest.mark.parametrize(
    ("annotations", "objects", "message"),
    [
        ([said("/m/1", 0, red=1)], [thing("/m/2", "axe", "axes")], "nobody's colours for it .* 0 more"),
        ([said("/m/1", 0, red=0)], [thing("/m/1", "axe", "axes")], "no colour has a count"),
        ([said("/m/1", 0, red=-1)], [thing("/m/1", "axe", "axes")], "'red' must be a number of at least 0"),
        ([said("/m/1", 0, red=1)], [thing("/m/1", None, None)], "both empty"),
        ([said("/m/1", 0, red=1)], [thing("/m/1", "axe", "axes")] * 2, "ids must be unique"),
        ([{"class_id": "/m/1"}], [thing("/m/1", "axe", "axes")], "'action' is missing"),
    ],
)
def test_bad_codas_are_said(tmp_path: Path, annotations: list[Any], objects: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_colors(coda(tmp_path, annotations, objects))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read_colors(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"holds no annotations.jsonl and no objects.jsonl"):
        read_colors(tmp_path)


def test_articles() -> None:
    said = [article(name) for name in ("owl", "hour glass", "unicycle", "umbrella", "one-way sign", "Egg", "yak")]
    assert said == ["an", "an", "a", "an", "a", "an", "a"]


SHEEP = ColoredObject("sheep", "sheep", "white", several=True, plural="sheep")
FIG = ColoredObject("fig", "the inside of a fig", "red")


def test_prompts_are_filled() -> None:
    assert fill(PROMPTS[0], FIG) == "Q: What is the color of the inside of a fig? A: It is"
    assert fill(PROMPTS[8], FIG) == "The inside of a fig usually has the color of"
    assert fill(PROMPTS[8], SHEEP) == "Sheep usually have the color of"
    assert fill("most {objects} and {object} {is}", SHEEP) == "Most sheep and sheep are"
    with pytest.raises(InputError, match="wants the plural of 'fig', which only CoDa gives"):
        fill("Most {objects} are", FIG)
    assert check_prompts(PROMPTS) == PROMPTS


def test_own_prompts_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", "# mine", "", "  {object}   {is}  ", "Most {objects} are")
    assert read_prompts(path) == ("{object} {is}", "Most {objects} are")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("The color of coal is", "line 2: has no {object}"),
        ("The color of [DESCRIPTOR] [ITEM] is", r"line 2: \[DESCRIPTOR\] stands in the prompt"),
        ("The color of {object} is [MASK].", r"line 2: \[MASK\] stands in the prompt"),
        ("The color of {object} is <mask>", "line 2: <mask> stands in the prompt"),
        ("The color of {objekt} is", "line 2: {objekt} is no placeholder: did you mean 'object'"),
        ("Any {object}", "line 2: is the same as .*line 1"),
    ],
)
def test_bad_prompts_are_said(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_prompts(write(tmp_path / "p.txt", "Any {object}", line))


def test_files_without_prompts_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_prompts(tmp_path / "p.txt")
    with pytest.raises(InputError, match="holds no prompt"):
        read_prompts(write(tmp_path / "p.txt", "# nothing"))
    with pytest.raises(InputError, match="no prompt was given"):
        check_prompts([])
