"""The open registry of few-shot methods: a method adds itself with `@register("its-name")`."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from crossgraft.errors import InputError

if TYPE_CHECKING:
    from crossgraft.fewshot.base import FewShotClassifier

METHODS: dict[str, type[FewShotClassifier]] = {}
"""Method name -> classifier class, in the order of registration."""

Method = TypeVar("Method", bound="type[FewShotClassifier]")


def register(name: str) -> Callable[[Method], Method]:
    """Class decorator: make a classifier known as `name`. Warns if that replaces another class."""

    def add(method: Method) -> Method:
        known = METHODS.get(name)
        if known is not None and known.__qualname__ != method.__qualname__:
            warnings.warn(f"method {name!r}: {method.__qualname__} replaces {known.__qualname__}", stacklevel=2)
        method.method = name
        METHODS[name] = method
        return method

    return add


def get_method(name: str) -> type[FewShotClassifier]:
    """The classifier class called `name`.

    Raises:
        InputError: no such method; the message suggests the nearest name.
    """
    try:
        return METHODS[name]
    except KeyError:
        near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"unknown method {name!r}; {hint}known: {', '.join(METHODS)}") from None
