"""Dataclasses from what people write in YAML and JSON, with errors that name the key and what was expected."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from crossgraft.errors import InputError
from crossgraft.registry import nearest

Config = TypeVar("Config")
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")


def from_mapping(cls: type[Config], values: Any, where: str) -> Config:
    """Make a dataclass from a mapping of its fields; nested dataclasses, tuples, dicts and paths are made too.

    Args:
        cls: a dataclass.
        values: the mapping.
        where: what messages put before a key, such as "recipe.yaml: method".

    Raises:
        InputError: no mapping; an unknown key (the nearest known one is suggested); a key that is needed and not given;
            a value of another type, or one that the dataclass itself refuses.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected keys and values, found {values!r:.60}")
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; {nearest(str(key), known)}known: {', '.join(known)}")
    hints = get_type_hints(cls)
    made = {}
    for name, field in known.items():
        if name in values:
            made[name] = _value(hints[name], values[name], f"{where}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{where}: {name!r} is needed; keys: {', '.join(known)}")
    try:
        return cls(**made)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type that `hint` asks for."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _first_that_fits(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise InputError(
                f"{where}: {value!r:.60}; {nearest(str(value), map(str, arguments))}known: {_list(arguments)}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: expected a list, found {value!r:.60}")
        return tuple(_value(arguments[0], part, f"{where}[{row}]") for row, part in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected keys and values, found {value!r:.60}")
        return {key: _value(arguments[1], part, f"{where}.{key}") for key, part in value.items()}
    if is_dataclass(hint):
        return value if isinstance(value, hint) else from_mapping(hint, value, where)  # type: ignore[arg-type]
    if hint is Path and isinstance(value, str | Path):
        return Path(value).expanduser()
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str) and _NUMBER.fullmatch(value):  # YAML reads 1e-3 as text
        return float(value)
    if hint in (str, int, bool, float, type(None)) and type(value) is hint:
        return value
    raise InputError(f"{where}: expected {_name(hint)}, found {value!r:.60}")


def _first_that_fits(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    problem: InputError | None = None
    for argument in arguments:
        try:
            return _value(argument, value, where)
        except InputError as error:
            problem = problem or error
    if len([argument for argument in arguments if argument is not type(None)]) == 1 and problem is not None:
        raise problem
    raise InputError(f"{where}: expected {' or '.join(map(_name, arguments))}, found {value!r:.60}")


def _name(hint: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    return names.get(hint, "nothing" if hint is type(None) else getattr(hint, "__name__", str(hint)))


def _list(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values))
