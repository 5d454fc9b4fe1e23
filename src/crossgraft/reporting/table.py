"""Results as rich tables that fit a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table


def few_shot_tables(document: dict[str, Any]) -> list[Table]:
    """Accuracy, a row a method: for several numbers of shots one table a test set, shots across; then, at the largest,
    test sets across, with what the shift from the first to the others costs; then a table of costs."""
    runs = document["runs"]
    shots = list(dict.fromkeys(run["shots"] for run in runs))
    tests = list(runs[0]["metrics"])
    last = [run for run in runs if run["shots"] == shots[-1]]
    tables = []
    if len(shots) > 1:
        tables = [
            _accuracy_table(f"accuracy in % on {escape(test)}, by shots", runs, [(str(k), k, test) for k in shots])
            for test in tests
        ]
    if len(tests) > 1 or (tests and len(shots) == 1):
        title = f"accuracy in %, {_shots(shots[-1])}"
        tables.append(_accuracy_table(title, last, [(test, shots[-1], test) for test in tests], shift=len(tests) > 1))
    return [*tables, _cost_table(f"cost at {_shots(shots[-1])}", last)]


def setting(document: dict[str, Any]) -> str:
    """One line over the tables: what they hold for."""
    seeds = ", ".join(map(str, document["seeds"]))
    return f"{document['backbone']['name']}, protocol {document['protocol']}, seeds {seeds}"


def _table(title: str, headings: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    for heading in headings:
        table.add_column(escape(heading), justify="right", no_wrap=True)
    return table


def _accuracy_table(
    title: str, runs: list[dict[str, Any]], columns: list[tuple[str, Any, str]], *, shift: bool = False
) -> Table:
    """`columns`: heading, shots, test set. The best of a column is bold. `shift`: mean of the others less the first."""
    table = _table(title, [heading for heading, _, _ in columns] + ["shift"] * shift)
    cell = {
        (run["method"], run["shots"], test): run["metrics"][test]["accuracy"] for run in runs for test in run["metrics"]
    }
    methods = list(dict.fromkeys(run["method"] for run in runs))
    best = [max(cell[method, k, test]["mean"] for method in methods) for _, k, test in columns]
    for method in methods:
        texts = []
        for (_, k, test), top in zip(columns, best, strict=True):
            accuracy = cell[method, k, test]
            spread = f" ±{accuracy['std']:.1f}" if len(accuracy["per_seed"]) > 1 else ""
            text = f"{accuracy['mean']:.1f}{spread}"
            texts.append(f"[bold]{text}[/bold]" if accuracy["mean"] == top else text)
        if shift:
            first, *others = (cell[method, k, test]["mean"] for _, k, test in columns)
            texts.append(f"{sum(others) / len(others) - first:+.1f}")
        table.add_row(method, *texts)
    return table


def _cost_table(title: str, runs: list[dict[str, Any]]) -> Table:
    table = _table(title, ["fit s", "tune s", "µs a query", "trained", "% of all"])
    for run in runs:
        query, parameters = run["microseconds_per_query"], run["parameters"]
        table.add_row(
            run["method"],
            f"{run['seconds']['fit']['mean']:.3f}",
            f"{run['seconds']['tune']['mean']:.3f}",
            "-" if query is None else f"{query['mean']:.0f}",
            f"{parameters['trainable']:,}",
            f"{parameters['percent']:.2f}",
        )
    return table


def _shots(shots: Any) -> str:
    return "all photos" if shots == "all" else f"{shots} shot{'s' if shots > 1 else ''}"
