"""Checks of a method's options: an error names the option, what was expected, and what was found."""

from __future__ import annotations

from typing import Any, get_args

from crossgraft.errors import InputError
from crossgraft.registry import nearest


def check_whole(least: int, **options: Any) -> None:
    """Raises:
    InputError: an option is no whole number, or one below `least`."""
    for name, value in options.items():
        if type(value) is not int or value < least:
            raise InputError(f"{name} is {value!r}, expected a whole number of at least {least}")


def check_number(least: float, below: float = float("inf"), **options: Any) -> None:
    """Raises:
    InputError: an option is no number with least <= number < below."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < below:
            limit = "" if below == float("inf") else f" and below {below:g}"
            raise InputError(f"{name} is {value!r}, expected a number of at least {least:g}{limit}")


def check_choice(literal: Any, **options: Any) -> None:
    """Raises:
    InputError: an option is none of the words of a `Literal`."""
    words = get_args(literal)
    for name, value in options.items():
        if value not in words:
            raise InputError(f"{name} is {value!r}; {nearest(str(value), words)}known: {', '.join(words)}")


def check_pairs(sharing: Any, why: str) -> None:
    """Raises:
    InputError: the method cannot share half of its weights, and is told to."""
    if sharing not in ("single", "multiple"):
        raise InputError(f"sharing is {sharing!r}, expected single or multiple: {why}")
