"""A run of colours: what it counts, what it writes, what it is compared with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_words import model_of, save_words_model, tokenizer_of

from crossgraft.errors import InputError
from crossgraft.models.choice_scoring import ChoiceScorer
from crossgraft.tasks.colors import COLORS, SPELLINGS, ColorData, ColoredObject
from crossgraft.training.colors_run import against, plain_scorer, read_answers, run_colors

OBJECTS = (
    ColoredObject("coal", "coal", "black"),
    ColoredObject("snow", "snow", "white"),
    ColoredObject("crow", "a crow", "black"),
    ColoredObject("sea", "the sea", "blue"),
)
DATA = ColorData("memory-colors", OBJECTS, {"m.jsonl": "0" * 64}, ("a note",))
PROMPTS = ("The color of {object} is", "{object} {has} the color of")


class Scripted(ChoiceScorer):
    """Gives the scores that it is told; its model is there to be described."""

    def __init__(self, answers: Callable[[str], Sequence[float]]) -> None:
        tokenizer = tokenizer_of("llama")
        super().__init__(model_of("llama", len(tokenizer)), tokenizer, SPELLINGS, kind="causal")
        self.answers = answers

    def __call__(self, prompts: Sequence[str], advance: Any = None) -> torch.Tensor:
        return torch.tensor([self.answers(text) for text in prompts], dtype=torch.float32)


def saying(color: str, more: float = 1.0) -> list[float]:
    return [more * (name == color) for name in COLORS]


def first_prompt_knows(text: str) -> list[float]:
    """Black of everything; of the sea and by the first prompt, blue."""
    return saying("blue") if text == "The color of the sea is" else saying("black")


def test_the_figures_of_a_run() -> None:
    run = run_colors(Scripted(first_prompt_knows), DATA, PROMPTS, model="m", about={"adapter": "x"}, seed=7)
    document, found = run.document, run.document["colors"]
    assert run.right.tolist() == [[True, False, True, True], [True, False, True, False]]
    assert [(one["prompt"], one["accuracy"]) for one in found["prompts"]] == [(PROMPTS[0], 75), (PROMPTS[1], 50)]
    assert (found["mean"]["mean"], found["range"]) == (62.5, [50, 75])
    assert found["mean"]["low"] < 62.5 < found["mean"]["high"]
    assert found["majority"] == {"color": "black", "accuracy": 50}
    black, white, blue = (COLORS.index(color) for color in ("black", "white", "blue"))
    assert found["confusion"][white][black] == 2
    assert (found["confusion"][blue][blue], found["confusion"][blue][black]) == (1, 1)
    assert sum(map(sum, found["confusion"])) == 8
    assert [found["recall"][place] for place in (black, white, blue)] == [100, 0, 50]
    assert found["recall"][0] is None
    assert found["interval"]["seed"] == document["seeds"][0] == 7
    accuracy = {"mean": 62.5, "std": 0.0, "per_seed": [62.5]}
    assert document["metrics"]["memory-colors"]["accuracy"] == accuracy
    assert document["adapter"] == "x"
    assert document["data"]["fingerprint"] == "0" * 64
    assert document["warnings"] == ["a note"]
    parameters = document["parameters"]
    assert parameters["trainable"] == parameters["total"] > 0
    assert len(document["backbone"]["fingerprint"]) == 64


def test_the_bias_of_prompts_is_reported_beside_the_accuracy() -> None:
    def biased(text: str) -> list[float]:
        own = next(one.color for one in OBJECTS if one.name in text.lower())
        return [a + b for a, b in zip(saying(own), saying("red", 5.0), strict=True)]

    run = run_colors(Scripted(biased), DATA, PROMPTS, model="m")
    found = run.document["colors"]
    assert (found["mean"]["mean"], found["mean_without_bias"]["mean"]) == (0, 100)
    assert [one["without_bias"] for one in found["prompts"]] == [100, 100]
    assert {row["answer"] for row in run.answers} == {"red"}
    assert [row["without_bias"] for row in run.answers] == [row["color"] for row in run.answers]


def test_shares_of_people_are_compared() -> None:
    def like_people(text: str) -> list[float]:
        return np.log(np.array(shares) + 1e-12).tolist()

    shares = tuple(np.arange(11) / 55)
    data = replace(DATA, name="coda", objects=tuple(replace(one, shares=shares) for one in OBJECTS))
    metrics = run_colors(Scripted(like_people), data, PROMPTS, model="m").document["metrics"]["coda"]
    assert metrics["jensen_shannon"]["mean"] == pytest.approx(0, abs=1e-6)
    assert metrics["spearman"]["mean"] == metrics["kendall"]["mean"] == pytest.approx(1)
    assert "kendall" not in run_colors(Scripted(like_people), DATA, PROMPTS, model="m").document["metrics"]


def test_what_is_written_and_compared(tmp_path: Path) -> None:
    model = run_colors(Scripted(first_prompt_knows), DATA, PROMPTS, model="m")
    model.write(tmp_path / "out")
    model.write(tmp_path / "out")  # again
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "answers.jsonl",
        "colors.html",
        "results.json",
    ]
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == model.document
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert rows == model.answers
    assert rows[4] | {"log_probabilities": 0} == {
        "prompt": 1,
        "text": "Coal has the color of",
        "object": "coal",
        "color": "black",
        "answer": "black",
        "without_bias": "red",  # the second prompt says the same of everything: the first of equals
        "log_probabilities": 0,
    }
    other = read_answers(tmp_path / "out" / "answers.jsonl")
    assert np.array_equal(other.right, model.right)
    knows = run_colors(Scripted(lambda text: saying("blue" if "sea" in text else "black")), DATA, PROMPTS, model="m")
    found = against(knows, other)
    assert found["mean"] == 12.5  # the sea, by one of two prompts
    assert 0 <= found["low"] <= 12.5 <= found["high"]
    fewer = run_colors(Scripted(first_prompt_knows), DATA, PROMPTS, model="m", limit=3)
    assert fewer.document["warnings"] == ["a note", "the first 3 of 4 objects only"]
    with pytest.raises(InputError, match="other objects than this run"):
        against(fewer, other)
    (tmp_path / "cut.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows[:-1]))
    with pytest.raises(InputError, match="about different objects; is it cut off"):
        read_answers(tmp_path / "cut.jsonl")
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(InputError, match="holds other files"):
        model.write(tmp_path / "out")


def test_what_cannot_be_run_is_said() -> None:
    scorer = Scripted(first_prompt_knows)
    with pytest.raises(InputError, match="no objects to ask about"):
        run_colors(scorer, replace(DATA, objects=()), PROMPTS, model="m")
    with pytest.raises(InputError, match=r"has no \{object\}"):
        run_colors(scorer, DATA, ("It is",), model="m")
    with pytest.raises(InputError, match="no numbers; its weights may be damaged"):
        run_colors(Scripted(lambda text: [float("nan")] * 11), DATA, PROMPTS, model="m")
    scorer.choices = ("red",)
    with pytest.raises(InputError, match="the scorer chooses among red; expected red, orange"):
        run_colors(scorer, DATA, PROMPTS, model="m")


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_models_are_loaded_from_folders(family: str, tmp_path: Path) -> None:
    folder = save_words_model(tmp_path / "model", family)
    scorer = plain_scorer(str(folder), device="cpu")
    assert scorer.kind == {"bert": "masked", "llama": "causal"}[family]
    assert not any(parameter.requires_grad for parameter in scorer.model.parameters())
    run = run_colors(scorer, DATA, PROMPTS, model=str(folder))
    assert run.document["parameters"]["trainable"] == 0
    assert run.document["settings"]["ending"] == ("." if family == "bert" else None)
    again = run_colors(plain_scorer(str(folder), device="cpu"), DATA, PROMPTS, model=str(folder))
    assert again.answers == run.answers


def test_a_model_without_the_head_that_names_words_is_refused(tmp_path: Path) -> None:
    import transformers as hf

    folder = save_words_model(tmp_path / "model", "bert")
    hf.BertModel.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(InputError, match=r"its weights lack 6 tensors of a masked language model.*noise"):
        plain_scorer(str(folder), device="cpu")
    with pytest.raises(InputError, match="--kind 'mask' is unknown"):
        plain_scorer(str(folder), kind="mask", device="cpu")
    with pytest.raises(InputError, match="cannot load"):
        plain_scorer(str(tmp_path / "none"), device="cpu")


@pytest.mark.pocket
@pytest.mark.usefixtures("pocket_home")
def test_a_real_model_knows_some_colours() -> None:
    scorer = plain_scorer("pocket-llama", device="cpu")
    assert scorer.one_token
    run = run_colors(scorer, DATA, PROMPTS[:1], model="pocket-llama")
    assert "blue" in [row["answer"] for row in run.answers if row["object"] == "the sea"]
    with pytest.raises(InputError, match="pocket-bert: its weights lack"):
        plain_scorer("pocket-bert", device="cpu")
