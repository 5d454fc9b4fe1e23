"""HTML and SVG as text, escaped where it is made: nothing that comes from a file can become markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any

_VOID = {"br", "img", "input", "meta"}
# Control characters, halves of surrogate pairs (Python's stand-in for bytes of a file name that are no UTF-8), and
# characters that turn the direction of the text after them. None of them may reach a page.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")


class Markup(str):
    """HTML that goes into a page as it stands."""

    __slots__ = ()


def clean(value: Any) -> str:
    """Text without the characters that no page may hold; each becomes a replacement character."""
    return _UNFIT.sub("\ufffd", str(value))


def escape(value: Any) -> Markup:
    """Any value as text of a page, or of an attribute in double quotes; markup stays as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(clean(value), quote=True))


def join(parts: Iterable[Any], between: str = "") -> Markup:
    """Parts side by side, each escaped unless it is markup; None is left out."""
    return Markup(escape(between).join(escape(part) for part in parts if part is not None))


def tag(name: str, *children: Any, **attributes: Any) -> Markup:
    """An element. Children that are no markup are escaped, None is left out.

    Attributes: `class_` is class, `aria_label` is aria-label; None leaves one out, True gives it without a value.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        if isinstance(value, float):
            value = f"{value:.2f}".rstrip("0").rstrip(".")
        parts.append(key if value is True else f'{key}="{escape(value)}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(children)}</{name}>")


def shorten(value: Any, length: int) -> str:
    """Text of at most `length` characters, its end cut off where it is longer."""
    text = clean(value)
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def plural(count: int, one: str, many: str | None = None) -> str:
    """1, "photo" -> "1 photo"; 2, "photo" -> "2 photos"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
