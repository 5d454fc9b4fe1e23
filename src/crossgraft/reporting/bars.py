"""Horizontal bars, and dots on a logarithmic axis, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossgraft.reporting.markup import Markup, join, shorten, tag
from crossgraft.reporting.scales import Scale, compact, decades, ticks

BAR, GAP = 11.0, 14.0


@dataclass(frozen=True)
class Bar:
    """A value in percent; `half` is half its confidence interval over seeds, None for one seed."""

    value: float
    half: float | None
    says: str


@dataclass(frozen=True)
class BarRow:
    """A name, a bar for each of the chart's groups (None where there is none), and a remark at the right end."""

    name: str
    bars: tuple[Bar | None, ...]
    remark: str = ""


def bar_chart(rows: Sequence[BarRow], *, title: str, width: int) -> Markup:
    """Rows of bars from zero; the bars of a row take the page's colours 0, 1, 2, ... in turn."""
    narrow = width < 500
    left = 8.0 if narrow else 14 + 7.0 * max(len(shorten(row.name, 26)) for row in rows)
    values = [bar.value + (bar.half or 0) for row in rows for bar in row.bars if bar is not None]
    axis = [tick for tick in ticks(0, min(max(values), 100), 4 if narrow else 5) if tick <= 100]
    x = Scale(0, axis[-1], left, width - (92 if any(row.remark for row in rows) else 48))
    parts, top = [], 8.0
    for row in rows:
        if narrow and row.name:
            parts.append(tag("text", tag("title", row.name), shorten(row.name, 40), class_="name", x=left, y=top + 10))
            top += 16
        height = BAR * len(row.bars)
        if not narrow:
            name = shorten(row.name, 26)
            text = tag("title", row.name), name
            parts.append(tag("text", *text, class_="name", x=left - 8, y=top + height / 2 + 4, text_anchor="end"))
        parts += [_bar(bar, i, x, top + i * BAR) for i, bar in enumerate(row.bars) if bar is not None]
        if row.remark:
            parts.append(
                tag("text", row.remark, class_="remark", x=width - 2, y=top + height / 2 + 4, text_anchor="end")
            )
        top += height + GAP if row.bars else 12
    bottom = top + 4
    grid = [
        join(
            [
                tag("line", class_="grid", x1=x(t), x2=x(t), y1=4, y2=bottom - 6),
                tag("text", f"{t:g}" + (" %" if t == axis[-1] else ""), x=x(t), y=bottom + 10, text_anchor="middle"),
            ]
        )
        for t in axis
    ]
    return tag(
        "svg",
        tag("title", title),
        tag("g", *grid, class_="axis"),
        *parts,
        class_="chart",
        viewBox=f"0 0 {width} {bottom + 18:.0f}",
        role="img",
        aria_label=title,
    )


def _bar(bar: Bar, style: int, x: Scale, y: float) -> Markup:
    middle, end = y + BAR / 2, x(bar.value)
    whisker = None
    if bar.half is not None:
        low, high = x(max(bar.value - bar.half, x.low)), x(min(bar.value + bar.half, x.high))
        whisker = tag("line", class_="whisker", x1=low, x2=high, y1=middle, y2=middle)
        end = high
    return tag(
        "g",
        tag("title", bar.says),
        tag("rect", class_="bar", x=x.start, y=y + 1, width=max(x(bar.value) - x.start, 0.5), height=BAR - 2, rx=1.5),
        whisker,
        tag("text", f"{bar.value:.1f}", class_="value", x=end + 5, y=middle + 3.5),
        class_=f"c{style % 6}",
    )


def dot_chart(rows: Sequence[tuple[str, float | None]], *, title: str, unit: str) -> Markup:
    """One value a row on a logarithmic axis; zero stands at its left end as "none", None as "not measured"."""
    width, left, line = 310.0, 112.0, 21.0
    values = [value for _, value in rows if value]
    axis = decades(min(values), max(values)) if values else [1.0, 10.0]
    x = Scale(axis[0], axis[-1], left + 10, width - 50, log=True)
    height = 12 + line * len(rows)
    parts = []
    for i, (name, value) in enumerate(rows):
        y = 14 + line * i
        parts.append(
            tag("text", tag("title", name), shorten(name, 15), class_="name", x=left - 8, y=y + 4, text_anchor="end")
        )
        if value:
            parts.append(tag("line", class_="stem", x1=left, x2=x(value), y1=y, y2=y))
            parts.append(
                tag(
                    "g",
                    tag("title", f"{name}: {value:,.4g} {unit}"),
                    tag("circle", class_="mark", cx=x(value), cy=y, r=4.5),
                )
            )
        text = compact(value) if value else "none" if value == 0 else "not measured"
        parts.append(tag("text", text, class_="value", x=(x(value) + 9) if value else left, y=y + 4))
    step = 1 if len(axis) < 6 else 2
    grid = [
        join(
            [
                tag("line", class_="grid", x1=x(t), x2=x(t), y1=4, y2=height),
                tag("text", compact(t), x=x(t), y=height + 15, text_anchor="middle") if i % step == 0 else None,
            ]
        )
        for i, t in enumerate(axis)
    ]
    return tag(
        "svg",
        tag("title", title),
        tag("g", *grid, class_="axis"),
        *parts,
        class_="chart c0",
        viewBox=f"0 0 {width:.0f} {height + 22:.0f}",
        role="img",
        aria_label=title,
    )
