"""What tests of tasks share: files in the official layouts with content of our own, tiny images, tasks from recipes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from crossgraft.config import from_mapping
from crossgraft.tasks import Task, get_task


def make(name: str, **fields: Any) -> Task:
    """A task as a recipe makes it."""
    return from_mapping(get_task(name), fields, "recipe.yaml: task")


def pictures(folder: Path, *names: str, size: tuple[int, int] = (4, 4)) -> Path:
    """Write tiny images by name (which may have folders in front)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (10, 20, 30)).save(path)
    return folder


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
