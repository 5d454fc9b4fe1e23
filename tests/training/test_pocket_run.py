"""A real language model learns from real pictures: captions, and questions about videos, by heart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import EMOJI, Cli
from crossgraft.adapt import AdaptedModel
from crossgraft.methods.attach import attach
from crossgraft.methods.dvp import DVP
from crossgraft.pocket.resolve import model_folder
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


@pytest.mark.pocket
def test_a_bert_names_what_four_pictures_show(pocket_home: Path, tmp_path: Path, cli: Cli) -> None:
    rows = [f"{name},what is it ?,{Path(name).stem},{split}" for name in CAPTIONS for split in ("train", "test")]
    (tmp_path / "questions.csv").write_text("\n".join(["image,question,answer,split", *rows]))
    task = {"task": "vqa-csv", "file": str(tmp_path / "questions.csv"), "images": str(PICTURES)}
    recipe = {
        "name": "names",
        "model": "classifier",
        "backbone": "pocket-bert",
        "visual": {"encoder": "pocket-lite", "side": 2},
        "method": {"name": "dvp"},
        "tasks": {"names": task},
        "training": {"max_steps": 40, "batch_size": 4, "learning_rate": 5e-3, "validate": False},
        "out": str(tmp_path / "run"),
    }
    document = train(recipe_from(recipe, "test"), device="cpu")
    assert document["metrics"]["names/test"]["accuracy"]["mean"] == 100
    assert document["frozen_layers"] == {"names": 3}  # the prompt enters in the middle; nothing below is trained
    name = next(iter(CAPTIONS))
    asked = ("answer", tmp_path / "run", PICTURES / name, "--text", "what is it ?", "--json")
    assert cli(*asked).json["answer"] == Path(name).stem


@pytest.mark.pocket
@torch.no_grad()
def test_a_llama_with_a_prompt_writes_with_a_cache_what_it_writes_without(pocket_home: Path) -> None:
    folder = model_folder("pocket-llama")
    language = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    text = tokenizer(["The capital of France is", "Red"], padding=True, return_tensors="pt")
    options = {"max_new_tokens": 5, "do_sample": False}
    plain = language.generate(**text, **options)
    model = AdaptedModel(language)
    torch.manual_seed(0)
    attach(model, "sight", DVP(layer=15, tokens=2, feature_width=8))
    assert torch.equal(model.generate(**text, **options), plain)
    model.set_memory(visual=20 * torch.randn(2, 4, 8))
    shown = model.generate(**text, **options)
    assert not torch.equal(shown, plain)
    assert torch.equal(model.generate(**text, **options, use_cache=False), shown)
