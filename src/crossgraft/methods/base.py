"""What a method is: a frozen dataclass of its options that makes a `Graft` for a model. The registry is open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from torch import nn

from crossgraft.adapt import AdaptedModel, Graft
from crossgraft.errors import InputError
from crossgraft.registry import Registry

Sharing = Literal["single", "multiple", "half_down", "half_up"]
"""Whose weights tasks use: one set for all; a set each; half of it shared, the down- or the up-projection."""

Init = Literal["zero_up", "normal"]
"""How a new module starts: its last projection zero, so that nothing changes to the bit, or the authors' N(0, 0.02)."""

SHARED = "shared"  # the key of weights that all tasks use


@dataclass(frozen=True)
class Method(ABC):
    """Options of a method. A new method derives from this, writes `graft`, and is registered with `@register_method`.

    Class attributes:
        name: what recipes call it.
        paper: its source.
        tunes: roles or patterns of the backbone's parameters that it trains by its nature.
        in_place: those are trained themselves, not copies of them.

    Attributes:
        memories: what it looks at that is found for a text (`training.knowledge`), by name.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    tunes: ClassVar[tuple[str, ...]] = ()
    in_place: ClassVar[bool] = False

    @property
    def memories(self) -> tuple[str, ...]:
        return ()

    @abstractmethod
    def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
        """What to put into the model. `tasks`: the names of all tasks it will be trained on; may be empty.

        Raises:
            InputError: the options do not fit the model or the tasks.
        """


METHODS: Registry[type[Method]] = Registry("method", "name")
register_method = METHODS.register
get_method = METHODS.find


class PerTask(nn.ModuleDict):
    """One module for all tasks, or one for each.

    Args:
        make: makes a module.
        tasks: the tasks that get one of their own; empty for one that all share.
    """

    def __init__(self, make: Callable[[], nn.Module], tasks: tuple[str, ...] = ()) -> None:
        super().__init__({task: make() for task in tasks or (SHARED,)})

    def of(self, task: str | None) -> nn.Module:
        """The module that a task uses."""
        return self[SHARED] if SHARED in self else self[task]  # type: ignore[index]


class OwnTasks(NamedTuple):
    """The tasks that have a down-projection, and an up-projection, of their own; none where all share one."""

    down: tuple[str, ...]
    up: tuple[str, ...]


def own_tasks(sharing: Sharing, tasks: tuple[str, ...]) -> OwnTasks:
    """Which tasks have weights of their own.

    Raises:
        InputError: `sharing` tells tasks apart and there are none, or one of them cannot be a name.
    """
    if sharing == "single":
        return OwnTasks((), ())
    if not tasks:
        raise InputError(f"sharing is {sharing!r}, which tells tasks apart, and none were named; name tasks")
    names = nn.ModuleDict()
    if bad := [task for task in tasks if not task or "." in task or task == SHARED or hasattr(names, task)]:
        raise InputError(
            f"{bad[0]!r} cannot be a task's name here: expected text without dots, not {SHARED!r}, and no word that "
            "torch.nn.ModuleDict has a use for"
        )
    return OwnTasks(down=() if sharing == "half_down" else tasks, up=() if sharing == "half_up" else tasks)


def key_of(site: str) -> str:
    """A site's name as the name of a submodule, which has no dots."""
    return site.replace(".", "_")
