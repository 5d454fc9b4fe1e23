"""Which runs stand in one chart, and what their lines are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossgraft.reporting.run_folder import Record, RunFolder, TestResult

COLOURS = 6
_ALWAYS = ("xmadapter", "auto")
"""The methods that the others are compared with: they have a colour wherever they rank."""


@dataclass(frozen=True)
class Row:
    """A record under the name of its line."""

    name: str
    run: RunFolder
    record: Record


@dataclass(frozen=True)
class Group:
    """Runs on the same images with the same encoder under the same protocol.

    `shots` and `tests` in the order in which they are shown; `styles`: line -> number of a colour, None for muted.
    """

    runs: tuple[RunFolder, ...]
    rows: tuple[Row, ...]
    shots: tuple[int | str, ...]
    tests: tuple[str, ...]
    styles: dict[str, int | None]

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(row.name for row in self.rows))

    @property
    def many_seeds(self) -> bool:
        return any(len(run.seeds) > 1 for run in self.runs)

    def line(self, name: str) -> list[Row]:
        """The records of a line, by number of shots."""
        return sorted((row for row in self.rows if row.name == name), key=lambda row: _order(row.record.shots))

    def last(self, test: str) -> list[tuple[Row, TestResult]]:
        """The records at the largest number of shots with their scores on a test set, the most accurate first."""
        rows = [row for row in self.rows if row.record.shots == self.shots[-1] and test in row.record.tests]
        return sorted(((row, row.record.tests[test]) for row in rows), key=lambda pair: -pair[1].accuracy.mean)


def group_runs(runs: Sequence[RunFolder]) -> list[Group]:
    """Runs that may be compared line by line, together; in the order in which they were given."""
    found: dict[tuple[object, ...], list[RunFolder]] = {}
    for run in runs:
        found.setdefault(run.identity, []).append(run)
    return [_group(tuple(members)) for members in found.values()]


def _group(runs: tuple[RunFolder, ...]) -> Group:
    labels = _labels([run.path for run in runs])
    rows = []
    for run, label in zip(runs, labels, strict=True):
        for record in run.records:
            apart = any(_clash(run, other, record.method) for other in runs if other is not run)
            rows.append(Row(f"{record.method} ({label})" if apart else record.method, run, record))
    shots = tuple(sorted({row.record.shots for row in rows}, key=_order))
    tests = tuple(dict.fromkeys(name for row in rows for name in row.record.tests))
    group = Group(runs, tuple(rows), shots, tests, {})
    group.styles.update(_styles(group))
    return group


def _clash(a: RunFolder, b: RunFolder, method: str) -> bool:
    """Whether the method's records in both runs cannot be one line: same shots, or other seeds, settings."""
    shots_a, shots_b = ({r.shots for r in run.records if r.method == method} for run in (a, b))
    other = a.seeds != b.seeds or a.document.get("settings") != b.document.get("settings")
    return bool(shots_b) and (other or bool(shots_a & shots_b))


def _labels(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart."""
    whole = [path.absolute().parts for path in paths]
    length = 1
    while length < max(map(len, whole)) and len({parts[-length:] for parts in whole}) < len(set(whole)):
        length += 1
    return ["/".join(parts[-length:]).lstrip("/") for parts in whole]


def _styles(group: Group) -> dict[str, int | None]:
    """Colours for the most accurate lines, and for those that are always compared."""
    ranked = [row.name for test in group.tests[:1] for row, _ in group.last(test)]
    ranked += [name for name in group.names if name not in ranked]
    always = [name for name in ranked if name.split(" ")[0] in _ALWAYS][:COLOURS]
    coloured = always + [name for name in ranked if name not in always][: COLOURS - len(always)]
    return {name: coloured.index(name) if name in coloured else None for name in ranked}


def _order(shots: int | str) -> float:
    return float("inf") if shots == "all" else float(shots)


def shots_text(shots: int | str) -> str:
    """4 -> "4 shots", "all" -> "all photos"."""
    return "all photos" if shots == "all" else f"{shots} shot" if shots == 1 else f"{shots} shots"
