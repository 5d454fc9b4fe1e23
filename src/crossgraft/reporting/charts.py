"""Line charts and reliability diagrams as inline SVG. Colours come from the page's custom properties, by class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from crossgraft.reporting.markup import Markup, join, shorten, tag
from crossgraft.reporting.scales import Scale, spread, ticks

WIDE, NARROW = 760, 350
_LINE_GAP = 15.0
_BANDS = (0, 1)
"""The styles whose bands are always drawn, under all lines; the others show theirs when they are pointed at."""


@dataclass(frozen=True)
class Point:
    """A place on a line; `low` and `high` are its band, `says` what a reader who points at it is told."""

    x: float
    y: float
    says: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """A named line. `style` 0 to 5 is one of the page's colours and marks, None a muted line."""

    name: str
    points: tuple[Point, ...]
    style: int | None


def both_widths(draw: Callable[[int], Markup]) -> Markup:
    """A chart twice, for wide and for narrow screens, so that its text keeps its size; the page shows one of them."""
    return join([tag("div", draw(WIDE), class_="wide"), tag("div", draw(NARROW), class_="narrow")])


def line_chart(
    lines: Sequence[Line],
    x_ticks: Sequence[tuple[float, str]],
    *,
    title: str,
    x_title: str,
    width: int,
    key: str,
) -> Markup:
    """Lines over x, labelled at their right ends; y is in percent.

    `x_ticks`: positions and their labels. `key` makes the chart's ids unique on the page.
    """
    label_length = 26 if width > 500 else 15
    labels = [f"{shorten(line.name, label_length)} {line.points[-1].y:.1f}" for line in lines]
    right = 26 + 7.0 * max(map(len, labels))
    height = max(340.0 if width > 500 else 300.0, 70 + _LINE_GAP * len(lines))
    y_ticks = _percent_ticks(lines)
    x = Scale(x_ticks[0][0], x_ticks[-1][0], 44, width - right)
    y = Scale(y_ticks[0], y_ticks[-1], height - 44, 24)
    ends = spread([y(line.points[-1].y) for line in lines], _LINE_GAP, 14, height - 40)
    # The muted lines first, so that the coloured ones lie over them.
    order = sorted(range(len(lines)), key=lambda i: (lines[i].style is not None, -i))
    return tag(
        "svg",
        tag("title", title),
        tag("clipPath", tag("rect", x=34, y=y.end, width=x.end - 34 + 8, height=y.start - y.end), id=f"{key}-{width}"),
        _grid(x, y, x_ticks, y_ticks, x_title, height),
        *(_band(lines[i], x, y, f"{key}-{width}") for i in order if lines[i].style in _BANDS),
        *(_line(lines[i], labels[i], ends[i], x, y, f"{key}-{width}") for i in order),
        class_="chart",
        viewBox=f"0 0 {width} {height:.0f}",
        role="img",
        aria_label=title,
    )


def _percent_ticks(lines: Sequence[Line]) -> list[float]:
    """Ticks that hold all means, and bands as far as they do not squeeze the means: those are cut off."""
    values = [point.y for line in lines for point in line.points]
    low, high = min(values), max(values)
    slack = max(0.12 * (high - low), 0.5)
    bands = [edge for line in lines for point in line.points for edge in (point.low, point.high) if edge is not None]
    low, high = (max(min([low, *bands]), low - slack), min(max([high, *bands]), high + slack))
    return [tick for tick in ticks(max(low, 0), min(high, 100)) if 0 <= tick <= 100]


def _grid(
    x: Scale, y: Scale, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[float], x_title: str, height: float
) -> Markup:
    rows = []
    for tick in y_ticks:
        text = f"{tick:g} %" if tick == y_ticks[-1] else f"{tick:g}"
        rows.append(tag("line", class_="grid", x1=36, x2=x.end + 6, y1=y(tick), y2=y(tick)))
        rows.append(tag("text", text, x=30, y=y(tick) + 4, text_anchor="end"))
    columns = [tag("text", label, x=x(at), y=height - 25, text_anchor="middle") for at, label in x_ticks]
    return tag(
        "g",
        *rows,
        *columns,
        tag("text", x_title, x=(x.start + x.end) / 2, y=height - 6, text_anchor="middle", class_="axis-title"),
        class_="axis",
    )


