"""The Python in docs/adapt.md runs as it stands there, one example after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossgraft.adapt import LAYOUTS
from crossgraft.methods import METHODS

PAGE = Path(__file__).parent.parent.parent / "docs" / "adapt.md"


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """They are everyone's."""
    before = [(registry, dict(registry)) for registry in (LAYOUTS, METHODS)]
    yield
    for registry, known in before:
        registry.clear()
        registry.update(known)  # type: ignore[arg-type]


def test_all_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for example in examples:
        exec(example, names)
    assert names["model"].active == ("mine",)
    assert "decoder.0.self_attention.o" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "adapters").iterdir()} == {"vqa", "mine"}
