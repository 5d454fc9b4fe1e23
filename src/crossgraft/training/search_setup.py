"""What a placement search begins with: the candidates, all in one model, and the examples that score them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossgraft.adapt import AdaptedModel
from crossgraft.errors import InputError
from crossgraft.methods.attach import attach
from crossgraft.methods.base import Method
from crossgraft.methods.parameters_only import ProjectionOnly
from crossgraft.tasks import Example
from crossgraft.training.build import fed
from crossgraft.training.forms import Form
from crossgraft.training.recipe import Recipe


def candidates(recipe: Recipe, model: AdaptedModel) -> dict[str, Method]:
    """Name -> the placed method's variant.

    Raises:
        InputError: the recipe has no such method, or the method no such option or value.
    """
    search, methods = recipe.search, recipe.methods()
    if search.method not in methods:
        raise InputError(f"search.method: {search.method!r} is none of the recipe's methods: {', '.join(methods)}")
    method = methods[search.method]
    if not hasattr(method, search.option):
        raise InputError(f"search.option: {search.method} has no option {search.option!r}")
    values = search.values
    if values is None:
        stacks = list(method.graft(model, tuple(recipe.tasks)).inserted)
        if not stacks or search.option != "layer":
            raise InputError("search.values is needed: the values of the option to choose among")
        values = tuple(range(model.stacks[stacks[0]].n_layers))
    if len(values) < 2:
        raise InputError(f"search.values: {len(values)} placements; a search needs two")
    made = {}
    for value in values:
        option = tuple(value) if isinstance(value, list) else value
        made[f"{search.option} {value}"] = replace(method, **{search.option: option})
    return made


def attach_all(
    model: AdaptedModel, recipe: Recipe, form: Form, widths: Mapping[str, int]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All placements and what they share, into a model -> the names of both."""
    methods = {name: fed(method, widths) for name, method in recipe.methods().items()}
    common: dict[str, Method] = {name: method for name, method in methods.items() if name != recipe.search.method}
    if any(method.in_place for method in common.values()):
        raise InputError("a search needs a frozen backbone; search with adapters, and train everything afterwards")
    if not common:
        common = {"shared": ProjectionOnly()}
    also = form.also_train if recipe.also_train is None else recipe.also_train
    tasks = tuple(recipe.tasks)
    for number, (name, method) in enumerate(common.items()):
        attach(model, name, method, tasks=tasks, also_train=() if number else also)
    made = {}
    for name, method in candidates(replace(recipe, method=_plain(methods)), model).items():
        made[name.replace(".", "_")] = method
    for name, method in made.items():
        attach(model, name, method, tasks=tasks)
    return tuple(made), tuple(common)


def _plain(methods: Mapping[str, Method]) -> list[dict[str, Any]]:
    return [{"name": name, **vars(method)} for name, method in methods.items()]


def hold_out(
    examples: Mapping[str, Sequence[Example]], share: float, seed: int
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """The places of examples to learn from, and of those held out, by task; an image is in one of them only.

    Raises:
        InputError: a task has too few images to do both.
    """
    rng = random.Random(f"{seed} held out")
    learned: dict[str, list[int]] = {}
    held: dict[str, list[int]] = {}
    for task, part in examples.items():
        groups = sorted({example.images or (Path(example.id),) for example in part})
        rng.shuffle(groups)
        out = set(groups[: max(1, round(share * len(groups)))])
        places = {True: [], False: []}  # type: ignore[var-annotated]
        for place, example in enumerate(part):
            places[(example.images or (Path(example.id),)) in out].append(place)
        if not places[False]:
            raise InputError(f"{task}: {len(groups)} images are too few to hold some out for the search")
        learned[task], held[task] = places[False], places[True]
    return learned, held
