"""Every recipe in docs/tasks.md is one that its task takes, and every task is there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from task_files import make

from crossgraft.tasks import TASKS

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"


def test_recipes_of_the_page() -> None:
    shown: set[str] = set()
    for block in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for name, fields in yaml.safe_load(block).items():
            assert make(name, **fields).name == name
            shown.add(name)
    # Other tests add tasks of their own.
    assert shown == {name for name, task in TASKS.items() if task.__module__.startswith("crossgraft.")}