def _band(line: Line, x: Scale, y: Scale, clip: str) -> Markup | None:
    banded = [(p, p.low, p.high) for p in line.points if p.low is not None and p.high is not None]
    if len(banded) < 2:
        return None
    edge = [f"{x(p.x):.1f},{y(high):.1f}" for p, _, high in banded]
    edge += [f"{x(p.x):.1f},{y(low):.1f}" for p, low, _ in reversed(banded)]
    style = "muted" if line.style is None else f"c{line.style}"
    return tag("polygon", class_=f"band {style}", points=" ".join(edge), clip_path=f"url(#{clip})")


def _line(line: Line, label: str, label_y: float, x: Scale, y: Scale, clip: str) -> Markup:
    style = "muted" if line.style is None else f"c{line.style}"
    path = " ".join(f"{x(p.x):.1f},{y(p.y):.1f}" for p in line.points)
    last = line.points[-1]
    leader = f"M{x(last.x) + 6:.1f} {y(last.y):.1f}L{x.end + 16:.1f} {label_y:.1f}"
    return tag(
        "g",
        _band(line, x, y, clip) if line.style not in _BANDS else None,
        tag("polyline", class_="line", points=path) if len(line.points) > 1 else None,
        *(
            tag(
                "g",
                tag("title", f"{line.name}, {p.says}"),
                tag("circle", class_="hit", cx=x(p.x), cy=y(p.y), r=9),
                mark(line.style, x(p.x), y(p.y)),
            )
            for p in line.points
        ),
        tag("path", class_="leader", d=leader),
        tag("text", tag("title", line.name), label, class_="label", x=x.end + 20, y=label_y + 4),
        class_=f"series {style}",
        tabindex=0,
    )


def mark(style: int | None, x: float, y: float) -> Markup:
    """A mark that tells the lines apart without colour: circle, square, diamond, two triangles, stroke, or a dot."""
    if style is None:
        return tag("circle", class_="mark", cx=x, cy=y, r=2.2)
    shapes: list[list[tuple[float, float]] | None] = [
        None,
        [(-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)],
        [(0, -5), (5, 0), (0, 5), (-5, 0)],
        [(0, -4.8), (4.6, 3.6), (-4.6, 3.6)],
        [(0, 4.8), (4.6, -3.6), (-4.6, -3.6)],
        [(-4.6, -1.5), (4.6, -1.5), (4.6, 1.5), (-4.6, 1.5)],
    ]
    shape = shapes[style % len(shapes)]
    if shape is None:
        return tag("circle", class_="mark", cx=x, cy=y, r=4.0)
    return tag("polygon", class_="mark", points=" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shape))


def reliability_chart(bins: Sequence[tuple[int, float, float]], *, title: str) -> Markup:
    """Accuracy over stated probability, one dot a bin, its area the number of predictions; the diagonal is honest.

    `bins`: (count, mean confidence, accuracy), 0 to 1; empty bins are left out.
    """
    size, total = 190, sum(count for count, _, _ in bins)
    x, y = Scale(0, 1, 34, size - 12), Scale(0, 1, size - 30, 12)
    filled = [one for one in bins if one[0]]
    largest = max(count for count, _, _ in filled)
    axis = [
        join(
            [
                tag("line", class_="grid", x1=x(t), x2=x(t), y1=y.start, y2=y.end),
                tag("line", class_="grid", x1=x.start, x2=x.end, y1=y(t), y2=y(t)),
                tag("text", f"{100 * t:.0f}", x=x(t), y=y.start + 14, text_anchor="middle"),
                tag("text", f"{100 * t:.0f}", x=x.start - 6, y=y(t) + 4, text_anchor="end"),
            ]
        )
        for t in (0, 0.5, 1)
    ]
    gaps = [tag("line", class_="gap", x1=x(c), x2=x(c), y1=y(c), y2=y(a)) for _, c, a in filled]
    steps = [
        tag("line", class_="line thin", x1=x(c0), y1=y(a0), x2=x(c1), y2=y(a1))
        for (_, c0, a0), (_, c1, a1) in pairwise(filled)
    ]
    dots = [
        tag(
            "circle",
            tag("title", f"says {c:.0%}, right {a:.0%} of the time: {n:,} of {total:,} predictions"),
            class_="mark",
            cx=x(c),
            cy=y(a),
            r=max(1.6, 8 * (n / largest) ** 0.5),
        )
        for n, c, a in filled
    ]
    return tag(
        "svg",
        tag("title", title),
        tag("g", *axis, class_="axis"),
        tag("line", class_="ideal", x1=x(0), y1=y(0), x2=x(1), y2=y(1)),
        *gaps,
        *steps,
        *dots,
        class_="chart small c0",
        viewBox=f"0 0 {size} {size}",
        role="img",
        aria_label=title,
    )
