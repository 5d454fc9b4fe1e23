"""A real language model learns from real pictures: captions and questions about videos, by heart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import EMOJI

from crossgraft.training.recipe import recipe_from
from crossgraft.training.run import evaluate, train

CAPTIONS = {
    "bird/baby_chick.webp": "a small bird that cannot fly yet",
    "fruit/apple.webp": "one red apple with a green leaf",
    "building/european_castle.webp": "the old castle of a king",
    "dessert/pancakes.webp": "pancakes with butter for breakfast",
}


@pytest.mark.pocket
def test_four_captions_and_four_videos_are_learned_exactly(pocket_home: Path, tmp_path: Path) -> None:
    pictures = [path for path in sorted((EMOJI / "noto").rglob("*.webp"))]
    names = list(CAPTIONS)
    (tmp_path / "captions.json").write_text(
        json.dumps([{"image": name, "caption": text, "split": "train"} for name, text in CAPTIONS.items()])
    )
    questions = []
    for number, name in enumerate(names):
        frames = tmp_path / "frames" / f"clip_{number}"
        frames.mkdir(parents=True)
        for at, path in enumerate([pictures[0], *[EMOJI / "noto" / name] * 15]):
            (frames / f"{at:05d}.webp").write_bytes(path.read_bytes())
        choices = {f"a{row}": text for row, text in enumerate(["a bird", "an apple", "a castle", "cake", "nothing"])}
        line = {"qid": number, "q": "What comes last?", "answer_idx": number, "vid_name": f"clip_{number}", "ts": "0-1"}
        questions.append(json.dumps(line | choices))
    (tmp_path / "tvqa.jsonl").write_text("\n".join(questions) + "\n")
    recipe = {
        "name": "by heart",
        "backbone": "pocket-t5",
        "visual": {"encoder": "pocket-lite"},
        "method": {"name": "adapter"},
        "tasks": {
            "caption": {
                "task": "caption-json",
                "file": str(tmp_path / "captions.json"),
                "images": str(EMOJI / "noto"),
                "num_beams": 2,
            },
            "tvqa": {
                "task": "tvqa",
                "frames": str(tmp_path / "frames"),
                "splits": {"train": {"lines": str(tmp_path / "tvqa.jsonl")}},
            },
        },
        "training": {
            "max_steps": 130,
            "batch_size": 4,
            "learning_rate": 5e-3,
            "weight_decay": 0.0,
            "validate": False,
            "log_steps": 10,
        },
        "out": str(tmp_path / "run"),
    }
    train(recipe_from(recipe, "test"), device="cpu")
    found = evaluate(tmp_path / "run", split="train", device="cpu")
    answers = json.loads(Path(found["answers"]["caption"]).read_text())
    assert {row["image"]: row["caption"] for row in answers} == CAPTIONS
    assert found["metrics"]["tvqa"]["accuracy"] == 100
