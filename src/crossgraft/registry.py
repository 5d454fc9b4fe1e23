"""Open registries: things add themselves with a decorator, and a misspelt name is met with the nearest one."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from crossgraft.errors import InputError

Item = TypeVar("Item", bound=type)
Registered = TypeVar("Registered")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.4) -> str:
    """ "did you mean 'x'? " for the known name most like `name`, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}? " if near else ""


class Registry(dict[str, Registered], Generic[Registered]):
    """Name -> class, in the order of registration.

    Args:
        kind: what an entry is called in messages, such as "method".
        attribute: the class attribute that a registered class's name is written to.
    """

    def __init__(self, kind: str, attribute: str) -> None:
        super().__init__()
        self.kind, self.attribute = kind, attribute

    def register(self, name: str) -> Callable[[Item], Item]:
        """Class decorator: make a class known as `name`. Warns if that replaces another class."""

        def add(item: Item) -> Item:
            known = self.get(name)
            if known is not None and known.__qualname__ != item.__qualname__:  # type: ignore[attr-defined]
                message = f"{self.kind} {name!r}: {item.__qualname__} replaces {known.__qualname__}"  # type: ignore[attr-defined]
                warnings.warn(message, stacklevel=2)
            setattr(item, self.attribute, name)
            self[name] = item  # type: ignore[assignment]
            return item

        return add

    def find(self, name: str) -> Registered:
        """The class called `name`.

        Raises:
            InputError: there is none; the message suggests the nearest name.
        """
        try:
            return self[name]
        except KeyError:
            raise InputError(f"unknown {self.kind} {name!r}; {nearest(name, self)}known: {', '.join(self)}") from None
