"""Sentences that ask for an object's colour: the last word is missing, and the model says which one it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from crossgraft.errors import InputError
from crossgraft.registry import nearest
from crossgraft.tasks.colors import ColoredObject
from crossgraft.tasks.files import one_line, read_text

PROMPTS = (
    "Q: What is the color of {object}? A: It is",
    "What is the color of {object}? It is",
    "What is the usual color of {object}?",
    "What is the typical color of {object}?",
    "The color of {object} is",
    "The usual color of {object} is",
    "The common color of {object} is",
    "The typical color of {object} is",
    "{object} usually {has} the color of",
)
"""The nine of VaLM (Wang et al. 2023, arXiv 2205.10178; six of them are Memory Colors'), which suit masked models and
causal ones. `{object}` is what "[DESCRIPTOR] [ITEM]" is there; the last one agrees in number and begins with a capital.
"""

PLACES = ("object", "objects", "is", "has")
_PLACE = re.compile(r"\{([^{}]*)\}")
_MASK = re.compile(r"\[[A-Z]+\]|<[a-z]*mask[a-z]*>", re.IGNORECASE)


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """A user's own prompts: a line each, as `PROMPTS` are; empty lines and lines that begin with # are passed over.

    Raises:
        InputError: the file is missing or empty, or a line is no prompt (`check_prompts`).
    """
    path = Path(path)
    lines = read_text(path).splitlines()
    numbered = {number: one_line(line) for number, line in enumerate(lines, 1)}
    kept = {number: line for number, line in numbered.items() if line and not line.startswith("#")}
    if not kept:
        raise InputError(f"{path}: holds no prompt; expected a line each, such as {PROMPTS[4]!r}")
    return check_prompts(list(kept.values()), [f"{path}, line {number}" for number in kept])


def check_prompts(prompts: Sequence[str], where: Sequence[str] | None = None) -> tuple[str, ...]:
    """The prompts, if each has a place for the object and none that is unknown.

    Args:
        where: what each is called in messages.

    Raises:
        InputError: a prompt without its place, with an unknown one, with a mask of its own, or that comes twice; none.
    """
    if not prompts:
        raise InputError("no prompt was given; expected at least one, such as those in PROMPTS")
    names = where if where is not None else [f"prompt {number}" for number in range(1, len(prompts) + 1)]
    seen: dict[str, str] = {}
    for name, prompt in zip(names, prompts, strict=True):
        if found := _MASK.search(prompt):
            raise InputError(
                f"{name}: {found.group()} stands in the prompt {prompt!r}; write {{object}} for the object with its "
                "article, and leave the colour's place out: it is behind the last word"
            )
        places = _PLACE.findall(prompt)
        unknown = [place for place in places if place not in PLACES]
        if unknown:
            raise InputError(
                f"{name}: {{{unknown[0]}}} is no placeholder: {nearest(unknown[0], PLACES)}choose from "
                f"{', '.join(f'{{{place}}}' for place in PLACES)}"
            )
        if not {"object", "objects"} & {*places}:
            raise InputError(f"{name}: has no {{object}}, so it asks for no object's colour: {prompt!r}")
        if prompt in seen:
            raise InputError(f"{name}: is the same as {seen[prompt]}; keep one of them")
        seen[prompt] = name
    return tuple(prompts)


def fill(prompt: str, one: ColoredObject) -> str:
    """The prompt about an object, without the colour.

    `{object}` becomes its phrase, `{objects}` its plural, `{is}` and `{has}` the verb that agrees with the phrase.

    Raises:
        InputError: the prompt wants a plural that the data set does not give.
    """
    if "{objects}" in prompt and one.plural is None:
        raise InputError(
            f"the prompt {prompt!r} wants the plural of {one.name!r}, which only CoDa gives; write {{object}}"
        )
    words = {
        "object": one.phrase,
        "objects": one.plural or "",
        "is": "are" if one.several else "is",
        "has": "have" if one.several else "has",
    }
    text = one_line(_PLACE.sub(lambda match: words[match.group(1)], prompt))
    return text[0].upper() + text[1:]
