"""The parts of a report that come from results.json: accuracy, domain shift, every number, trust, cost."""

from __future__ import annotations

import math
from collections.abc import Callable

from crossgraft.reporting.bars import Bar, BarRow, bar_chart, dot_chart
from crossgraft.reporting.charts import Line, Point, both_widths, line_chart, reliability_chart
from crossgraft.reporting.groups import Group, Row, shots_text
from crossgraft.reporting.markup import Markup, join, tag
from crossgraft.reporting.run_folder import Record, Score, TestResult
from crossgraft.reporting.scales import half_band

OLDER = "was not recorded: these results are of an older crossgraft. Run it again to have it here."


def section(key: str, title: str, *children: object) -> Markup:
    return tag("section", tag("h3", title), *children, id=key)


def note(*children: object) -> Markup:
    return tag("p", *children, class_="note")


def score_text(score: Score) -> str:
    """93.1 ± 0.4, the spread being the standard deviation over seeds; 93.1 for one seed."""
    spread = f"\u00a0±\u00a0{score.std:.1f}" if len(score.per_seed) > 1 else ""
    return f"{score.mean:.1f}{spread}"


def accuracy_section(group: Group, key: str) -> Markup:
    """Accuracy against shots, a chart a test set; bars where there is one number of shots only."""
    if not group.tests:
        return section(
            f"{key}-accuracy", "Accuracy", note("No photo was left to test on, so there is no accuracy to show.")
        )
    charts: list[Markup] = []
    for number, test in enumerate(group.tests):
        if len(group.tests) > 1:
            charts.append(tag("h4", "Test set ", tag("bdi", test)))
        draw = _lines(group, test, f"{key}-a{number}") if len(group.shots) > 1 else _bars(group, test)
        charts.append(tag("figure", both_widths(draw)))
    if group.many_seeds:
        seeds = max(len(run.seeds) for run in group.runs)
        said = f"Bands and whiskers are 95 % confidence intervals of the mean over {seeds} seeds (Student's t)"
        said += "; with two seeds they are very wide." if seeds == 2 else "."
        said += " Two lines show theirs; point at another line for its own."
    else:
        said = "One seed: no band can be drawn, and a difference between methods may be luck of the draw."
    if len(group.shots) == 1:
        said += f" One number of shots ({shots_text(group.shots[0])}): bars instead of a line."
    return section(f"{key}-accuracy", "Accuracy against shots", *charts, note(said))


def _lines(group: Group, test: str, key: str) -> Callable[[int], Markup]:
    positions = _positions(group)
    lines = []
    for name in group.styles:
        points = []
        for row in group.line(name):
            if test not in row.record.tests:
                continue
            score = row.record.tests[test].accuracy
            half = half_band(score)
            edges = (None, None) if half is None else (max(score.mean - half, 0), min(score.mean + half, 100))
            says = f"{shots_text(row.record.shots)}: {score_text(score)} %"
            points.append(Point(positions[row.record.shots], score.mean, says, *edges))
        if points:
            lines.append(Line(name, tuple(points), group.styles[name]))
    ticks = [(positions[k], "all" if k == "all" else str(k)) for k in group.shots]
    title = f"Accuracy in percent on test set {test} against photos a class, {len(lines)} methods"
    return lambda width: line_chart(lines, ticks, title=title, x_title="photos a class (shots)", width=width, key=key)


def _positions(group: Group) -> dict[int | str, float]:
    """Shots on a logarithmic axis; "all" one step after the last."""
    found: dict[int | str, float] = {k: math.log2(k) for k in group.shots if isinstance(k, int)}
    return found | {k: max(found.values(), default=0.0) + 1 for k in group.shots if k == "all"}


def _bars(group: Group, test: str) -> Callable[[int], Markup]:
    rows = [
        BarRow(
            row.name,
            (Bar(result.accuracy.mean, half_band(result.accuracy), f"{row.name}: {score_text(result.accuracy)} %"),),
        )
        for row, result in group.last(test)
    ]
    title = f"Accuracy in percent on test set {test} at {shots_text(group.shots[-1])}"
    return lambda width: bar_chart(rows, title=title, width=width)


