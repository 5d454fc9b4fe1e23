"""Every number of a group in one table that can be sorted."""

from __future__ import annotations

from collections.abc import Sequence

from crossgraft.reporting.groups import Group, Row, shots_text
from crossgraft.reporting.markup import Markup, tag
from crossgraft.reporting.run_folder import Score, TestResult
from crossgraft.reporting.sections import note, score_text, section

_COLUMNS = (
    ("Method", "text", "The method"),
    ("Shots", "number", "Photos a class that it learned from"),
    ("Test set", "text", "The photos that it was scored on"),
    ("Accuracy", "number", "Percent right, mean and standard deviation over seeds"),
    ("Macro", "number", "Mean over classes of the percent right"),
    ("ECE", "number", "Expected calibration error in percent, 15 bins; lower is better"),
    ("At 80 %", "number", "Accuracy on the surest 80 percent of the photos"),
    ("Trained", "number", "Trained parameters"),
    ("% of all", "number", "Trained parameters in percent of all, encoder included"),
    ("Fit s", "number", "Seconds to fit"),
    ("Tune s", "number", "Seconds to search hyperparameters on validation photos"),
    ("µs/query", "number", "Microseconds to classify one encoded photo"),
    ("Each seed", "text", "Accuracy of each seed, in percent"),
)


def numbers_section(group: Group, key: str) -> Markup:
    """A row for each method, number of shots and test set."""
    best: dict[tuple[int | str, str], float] = {}
    for row in group.rows:
        for test, result in row.record.tests.items():
            at = row.record.shots, test
            best[at] = max(best.get(at, 0.0), result.accuracy.mean)
    body = [
        _row(row, test, result, best[row.record.shots, test] == result.accuracy.mean)
        for name in group.styles
        for row in group.line(name)
        for test, result in row.record.tests.items()
    ]
    body += [_row(row, None, None, False) for name in group.styles for row in group.line(name) if not row.record.tests]
    heads = [
        tag("th", tag("button", title, type="button", title=says), scope="col", data_kind=kind, class_=kind)
        for title, kind, says in _COLUMNS
    ]
    table = tag(
        "table", tag("thead", tag("tr", *heads)), tag("tbody", *body), class_="numbers", aria_label="All numbers"
    )
    return section(
        f"{key}-numbers",
        "All numbers",
        tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="All numbers, scrolls sideways"),
        note("Press a heading to sort. Bold: the most accurate at that number of shots on that test set."),
    )


def _row(row: Row, test: str | None, result: TestResult | None, best: bool) -> Markup:
    record = row.record
    shots = float("inf") if record.shots == "all" else float(record.shots)
    at_80 = dict(result.coverage).get(80) if result else None
    cells = [
        tag("th", tag("bdi", row.name), scope="row"),
        _cell("all" if record.shots == "all" else str(record.shots), shots),
        tag("td", tag("bdi", test)) if test is not None else tag("td", "none"),
        _score(result.accuracy if result else None, "best" if best else None),
        _score(result.macro_accuracy if result else None),
        _score(result.calibration_error if result else None),
        _cell(_number(at_80, ".1f"), at_80),
        _cell(f"{record.trainable:,}", record.trainable),
        _cell(f"{record.percent:.2f}", record.percent),
        _cell(f"{record.fit.mean:.3f}", record.fit.mean),
        _cell(f"{record.tune.mean:.3f}", record.tune.mean),
        _cell(_number(record.query.mean if record.query else None, ".0f"), record.query.mean if record.query else None),
        tag("td", _each(row, result), class_="each"),
    ]
    return tag("tr", *cells)


def _each(row: Row, result: TestResult | None) -> str:
    if result is None:
        return "\u2013"
    seeds: Sequence[int | str] = row.run.seeds
    if len(seeds) != len(result.accuracy.per_seed):
        seeds = ["?"] * len(result.accuracy.per_seed)
    return ", ".join(f"{seed}: {value:.1f}" for seed, value in zip(seeds, result.accuracy.per_seed, strict=True))


def _number(value: float | None, form: str) -> str:
    return "\u2013" if value is None else format(value, form)


def _cell(text: str, value: float | None, style: str | None = None) -> Markup:
    """A number; `data-value` is what the table is sorted by."""
    kind = "number" if style is None else f"number {style}"
    return tag("td", text, class_=kind, data_value="" if value is None else f"{min(value, 1e15):.6g}")


def _score(score: Score | None, style: str | None = None) -> Markup:
    return _cell("\u2013" if score is None else score_text(score), None if score is None else score.mean, style)


def headline(group: Group) -> Markup:
    """The most accurate methods on the first test set, in a sentence."""
    if not group.tests:
        return tag("p", "No photo was left to test on.", class_="lead")
    test = group.tests[0]
    (row, result), *others = group.last(test)
    parts: list[object] = [
        tag("b", tag("bdi", row.name)),
        f" is the most accurate at {shots_text(group.shots[-1])}, with ",
        tag("b", f"{score_text(result.accuracy)} %"),
        " on ",
        tag("bdi", test),
    ]
    if others:
        second, its = others[0]
        gap, spread = result.accuracy.mean - its.accuracy.mean, max(result.accuracy.std, its.accuracy.std)
        follows = f" follows with {score_text(its.accuracy)} %" if gap else " is as accurate"
        parts += ["; ", tag("bdi", second.name), follows]
        if gap and len(result.accuracy.per_seed) > 1 and gap < spread:
            parts.append(", which is closer than the seeds lie apart")
    return tag("p", *parts, ".", class_="lead")
