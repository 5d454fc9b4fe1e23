"""Where crossgraft keeps things."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossgraft.home import home


def test_the_variable_decides_and_may_start_with_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CROSSGRAFT_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CROSSGRAFT_HOME", "~/there")
    assert home() == tmp_path / "there"


@pytest.mark.parametrize("value", [None, ""])
def test_without_it_the_users_cache_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if value is None:
        monkeypatch.delenv("CROSSGRAFT_HOME")
    else:
        monkeypatch.setenv("CROSSGRAFT_HOME", value)
    assert home() == tmp_path / ".cache" / "crossgraft"