def shift_section(group: Group, key: str) -> Markup | None:
    """Bars of all test sets side by side at the largest number of shots; None for one test set."""
    if len(group.tests) < 2:
        return None
    first, *others = group.tests
    rows = [BarRow("", (), "shift")]
    for row, result in group.last(first):
        tests = row.record.tests
        bars = []
        for name in group.tests:
            score = tests[name].accuracy if name in tests else None
            says = f"{row.name} on {name}: {score_text(score)} %" if score else ""
            bars.append(Bar(score.mean, half_band(score), says) if score else None)
        moved = [tests[name].accuracy.mean for name in others if name in tests]
        shift = sum(moved) / len(moved) - result.accuracy.mean if moved else None
        rows.append(BarRow(row.name, tuple(bars), "" if shift is None else f"{shift:+.1f}".replace("-", "\u2212")))
    key_line = [
        tag("span", tag("i", class_=f"swatch c{i % 6}"), tag("bdi", name), class_="key")
        for i, name in enumerate(group.tests)
    ]
    title = f"Accuracy in percent at {shots_text(group.shots[-1])} on {len(group.tests)} test sets"
    return section(
        f"{key}-shift",
        "Domain shift",
        tag("p", *key_line, class_="keys"),
        tag("figure", both_widths(lambda width: bar_chart(rows, title=title, width=width))),
        note(
            f"At {shots_text(group.shots[-1])}. At the right: the mean of the other test sets less ",
            tag("bdi", first),
            ", in points.",
        ),
    )


def cost_section(group: Group, key: str) -> Markup:
    """Trained parameters, seconds and microseconds, a chart each."""
    rows = [row for row in group.rows if row.record.shots == group.shots[-1]]
    if group.tests:
        rows = [row for row, _ in group.last(group.tests[0])]
    what: list[tuple[str, str, Callable[[Record], float | None]]] = [
        ("Trained parameters", "parameters", lambda record: record.trainable),
        ("Seconds to fit and tune", "s", lambda record: record.fit.mean + record.tune.mean),
        ("Microseconds a query", "µs", lambda record: record.query.mean if record.query else None),
    ]
    charts = [
        tag(
            "figure",
            tag("figcaption", title),
            dot_chart([(row.name, value(row.record)) for row in rows], title=title, unit=unit),
        )
        for title, unit, value in what
    ]
    return section(
        f"{key}-cost",
        "Cost",
        tag("div", *charts, class_="flow"),
        note(
            f"At {shots_text(group.shots[-1])}, logarithmic axes. Seconds are on features that are already encoded, on "
            "the machine of the run: compare them with each other only."
        ),
    )


def trust_section(group: Group, key: str) -> Markup:
    """Reliability diagrams and reject curves at the largest number of shots."""
    parts: list[Markup] = []
    for number, test in enumerate(group.tests):
        rows = [(row, result) for row, result in group.last(test) if result.bins and result.coverage]
        if len(group.tests) > 1:
            parts.append(tag("h4", "Test set ", tag("bdi", test)))
        if not rows:
            parts.append(note("Calibration " + OLDER))
            continue
        charts = []
        for row, result in rows:
            error = result.calibration_error
            caption = f"ECE {score_text(error)} %" if error else "ECE not recorded"
            charts.append(
                tag(
                    "figure",
                    reliability_chart(result.bins, title=f"Reliability of {row.name} on {test}: {caption}"),
                    tag("figcaption", tag("b", row.name), tag("br"), caption),
                )
            )
        diagrams = tag("div", *charts, class_="flow small")
        # Further test sets are folded: with fifteen methods each is a page of its own.
        parts.append(diagrams if number == 0 else _folded("Reliability", diagrams))
        reject = tag("figure", both_widths(_reject(group, test, rows, f"{key}-r{number}")))
        title = tag("h4", "Accuracy when the least sure predictions are left to a person")
        parts.append(join([title, reject]) if number == 0 else _folded("Accuracy against coverage", reject))
    if not parts:
        parts.append(note("No photo was left to test on."))
    lead = note(
        f"At {shots_text(group.shots[-1])}, all seeds together. A dot gathers predictions of similar probability, its "
        "area how many; on the dashed line a stated 80 % is right 80 % of the time, below it the method is too sure of "
        "itself. The expected calibration error (ECE) is the mean distance from the line, over 15 bins."
    )
    return section(f"{key}-trust", "Can its probabilities be trusted?", lead, *parts)


def _folded(title: str, content: Markup) -> Markup:
    return tag("details", tag("summary", title), content)


def _reject(group: Group, test: str, rows: list[tuple[Row, TestResult]], key: str) -> Callable[[int], Markup]:
    lines = []
    for row, result in rows:
        points = tuple(
            Point(percent, accuracy, f"the surest {percent:.0f} % answered: {accuracy:.1f} % right")
            for percent, accuracy in result.coverage
        )
        lines.append(Line(row.name, points, group.styles[row.name]))
    covered = sorted({point.x for line in lines for point in line.points})
    ticks = [(percent, f"{percent:.0f}") for percent in covered if percent % 10 == 0]
    title = f"Accuracy in percent on test set {test} against the share of images answered, the surest first"
    return lambda width: line_chart(
        lines, ticks, title=title, x_title="images answered, in percent (the surest first)", width=width, key=key
    )
