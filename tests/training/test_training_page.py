"""The Python in docs/training.md runs as it stands there, one example after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from tiny_run import COLOURS, recipe, save_language_model

from crossgraft.training.recipe import Recipe, load_recipe
from crossgraft.training.settings import Head, Knowledge, Search, Training, Visual

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "training.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_all_examples(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    rows = ["image,question,answer"]
    for number in range(20):
        colour = COLOURS[number % len(COLOURS)]
        Image.new("RGB", (40, 40), colour if colour != "grey" else (99, 99, 99 + number)).save(f"images/{number}.png")
        rows.append(f"{number}.png,what colour is it ?,{colour}")
    Image.new("RGB", (40, 40), "red").save("new.jpg")
    Path("questions.csv").write_text("\n".join(rows) + "\n")
    values = recipe(save_language_model(tmp_path / "model"), tmp_path, tmp_path / "run")
    del values["tasks"]["caption"]
    values["visual"] = {"encoder": str(tiny_clip), "side": 2, "store": str(tmp_path / "store")}
    Path("recipe.yaml").write_text(yaml.safe_dump(values))
    names: dict[str, Any] = {}
    for example in blocks("python"):
        exec(example, names)
    printed = capsys.readouterr().out
    assert "'vqa': {'accuracy'" in printed
    assert Path("seeing", "config.json").is_file()


def test_the_table_of_keys_is_whole(tmp_path: Path) -> None:
    table = "".join(line for line in PAGE.read_text(encoding="utf-8").splitlines(keepends=True) if line.startswith("|"))
    below = {"head.": Head, "knowledge.": Knowledge, "search.": Search, "visual.": Visual, "training.": Training}
    for prefix, cls in {"": Recipe, **below}.items():
        for name in cls.__dataclass_fields__:
            first = re.search(rf"`(?:{re.escape(prefix)})?{name}`", table)
            assert first or f"{name}." in below, name


def test_the_recipe_is_sound(tmp_path: Path) -> None:
    (example,) = blocks("yaml")
    (tmp_path / "recipe.yaml").write_text(example)
    assert load_recipe(tmp_path / "recipe.yaml").name == "own-questions"
