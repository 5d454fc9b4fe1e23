"""Object colours of one model as one page: accuracy of each prompt, its interval, which colour is taken for which."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from crossgraft.reporting.bars import Bar, BarRow, bar_chart
from crossgraft.reporting.charts import both_widths
from crossgraft.reporting.markup import Markup, join, plural, tag
from crossgraft.reporting.report import page

_DARKEST = 0.55  # of a cell; text in it stays readable on light and dark ground
_NARROW = 500
_AGREEMENT = {
    "jensen_shannon": ("Jensen-Shannon divergence in nats", "0 is equal, 0.693 nothing in common"),
    "spearman": ("Spearman rank correlation", "-1 to 1"),
    "kendall": ("Kendall rank correlation (tau-b)", "-1 to 1"),
}


def colors_page(document: Mapping[str, Any]) -> str:
    """The page of what `training.colors_run` found, as HTML that needs nothing else."""
    found, data, name = document["colors"], document["data"], _name(document["backbone"]["name"])
    body = join(
        [
            tag("header", tag("p", "crossgraft colors", class_="kicker"), tag("h1", f"{name} on {data['name']}")),
            _tiles(document),
            tag("p", *_lead(found), class_="lead"),
            _warnings(document),
            tag("h2", "Accuracy by prompt"),
            _prompts(document),
            tag("figure", both_widths(lambda width: _bars(found, width)), _keys()),
            tag("h2", "Which colour it takes for which"),
            tag("p", _explained(document["settings"]["prompts"]), class_="note"),
            tag("figure", both_widths(lambda width: confusion_chart(found, width=width))),
            *_people(document["metrics"][data["name"]]),
            tag("h2", "What the numbers hold for"),
            _facts(document),
        ]
    )
    return page(f"colours: {name}", tag("article", body, class_="group"))


def _name(name: str) -> str:
    """Of a folder its last part: a page that is passed on need not tell where a home folder is."""
    return os.path.basename(name.rstrip("/")) if os.path.isabs(name) else name


def _tiles(document: Mapping[str, Any]) -> Markup:
    found, data = document["colors"], document["data"]
    mean, (low, high), common = found["mean"], found["range"], found["majority"]
    pairs = [
        ("Accuracy", f"{mean['mean']:.1f} %", f"{mean['low']:.1f} to {mean['high']:.1f}, {_level(found)} over objects"),
        ("Range over prompts", f"{low:.1f} to {high:.1f} %", plural(len(found["prompts"]), "prompt")),
        ("Always the same", f"{common['accuracy']:.1f} %", f"{common['color']}, the most frequent colour"),
        ("Without the prompts' bias", f"{found['mean_without_bias']['mean']:.1f} %", "needs all objects at once"),
        ("Objects", f"{data['objects']:,}", f"of {plural(sum(map(bool, found['objects'])), 'colour')}"),
    ]
    items = [tag("div", tag("dt", title), tag("dd", value, tag("small", more))) for title, value, more in pairs]
    return tag("dl", *items, class_="tiles")


def _level(found: Mapping[str, Any]) -> str:
    return f"{100 * found['interval']['level']:.0f} %"


def _lead(found: Mapping[str, Any]) -> list[object]:
    mean, common = found["mean"], found["majority"]
    if mean["low"] > common["accuracy"]:
        verdict = "It is right more often than"
    elif mean["high"] < common["accuracy"]:
        verdict = "It is right less often than"
    else:
        verdict = "So few objects do not tell it from"
    return [f"{verdict} always saying {common['color']}, which is right {common['accuracy']:.1f} % of the time."]


def _warnings(document: Mapping[str, Any]) -> Markup | None:
    control = document.get("control")
    notes = [tag("li", note) for note in document["warnings"]]
    if control is not None:
        said = f"{control['mean']:+.1f} points ({control['low']:+.1f} to {control['high']:+.1f})"
        notes.append(tag("li", f"Minus the control {os.path.basename(os.path.dirname(control['answers']))}: {said}"))
    return tag("aside", tag("ul", *notes), class_="warn", aria_label="Notes") if notes else None


def _prompts(document: Mapping[str, Any]) -> Markup:
    found = document["colors"]
    rows = [
        _row(str(number), one["prompt"], f"{one['accuracy']:.1f}", f"{one['without_bias']:.1f}")
        for number, one in enumerate(found["prompts"], 1)
    ]
    for title, kind in (("mean", "mean"), (f"{_level(found)} interval over objects", "interval"), ("range", "range")):
        rows.append(_row("", title, *(_summary(found, kind, suffix) for suffix in ("", "_without_bias"))))
    heads = ("", "prompt", "accuracy in %", "without its bias")
    head = tag(
        "tr", *(tag("th", text, scope="col", class_="number" if i > 1 else None) for i, text in enumerate(heads))
    )
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll", tabindex=0)


def _row(number: str, *cells: str) -> Markup:
    first, *values = cells
    return tag("tr", tag("td", number), tag("th", first, scope="row"), *(tag("td", v, class_="number") for v in values))


def _summary(found: Mapping[str, Any], kind: str, suffix: str) -> str:
    mean = found[f"mean{suffix}"]
    if kind == "mean":
        return f"{mean['mean']:.1f}"
    low, high = (mean["low"], mean["high"]) if kind == "interval" else found[f"range{suffix}"]
    return f"{low:.1f} to {high:.1f}"


def _bars(found: Mapping[str, Any], width: int) -> Markup:
    rows = [
        BarRow(
            f"prompt {number}",
            (
                Bar(one["accuracy"], None, f"{one['prompt']}: {one['accuracy']:.1f} %"),
                Bar(one["without_bias"], None, f"{one['prompt']}, without its bias: {one['without_bias']:.1f} %"),
            ),
        )
        for number, one in enumerate(found["prompts"], 1)
    ]
    return bar_chart(rows, title="Accuracy of each prompt in percent", width=width)


def _keys() -> Markup:
    names = ("accuracy", "without what the prompt gives each colour on average over all objects")
    items = [tag("span", tag("span", class_="swatch"), name, class_=f"c{style}") for style, name in enumerate(names)]
    return tag("figcaption", tag("p", *items, class_="keys"))


def _explained(prompts: Sequence[str]) -> str:
    return (
        f"A row is the colour that objects have (and how many do), a column the answer, in percent of the row over "
        f"{plural(len(prompts), 'prompt')}. Right answers are framed."
    )


def confusion_chart(found: Mapping[str, Any], *, width: int) -> Markup:
    """A heat map: true colours down, answers across; the last row is how often each answer is given at all."""
    names, counts, objects = found["names"], found["confusion"], found["objects"]
    rows = [(f"{name} ({n})", name, own) for name, own, n in zip(names, counts, objects, strict=True) if n]
    totals = [sum(column) for column in zip(*counts, strict=True)]
    left, top = (84.0, 62.0) if width < _NARROW else (112.0, 30.0)
    side = (width - left - 4) / len(names)
    height = 30.0 if width >= _NARROW else 24.0
    parts = []
    for place, name in enumerate(names):
        x = left + (place + 0.5) * side
        turned = f"rotate(-60 {x:.1f} {top - 22:.1f})" if width < _NARROW else None
        anchor = "start" if turned else "middle"
        parts.append(tag("text", name, x=x, y=top - 20, text_anchor=anchor, transform=turned, class_="name"))
        parts.append(_chip(name, x - 5, top - 14))
    for line, (title, name, own) in enumerate(rows):
        y = top + line * height
        parts.append(tag("text", title, x=left - 22, y=y + height / 2 + 4, text_anchor="end", class_="name"))
        parts.append(_chip(name, left - 16, y + height / 2 - 5))
        parts += _cells(own, names, name, left, y, side, height)
    y = top + len(rows) * height + 8
    parts.append(tag("text", "answered", x=left - 22, y=y + height / 2 + 4, text_anchor="end", class_="name"))
    parts += _cells(totals, names, None, left, y, side, height)
    title = "Answers by true colour, in percent of each row"
    return tag(
        "svg",
        tag("title", title),
        *parts,
        class_="chart c0",
        viewBox=f"0 0 {width} {y + height + 6:.0f}",
        role="img",
        aria_label=title,
    )


def _chip(color: str, x: float, y: float) -> Markup:
    """A square of the colour itself; it is framed, since white and black are on the list."""
    return tag("rect", x=x, y=y, width=10, height=10, rx=2, style=f"fill: {color}; stroke: var(--muted)")


def _cells(
    counts: Sequence[int], names: Sequence[str], true: str | None, left: float, y: float, side: float, height: float
) -> list[Markup]:
    total = max(sum(counts), 1)
    cells = []
    for place, (name, count) in enumerate(zip(names, counts, strict=True)):
        share, x = count / total, left + place * side
        framed = "stroke: var(--text); stroke-width: 1.5" if name == true else "stroke: var(--grid)"
        says = f"{true} taken for {name}" if true else f"answered {name}"
        cells.append(
            tag(
                "g",
                tag("title", f"{says}: {100 * share:.1f} % ({count:,} of {sum(counts):,})"),
                tag("rect", x=x, y=y, width=side, height=height, style="fill: var(--ground)"),
                tag(
                    "rect",
                    class_="bar",
                    x=x + 1,
                    y=y + 1,
                    width=side - 2,
                    height=height - 2,
                    style=f"fill-opacity: {_DARKEST * share:.3f}; {framed}",
                ),
                _percent(share, x + side / 2, y + height / 2 + 4) if count else None,
            )
        )
    return cells


def _percent(share: float, x: float, y: float) -> Markup:
    return tag("text", f"{100 * share:.0f}", x=x, y=y, text_anchor="middle", class_="name")


def _people(numbers: Mapping[str, Any]) -> list[Markup]:
    rows = [
        tag("tr", tag("th", title, scope="row"), tag("td", f"{numbers[key]['mean']:.3f}"), tag("td", scale))
        for key, (title, scale) in _AGREEMENT.items()
        if key in numbers
    ]
    if not rows:
        return []
    note = "Shares that the model gives the 11 colours, beside those that people give; mean over objects and prompts."
    return [
        tag("h2", "Agreement with people's shares"),
        tag("table", tag("tbody", *rows)),
        tag("p", note, class_="note"),
    ]


def _facts(document: Mapping[str, Any]) -> Markup:
    settings, backbone, data = document["settings"], document["backbone"], document["data"]
    spelled = "; ".join(" or ".join(words) for words in settings["spellings"].values())
    interval = document["colors"]["interval"]
    pairs: list[tuple[str, object]] = [
        ("model", join([tag("bdi", _name(backbone["name"])), " ", _code(backbone["fingerprint"])])),
        ("method", document["method"]),
        ("asked", f"a {settings['kind']} language model; words by {settings['words']}"),
        ("spelling", spelled or "one for each colour"),
        ("protocol", document["protocol"]),
        ("interval", f"{interval['resamples']:,} resamples of the objects, seed {interval['seed']}"),
        ("data", join([tag("bdi", data["name"]), " ", _code(data["fingerprint"])])),
        ("computed", f"{backbone['device']}, {backbone['dtype']}"),
        ("versions", ", ".join(f"{key} {value}" for key, value in document["versions"].items())),
    ]
    return tag("dl", *(tag("div", tag("dt", key), tag("dd", value)) for key, value in pairs), class_="facts")


def _code(fingerprint: str) -> Markup:
    return tag("code", fingerprint[:16], title=fingerprint)
