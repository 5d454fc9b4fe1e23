"""Tables of results on a terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from crossgraft.reporting.results import summary
from crossgraft.reporting.table import few_shot_tables, setting


def record(method: str, shots: Any, **accuracy: list[float]) -> dict[str, Any]:
    return {
        "method": method,
        "shots": shots,
        "metrics": {test: {"accuracy": summary(values)} for test, values in accuracy.items()},
        "parameters": {"trainable": 12345, "total": 10**6, "percent": 1.2345},
        "seconds": {"fit": summary([0.5]), "tune": summary([0.25])},
        "microseconds_per_query": summary([42.4]) if accuracy else None,
    }


def printed(*records: dict[str, Any], name: str = "pocket-lite", colour: bool = False) -> str:
    document = {"runs": list(records), "backbone": {"name": name}, "protocol": "min4", "seeds": [1, 2]}
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=colour, color_system="standard" if colour else None)
    console.print(setting(document), markup=False)
    for table in few_shot_tables(document):
        console.print(table)
    return out.getvalue()


def test_one_number_of_shots_has_test_sets_across() -> None:
    text = printed(
        record("zero-shot", 4, test=[50.0, 50.0], fluent=[40.0, 41.0]),
        record("xmadapter", 4, test=[70.0, 72.0], fluent=[39.0, 40.0]),
    )
    lines = text.splitlines()
    assert "pocket-lite, protocol min4, seeds 1, 2 accuracy in %, 4 shots method test" in " ".join(text.split())
    assert any(line.split() == ["method", "test", "fluent", "shift"] for line in lines)
    assert any(line.split() == ["xmadapter", "71.0", "±1.4", "39.5", "±0.7", "-31.5"] for line in lines)
    assert any(line.split() == ["xmadapter", "0.500", "0.250", "42", "12,345", "1.23"] for line in lines)
    assert sum(line.startswith("cost at 4 shots") for line in lines) == 1


def test_several_numbers_of_shots_have_a_table_a_test_set() -> None:
    shots = [1, 2, 4, 8, "all"]
    methods = ["zero-shot", "linear-probe", "nearest-mean", "tip-adapter-f", "xmadapter"]
    text = printed(*(record(m, k, test=[50.0, 61.0], twemoji=[99.0, 100.0]) for k in shots for m in methods))
    lines = text.splitlines()
    assert sum("accuracy in % on test, by shots" in line for line in lines) == 1
    assert sum("accuracy in % on twemoji, by shots" in line for line in lines) == 1
    assert sum(line.split() == ["method", "1", "2", "4", "8", "all"] for line in lines) == 2
    assert sum(line.split() == ["method", "test", "twemoji", "shift"] for line in lines) == 1
    assert any(line.split() == ["xmadapter", "55.5", "±7.8", "99.5", "±0.7", "+44.0"] for line in lines)
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert "cost at all photos" in text


def test_the_best_of_a_column_is_bold() -> None:
    text = printed(record("a", 1, test=[50.0]), record("b", 1, test=[60.0]), record("c", 1, test=[60.0]), colour=True)
    bold = [line for line in text.splitlines() if "\x1b[1m60.0" in line]
    assert len(bold) == 2
    assert "\x1b[1m50.0" not in text
    assert "±" not in text  # one seed has no spread


def test_without_tests_there_is_the_cost_alone() -> None:
    lines = printed(record("gda", "all")).splitlines()
    assert any(line.startswith("cost at all photos") for line in lines)
    assert any(line.split() == ["gda", "0.500", "0.250", "-", "12,345", "1.23"] for line in lines)


def test_one_shot_is_singular_and_names_are_no_markup() -> None:
    text = printed(record("gda", 1, **{"[/x] [bold]": [1.0]}), name="models/[red]")
    assert "models/[red], protocol min4, seeds 1, 2 accuracy in %, 1 shot" in " ".join(text.split())
    assert "[/x] [bold]" in text
