"""Charts show each value where the axis says, and say it to those who cannot see."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from crossgraft.reporting.bars import Bar, BarRow, bar_chart, dot_chart
from crossgraft.reporting.charts import NARROW, WIDE, Line, Point, both_widths, line_chart, reliability_chart

SHOTS = [(0.0, "1"), (1.0, "2"), (2.0, "4")]


def line(name: str, values: list[float], style: int | None, half: float | None = None) -> Line:
    bands = [(None, None) if half is None else (value - half, value + half) for value in values]
    points = zip(SHOTS, values, bands, strict=False)
    return Line(name, tuple(Point(at, value, f"{value} %", *band) for (at, _), value, band in points), style)


def draw(*lines: Line, width: int = WIDE) -> ET.Element:
    return ET.fromstring(line_chart(lines, SHOTS, title="Accuracy", x_title="shots", width=width, key="k"))


def texts(svg: ET.Element) -> list[str]:
    return ["".join(t for t in one.itertext()) for one in svg.iter("text")]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_lines_go_through_their_values_on_a_shared_axis(width: int) -> None:
    svg = draw(line("a", [50, 60, 70], 0), line("b", [55, 65, 60], None), width=width)
    ticks = {
        float(one.text.rstrip(" %")): float(one.attrib["y"]) - 4
        for one in svg.find("g").findall("text")  # type: ignore[union-attr]
        if one.attrib.get("text-anchor") == "end"
    }
    (low, y_low), (high, y_high) = min(ticks.items()), max(ticks.items())
    drawn = {}
    for group in svg.findall("g")[1:]:
        points = group.find("polyline").attrib["points"].split()  # type: ignore[union-attr]
        values = [low + (y_low - float(p.split(",")[1])) / (y_low - y_high) * (high - low) for p in points]
        drawn[group.attrib["class"]] = [round(value, 1) for value in values]
        assert all(0 <= float(p.split(",")[0]) <= width for p in points)
    assert drawn == {"series c0": pytest.approx([50, 60, 70], abs=0.1), "series muted": [55, 65, 60]}


def test_labels_name_the_last_value_and_do_not_touch() -> None:
    svg = draw(*(line(f"method {i}", [40, 50, 60 + i / 10], i if i < 6 else None) for i in range(15)))
    labels = [one for one in svg.iter("text") if one.attrib.get("class") == "label"]
    assert any("method 3 60.3" in "".join(one.itertext()) for one in labels)
    heights = sorted(float(one.attrib["y"]) for one in labels)
    assert len(heights) == 15
    assert min(b - a for a, b in pairwise(heights)) >= 12


def test_bands_are_drawn_where_there_are_seeds_only() -> None:
    assert [p.attrib["class"] for p in draw(line("a", [1, 2, 3], 0, half=1)).findall("polygon")] == ["band c0"]
    assert "band" not in ET.tostring(draw(line("a", [1, 2, 3], 0)), encoding="unicode")
    # A band of a whole axis does not squeeze the means into a corner.
    svg = draw(line("a", [50, 51, 52], 0, half=49))
    (points,) = (p.attrib["points"] for p in svg.findall("g")[1].findall("polyline"))
    heights = [float(p.split(",")[1]) for p in points.split()]
    assert max(heights) - min(heights) > 100


def test_every_point_can_be_asked() -> None:
    svg = draw(line("a", [50, 60, 70], 0))
    titles = [one.text for one in svg.iter("title")]
    assert titles.count("Accuracy") == 1
    assert [title for title in titles if "%" in str(title)] == ["a, 50 %", "a, 60 %", "a, 70 %"]
    assert (svg.attrib["role"], svg.attrib["aria-label"]) == ("img", "Accuracy")


def test_names_are_escaped_and_cut() -> None:
    svg = draw(line("<b>" + "x" * 500, [1, 2, 3], 0))
    label = next(text for text in texts(svg) if "…" in text)
    assert "<b>x" in label
    assert svg.find(".//b") is None


def test_ids_differ_between_the_widths() -> None:
    both = both_widths(
        lambda width: line_chart([line("a", [1, 2, 3], 0, 1)], SHOTS, title="t", x_title="x", width=width, key="k")
    )
    ids = re.findall(r'id="([^"]+)"', both)
    assert len(ids) == len(set(ids)) == 2


def test_a_line_of_one_point_and_of_equal_values() -> None:
    draw(Line("a", (Point(0, 50, "50"),), 0))
    draw(line("a", [0, 0, 0], 0))
    draw(line("a", [100, 100, 100], 0, half=0.0))


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_bars_start_at_zero_and_are_as_long_as_their_values(width: int) -> None:
    rows = [
        BarRow("a", (Bar(80, 2, "a: 80 %"), Bar(40, None, "a: 40 %")), "-40.0"),
        BarRow("b", (Bar(20, None, "b: 20 %"), None)),
    ]
    svg = ET.fromstring(bar_chart(rows, title="t", width=width))
    bars = [(float(one.attrib["x"]), float(one.attrib["width"])) for one in svg.iter("rect")]
    assert len({x for x, _ in bars}) == 1
    lengths = [width for _, width in bars]
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=0.1)
    assert lengths[1] == pytest.approx(2 * lengths[2], abs=0.1)
    assert len([one for one in svg.iter("line") if one.attrib["class"] == "whisker"]) == 1
    assert {"80.0", "40.0", "20.0", "-40.0"} <= set(texts(svg))


def test_zero_bars() -> None:
    ET.fromstring(bar_chart([BarRow("a", (Bar(0, None, "0"),))], title="t", width=WIDE))


def test_dots_lie_on_a_logarithmic_axis_and_zero_is_said() -> None:
    svg = ET.fromstring(dot_chart([("a", 10), ("b", 1000), ("c", 100), ("d", 0), ("e", None)], title="t", unit="s"))
    a, b, c = (float(one.attrib["cx"]) for one in svg.iter("circle"))
    assert c - a == pytest.approx(b - c)
    assert {"none", "not measured"} <= set(texts(svg))
    ET.fromstring(dot_chart([("a", 0)], title="t", unit="s"))


def test_reliability_dots_lie_at_confidence_and_accuracy_and_grow_with_the_count() -> None:
    svg = ET.fromstring(reliability_chart([(100, 0.5, 0.5), (0, 0.0, 0.0), (25, 0.9, 0.6)], title="t"))
    big, small = svg.iter("circle")
    assert float(big.attrib["r"]) == pytest.approx(2 * float(small.attrib["r"]))
    ideal = next(one for one in svg.iter("line") if one.attrib["class"] == "ideal")
    x1, x2, y1, y2 = (float(ideal.attrib[key]) for key in ("x1", "x2", "y1", "y2"))
    assert float(big.attrib["cx"]) == pytest.approx((x1 + x2) / 2)
    assert float(big.attrib["cy"]) == pytest.approx((y1 + y2) / 2)
    assert float(small.attrib["cy"]) == pytest.approx(y1 + 0.6 * (y2 - y1), abs=0.1)
    assert "right 60% of the time: 25 of 125" in ET.tostring(svg, encoding="unicode")
