"""Packages of the extras: asked for before any work is done."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from crossgraft.errors import CrossgraftError
from crossgraft.tasks import Task
from crossgraft.tasks.caption_task import CaptionTask


def need(package: str, extra: str, what: str) -> None:
    """Raises:
    CrossgraftError: the package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise CrossgraftError(f"{what} needs {package}, which is not installed: pip install 'crossgraft[{extra}]'")


def need_metrics(tasks: Iterable[Task]) -> None:
    """Raises:
    CrossgraftError: what scores captions is needed and not installed."""
    if any(isinstance(task, CaptionTask) for task in tasks):
        need("pycocoevalcap", "metrics", "scoring captions")
