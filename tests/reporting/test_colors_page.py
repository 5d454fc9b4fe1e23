"""The page of a colour run: all figures are on it, it needs nothing else, and odd names stay text."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from test_report import Page

from crossgraft.reporting.colors_page import colors_page, confusion_chart
from crossgraft.tasks.colors import COLORS

ODD = "<b>&\"'{object}"


def document(**changes: Any) -> dict[str, Any]:
    """Of a run over six objects of two colours by two prompts."""
    counts = np.zeros((11, 11), dtype=int)
    counts[0, :3], counts[3, 3] = (4, 3, 1), 4
    colors = {
        "prompts": [
            {"prompt": "The color of {object} is", "accuracy": 66.7, "without_bias": 83.3},
            {"prompt": ODD, "accuracy": 33.3, "without_bias": 16.7},
        ],
        "mean": {"mean": 50.0, "low": 31.2, "high": 68.8},
        "range": [33.3, 66.7],
        "mean_without_bias": {"mean": 50.1, "low": 22.2, "high": 77.7},
        "range_without_bias": [16.7, 83.3],
        "interval": {"level": 0.95, "resamples": 10000, "over": "objects", "seed": 3},
        "names": list(COLORS),
        "objects": [4, 0, 0, 2, *[0] * 7],
        "confusion": counts.tolist(),
        "recall": [50.0, None, None, 100.0, *[None] * 7],
        "majority": {"color": "red", "accuracy": 66.6},
    }
    summary = {"mean": 0.25, "std": 0.0, "per_seed": [0.25]}
    values: dict[str, Any] = {
        "method": "zero-shot",
        "protocol": "zero-shot: no label is used",
        "settings": {
            "kind": "causal",
            "words": "one token each",
            "spellings": {"grey": ["grey", "gray"]},
            "prompts": ["a", "b"],
        },
        "backbone": {
            "name": "/home/someone/models/tiny",
            "fingerprint": "ab" * 32,
            "device": "cpu",
            "dtype": "float32",
        },
        "data": {"name": "coda", "fingerprint": "cd" * 32, "objects": 6, "classes": 11},
        "warnings": ["six objects only"],
        "metrics": {"coda": {"accuracy": summary, "jensen_shannon": summary, "spearman": summary, "kendall": summary}},
        "colors": colors,
        "versions": {"crossgraft": "1"},
    }
    return values | changes


def test_the_figures_are_on_the_page() -> None:
    text = colors_page(document())
    page = Page(text)
    for said in (
        "tiny on coda",
        "50.0 %",
        "31.2 to 68.8, 95 % over objects",
        "33.3 to 66.7 %",
        "red, the most frequent colour",
        "So few objects do not tell it from always saying red",
        "22.2 to 77.7",
        "six objects only",
        "Jensen-Shannon divergence",
        "grey or gray",
        "10,000 resamples of the objects, seed 3",
        "red taken for orange: 37.5 % (3 of 8)",
    ):
        assert said in page.text, said
    assert ODD in page.text  # as text
    assert "someone" not in text
    assert not re.findall(r"(?:src|href)=\"http", text)


def test_what_is_not_known_is_left_out() -> None:
    plain = document(
        warnings=[], metrics={"coda": {"accuracy": {"mean": 50.0}}}, control={"answers": "runs/blind/answers.jsonl",
        "mean": 3.0, "low": -1.0, "high": 7.0}
    )  # fmt: skip
    page = Page(colors_page(plain))
    assert "Jensen" not in page.text
    assert "Minus the control blind: +3.0 points (-1.0 to +7.0)" in page.text
    assert Page(colors_page(document(warnings=[]))).all("aside") == []


def test_the_verdict_follows_the_interval() -> None:
    for low, high, said in ((70, 80, "more often"), (10, 20, "less often"), (60, 70, "do not tell it")):
        made = document()
        made["colors"]["mean"] = {"mean": (low + high) / 2, "low": low, "high": high}
        assert said in Page(colors_page(made)).text


def test_the_plot_has_a_row_for_each_colour_that_objects_have() -> None:
    found = document()["colors"]
    for width in (760, 350):
        chart = Page(str(confusion_chart(found, width=width)))
        titles = re.findall(r"([a-z]+) taken for ([a-z]+)", chart.text)
        assert titles == [(true, name) for true in ("red", "green") for name in COLORS]
        assert chart.text.count("answered ") == 11
        assert chart.all("svg")[0]["viewbox"].startswith(f"0 0 {width} ")  # type: ignore[union-attr]


def test_nothing_right_is_a_page_too() -> None:
    made = document()
    for one in made["colors"]["prompts"]:
        one["accuracy"] = one["without_bias"] = 0.0
    assert "tiny on coda" in Page(colors_page(made)).text
