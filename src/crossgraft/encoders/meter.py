"""Progress on stderr for work that takes over two seconds: bar, rate, time left."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

PATIENCE = 2.0  # seconds of work that need no bar


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} {self._unit}/s")


class Meter:
    """A progress bar that appears once the work is likely to take over `PATIENCE` seconds; a context manager.

    Args:
        enabled: whether there is ever a bar.
        unit: what is counted.
    """

    def __init__(self, enabled: bool, unit: str = "images") -> None:
        self.enabled, self.unit = enabled, unit
        self._bar: Progress | None = None

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def start(self, label: str, total: int, done: int = 0) -> None:
        """Begin a stage of `total` things, of which some are done; the stage before is over."""
        self._stop()
        self._label, self._total, self._done, self._first = label, total, done, done
        self._started = time.monotonic()

    def advance(self, count: int) -> None:
        """Say that `count` more are done (0: still at work)."""
        self._done += count
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)
        elif self.enabled:
            elapsed = time.monotonic() - self._started
            done = self._done - self._first
            expected = elapsed * (self._total - self._first) / done if done else elapsed
            # the first batch is slow (warming up), so one early glance says nothing
            if expected > PATIENCE and elapsed > PATIENCE / 4:
                self._show()

    def _show(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(self.unit),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._bar.start()
        self._bar.add_task(self._label, total=self._total, completed=self._done)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
