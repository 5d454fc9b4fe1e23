"""A placement search as one page: how the bandit's preferences grew, what each placement scored, what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossgraft.reporting.charts import Line, Point, both_widths, line_chart
from crossgraft.reporting.markup import Markup, join, tag
from crossgraft.reporting.report import page

STYLES = 6  # lines that are told apart by colour; the others are muted


def search_page(document: Mapping[str, Any]) -> str:
    """The page of what `training.placement.search` found, as HTML that needs nothing else."""
    names, bandit, every = document["placements"], document["bandit"], document["exhaustive"]
    agree = "agree" if document["agree"] else "do not agree"
    body = join(
        [
            tag("h1", f"Placement of {document['method']}: {document['chosen']}"),
            tag(
                "p",
                f"The bandit chooses {bandit['choice']}, scoring all of them {every['choice']}: they {agree}. "
                f"{document['steps']} steps; {document['protocol']}.",
            ),
            tag("h2", "The bandit's preferences"),
            tag("figure", _curve(document)),
            tag("h2", "Scores of all placements"),
            tag("figure", _scores(names, every["scores"])),
            tag("h2", "Numbers"),
            _table(names, bandit["chances"], every["scores"]),
        ]
    )
    return page(f"placement of {document['method']}", tag("article", body, class_="group"))


def _curve(document: Mapping[str, Any]) -> Markup:
    """Chance of each placement to be drawn, over steps."""
    names, curve = document["placements"], document["bandit"]["curve"]
    final = document["bandit"]["chances"]
    order = sorted(names, key=final.__getitem__, reverse=True)
    lines = []
    for row, name in enumerate(names):
        points = tuple(
            Point(at["step"], 100 * at["chances"][row], f"step {at['step']}: {at['chances'][row]:.1%}") for at in curve
        )
        rank = order.index(name)
        lines.append(Line(name, points, rank if rank < STYLES else None))
    steps = [at["step"] for at in curve]
    ticks = [(step, str(step)) for step in dict.fromkeys((steps[0], steps[len(steps) // 2], steps[-1]))]
    return both_widths(
        lambda width: line_chart(
            lines, ticks, title="Chance of each placement over steps", x_title="steps", width=width, key="curve"
        )
    )


def _scores(names: list[str], scores: Mapping[str, float]) -> Markup:
    points = tuple(Point(row, scores[name], f"{name}: {scores[name]:.1f}") for row, name in enumerate(names))
    ticks = [(row, name.rsplit(" ", 1)[-1]) for row, name in enumerate(names)]
    return both_widths(
        lambda width: line_chart(
            [Line("held-out score", points, 0)],
            ticks,
            title="Held-out score of each placement",
            x_title="placement",
            width=width,
            key="scores",
        )
    )


def _table(names: list[str], chances: Mapping[str, float], scores: Mapping[str, float]) -> Markup:
    cells = [(name, f"{chances[name]:.1%}", f"{scores[name]:.2f}") for name in names]
    rows = [tag("tr", *(tag("td", cell) for cell in row)) for row in cells]
    head = tag("tr", tag("th", "placement"), tag("th", "chance"), tag("th", "held-out score"))
    return tag("table", tag("thead", head), tag("tbody", *rows))
