"""The Python in README and docs runs as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from crossgraft.training.recipe import recipe_from

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the clone to relative paths, and keeps what the examples write out of it."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.pocket
@pytest.mark.usefixtures("pocket_home")
def test_readme(workplace: Path) -> None:
    estimators, predictor = blocks("README.md")
    exec(estimators, {})
    options = ["--model", "pocket-lite", "--method", "auto", "--shots", "1", "--seeds", "1", "--out", "runs/demo"]
    command = [sys.executable, "-m", "crossgraft.cli.main", "fewshot", "demo/emoji/noto.json", *options]
    subprocess.run(command, check=True, capture_output=True)
    found: dict[str, object] = {}
    exec(predictor, found)
    assert found["prediction"].label in found["predictor"].classifier.classes_  # type: ignore[attr-defined]


@pytest.mark.pocket
@pytest.mark.usefixtures("pocket_home", "workplace")
def test_fewshot_page(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("docs/fewshot.md")
    exec(example, {})


@pytest.mark.pocket
@pytest.mark.usefixtures("pocket_home")
def test_features_page(workplace: Path) -> None:
    encoder, store = blocks("docs/features.md")
    photos = [ROOT / "demo" / "emoji" / "noto" / name for name in ("mammal/dog2.webp", "bird/owl.webp")]
    (workplace / "cat.jpg").write_bytes(photos[0].read_bytes())
    found: dict[str, object] = {}
    exec(encoder, found)
    from crossgraft.encoders.extract import extract

    extract(photos, found["encoder"], workplace / "features", progress=False)  # type: ignore[arg-type]
    found = {"paths": photos}
    exec(store, found)
    assert found["X"].shape == (2, 1280)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("workplace")
def test_uses_page() -> None:
    rng = np.random.default_rng(0)
    centres, y = rng.normal(size=(4, 30)), np.repeat(np.arange(4), 6)
    X, Q = (centres[y] + 0.8 * rng.normal(size=(24, 30)) for _ in range(2))
    (example,) = blocks("docs/uses.md")
    found: dict[str, Any] = {"X": X, "y": y, "Q": Q, "text": centres[:, :10], "classes": [0, 1, 2, 3]}
    exec(example, found)
    assert found["sure"].any()


def test_xmadapter_page(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("docs/xmadapter.md")
    exec(example, {})
    assert "image cache" in capsys.readouterr().out


def test_dvp_page(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("docs/dvp.md")
    exec(example, {})
    assert "[2, " in capsys.readouterr().out


def test_xadapter_page(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("docs/xadapter.md")
    exec(example, {})
    assert "[2, " in capsys.readouterr().out
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/xadapter.md").read_text(), re.MULTILINE | re.DOTALL)
    assert recipe_from(yaml.safe_load(recipe), "docs/xadapter.md").methods()["xadapter"].memories == (
        "retrieved",
        "text",
    )


@pytest.mark.pocket
@pytest.mark.usefixtures("pocket_home")
def test_colors_page(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "objects.csv").write_text("object,color\nbanana,yellow\ncoal,black\nblood,red\n")
    found: dict[str, Any] = {}
    for example in blocks("docs/colors.md"):
        exec(example, found)
    assert (workplace / "runs" / "colors" / "colors.html").is_file()
    assert found["difference"]["mean"] == 0
    assert found["scores"].shape == (1, 2)
