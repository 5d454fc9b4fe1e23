"""Every recipe in docs/tasks.md is one that its task takes, and every task is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from task_files import make

from crossgraft.errors import InputError
from crossgraft.tasks import TASKS

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"


def recipes() -> dict[str, dict[str, Any]]:
    """Task -> its fields on the page."""
    found: dict[str, dict[str, Any]] = {}
    for block in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        found |= yaml.safe_load(block)
    return found


def test_recipes_of_the_page() -> None:
    for name, fields in recipes().items():
        assert make(name, **fields).name == name
    # Other tests add tasks of their own.
    assert set(recipes()) == {name for name, task in TASKS.items() if task.__module__.startswith("crossgraft.")}


@pytest.mark.parametrize("name", sorted(recipes()))
def test_question_length_is_checked_in_every_task(name: str) -> None:
    fields = recipes()[name]
    if "question_length" not in TASKS[name].__dataclass_fields__:
        assert name in ("coco-captions", "caption-json", "caption-csv", "cloze")
        return
    for length in (1, 20, None):
        assert make(name, **fields, question_length=length).question_length == length
    for length in (-3, 0):
        with pytest.raises(InputError, match=f"whole number of at least 1, or null, found {length}"):
            make(name, **fields, question_length=length)
    for length in (2.5, True, "20"):
        with pytest.raises(InputError, match="question_length"):
            make(name, **fields, question_length=length)
