"""Nothing that comes from a file becomes markup."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossgraft.reporting.markup import Markup, clean, escape, join, plural, shorten, tag


class Seen(HTMLParser):
    """What a parser makes of a page: its elements, with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text())
def test_any_text_comes_back_as_text_and_as_attribute(text: str) -> None:
    seen = Seen(tag("p", text, title=text))
    assert [name for name, _ in seen.elements] == ["p"]
    expected = clean(text).replace("\r\n", "\n").replace("\r", "\n")
    assert seen.text.replace("\r\n", "\n").replace("\r", "\n") == expected
    (_, attributes) = seen.elements[0]
    assert attributes["title"] == clean(text)
    tag("p", text).encode()  # halves of surrogate pairs would not go into a file


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'&\"<>", "]]>"])
def test_markup_in_a_name_stays_a_name(text: str) -> None:
    assert [name for name, _ in Seen(tag("a", text, tag("b", text, aria_label=text))).elements] == ["a", "b"]


def test_what_no_page_may_hold_is_replaced() -> None:
    assert clean("a\x00b\ud83dc\u202ed") == "a\ufffdb\ufffdc\ufffdd"
    assert clean("Käfer 🐞 \u05d0") == "Käfer 🐞 \u05d0"


def test_attributes() -> None:
    assert tag("a", class_="x", aria_label="y", open=True, hidden=None, x=1.50) == (
        '<a class="x" aria-label="y" open x="1.5"></a>'
    )
    assert tag("br") == "<br>"
    assert tag("p", None, "a", Markup("<b>")) == "<p>a<b></p>"


def test_joined_parts_are_escaped_once() -> None:
    assert join(["<", Markup("<i>"), None], " & ") == "&lt; &amp; <i>"
    assert escape(escape("<")) == "&lt;"


def test_shortening_counts_characters() -> None:
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abc", 4) == "abc"
    assert len(shorten("x" * 10_000, 30)) == 30


def test_plurals() -> None:
    assert (plural(1, "photo"), plural(2000, "photo")) == ("1 photo", "2,000 photos")
    assert plural(2, "miss", "misses") == "2 misses"
