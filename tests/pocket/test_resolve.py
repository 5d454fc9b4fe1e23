"""`model_folder`: a pocket name becomes a folder, anything else stays what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossgraft.errors import InputError
from crossgraft.pocket.resolve import model_folder


@pytest.mark.parametrize("name", ["google/flan-t5-base", "t5-small", "./nowhere", "", "bert-base-uncased"])
def test_what_is_no_pocket_name_comes_back(name: str) -> None:
    assert model_folder(name) == name


def test_a_folder_may_be_called_nearly_like_a_pocket_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pocket-t6").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_folder("pocket-t6") == "pocket-t6"


@pytest.mark.parametrize(("name", "meant"), [("pocket_t5", "pocket-t5"), ("pocketbert", "pocket-bert")])
def test_a_misspelt_name_is_met_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"no model {name!r}: did you mean {meant}"):
        model_folder(name)


def test_a_pocket_model_that_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSGRAFT_HOME", str(tmp_path))
    with pytest.raises(InputError, match="run `crossgraft models pull pocket-t5`"):
        model_folder("pocket-t5")


@pytest.mark.pocket
def test_a_pulled_one_is_its_folder(pocket_home: Path) -> None:
    assert model_folder("pocket-bert") == str(pocket_home / "models" / "pocket-bert")
