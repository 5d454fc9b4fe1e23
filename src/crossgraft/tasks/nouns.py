"""Names of things as lists of words that compare: "Sweet Cherries-2" and "sweet cherry" are the same."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W\d_]+")
_SINGULAR = {"ies": "y", "oes": "o", "s": ""}
_PLURAL = re.compile("(?:ies|oes|s)$")


def name_words(name: str) -> list[str]:
    """In small letters, without a plural's ending (roughly: no dictionary is asked) and without numbers."""
    return [_PLURAL.sub(lambda match: _SINGULAR[match[0]], word) for word in _WORD.findall(name.lower())]


def names(text: list[str], thing: list[str]) -> bool:
    """Whether a text's words hold a thing's, one behind the other; a thing without a word is in none."""
    starts = range(len(text) - len(thing) + 1) if thing else ()
    return any(text[start : start + len(thing)] == thing for start in starts)
