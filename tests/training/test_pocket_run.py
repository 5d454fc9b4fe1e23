"""A real language model learns from real pictures: captions, and questions about videos, by heart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import EMOJI, Cli
from crossgraft.training.answerer import Answerer
from crossgraft.training.recipe import recipe_from
from crossgraft.training.run import evaluate, train

PICTURES = EMOJI / "noto"
CAPTIONS = {
    "bird/baby_chick.webp": "a small bird that cannot fly yet",
    "fruit/apple.webp": "one red apple with a green leaf",
    "building/european_castle.webp": "the old castle of a king",
    "dessert/pancakes.webp": "pancakes with butter for breakfast",
}


def learn(folder: Path, task: dict[str, Any], method: str, **training: Any) -> dict[str, Any]:
    """Train on four examples, then answer them."""
    recipe = {
        "name": "by heart",
        "backbone": "pocket-t5",
        "visual": {"encoder": "pocket-lite"},
        "method": method,
        "tasks": {"only": task},
        "training": {"batch_size": 4, "weight_decay": 0.0, "validate": False, "checkpoint_steps": 1000} | training,
        "out": str(folder / "run"),
    }
    train(recipe_from(recipe, "test"), device="cpu")
    return evaluate(folder / "run", split="train", device="cpu")


@pytest.mark.pocket
def test_four_captions_are_learned_exactly(pocket_home: Path, tmp_path: Path, cli: Cli) -> None:
    rows = [{"image": name, "caption": text, "split": "train"} for name, text in CAPTIONS.items()]
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    task = {"task": "caption-json", "file": str(tmp_path / "captions.json"), "images": str(PICTURES), "num_beams": 2}
    found = learn(tmp_path, task, "adapter", max_steps=60, learning_rate=5e-3)
    answers = json.loads(Path(found["answers"]["only"]).read_text())
    assert {row["image"]: row["caption"] for row in answers} == CAPTIONS

    name, caption = next(iter(CAPTIONS.items()))
    assert cli("answer", tmp_path / "run", PICTURES / name, "--json").json["answer"] == caption
    with Image.open(PICTURES / name) as picture:
        assert Answerer.load(tmp_path / "run")([picture]) == caption  # as PIL has it
    assert "no such file" in cli("answer", tmp_path / "run", "none.png").error
    assert "did you mean 'only'" in cli("answer", tmp_path / "run", PICTURES / name, "--task", "onl").error


@pytest.mark.pocket
def test_a_question_about_four_videos_is_answered(pocket_home: Path, tmp_path: Path) -> None:
    lines = []
    for number, last in enumerate(CAPTIONS):
        frames = tmp_path / "frames" / f"clip_{number}"
        frames.mkdir(parents=True)
        for at, name in enumerate(["face/angry.webp", *[last] * 5]):
            (frames / f"{at:05d}.webp").write_bytes((PICTURES / name).read_bytes())
        choices = {f"a{row}": text for row, text in enumerate(["a bird", "an apple", "a castle", "cake", "nothing"])}
        line = {"qid": number, "q": "What comes last?", "answer_idx": number, "vid_name": frames.name, "ts": "0-1"}
        lines.append(json.dumps(line | choices))
    (tmp_path / "tvqa.jsonl").write_text("\n".join(lines) + "\n")
    splits = {"train": {"lines": str(tmp_path / "tvqa.jsonl")}}
    task = {"task": "tvqa", "frames": str(tmp_path / "frames"), "splits": splits}
    found = learn(tmp_path, task, "full", max_steps=40, learning_rate=1e-3)
    assert found["metrics"]["only"]["accuracy"] == 100

    answerer = Answerer.load(tmp_path / "run", device="cpu")
    example = answerer.tasks["only"].load("train")[2]
    assert answerer(example.images, example.text) == "2"
