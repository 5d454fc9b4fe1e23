"""Which parameters of a backbone to train: by role or by name, never by luck."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import nn

from crossgraft.errors import InputError
from crossgraft.registry import nearest

ROLES: dict[str, Callable[[str, nn.Module], bool]] = {
    "all": lambda name, owner: True,
    # By the class's name: T5LayerNorm and LlamaRMSNorm are no nn.LayerNorm, and isinstance would leave them out.
    "layer_norms": lambda name, owner: type(owner).__name__.endswith(("LayerNorm", "RMSNorm")),
    "biases": lambda name, owner: name.endswith(".bias"),
}
"""Role -> whether a parameter (its name and the module that owns it) has it."""


def select_parameters(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Names of the parameters that any pattern matches: a role, or a shell pattern over names ("*" also matches dots).

    A tied parameter is named once, by the first of its names.

    Raises:
        InputError: a pattern matches nothing.
    """
    if isinstance(patterns, str):
        raise InputError(f"parameters: expected a list of patterns, found the text {patterns!r}; write [{patterns!r}]")
    parameters = [name for name, _ in model.named_parameters()]
    chosen: set[str] = set()
    for pattern in patterns:
        role = ROLES.get(pattern)
        matching = {
            name
            for name in parameters
            if (role(name, model.get_submodule(name.rpartition(".")[0])) if role else fnmatchcase(name, pattern))
        }
        if not matching:
            raise InputError(
                f"parameters: {pattern!r} matches nothing in this model; {nearest(pattern, [*ROLES, *parameters])}"
                f"give a role ({', '.join(ROLES)}) or a pattern of names like {parameters[0]!r}"
            )
        chosen |= matching
    return [name for name in parameters if name in chosen]


def places_of(model: nn.Module, names: Iterable[str]) -> dict[str, list[tuple[nn.Module, str]]]:
    """Where each named parameter lives: (module, attribute) pairs, several if it is tied."""
    parameters = dict(model.named_parameters())
    wanted: dict[int, list[tuple[nn.Module, str]]] = {id(parameters[name]): [] for name in names}
    for module in model.modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in wanted:
                wanted[id(parameter)].append((module, leaf))
    return {name: wanted[id(parameters[name])] for name in names}
