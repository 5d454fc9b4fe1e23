"""What a method puts into a frozen model: a module that changes hidden states at sites, or tokens before a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from crossgraft.adapt.insertion import Inserted, Text
from crossgraft.adapt.memory import Memories, Shown
from crossgraft.adapt.sites import Site
from crossgraft.errors import InputError


class Graft(nn.Module):
    """Base class. A method writes `change` (or `look`), `prompt` or `insert`, or none, if it only trains the backbone's
    parameters.

    Args:
        sites: the sites whose hidden states it changes.
        tasks: the tasks it tells apart; empty if it has one set of weights for all.
        prompted: names of the stacks that it puts tokens before.
        inserted: stack -> the layer before which it lets tokens into that stack.

    Class attributes:
        looks: whether what it does at its sites is `look`, and not `change`.
    """

    looks: ClassVar[bool] = False

    def __init__(
        self,
        sites: Mapping[str, Site] | None = None,
        tasks: tuple[str, ...] = (),
        prompted: tuple[str, ...] = (),
        inserted: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.sites = dict(sites or {})
        self.tasks = tasks
        self.prompted = prompted
        self.inserted = dict(inserted or {})

    def change(self, site: Site, hidden: Tensor, given: Tensor, task: str | None) -> Tensor:
        """New hidden states for a site: hidden (B, L, width), given (B, L, width_in) what the hooked module was given,
        -> (B, L, width)."""
        raise NotImplementedError

    def look(
        self, site: Site, hidden: Tensor, given: Tensor, memories: Mapping[str, Shown], task: str | None
    ) -> Tensor:
        """As `change`, for a graft that looks at memories, too: by name, those that there are."""
        raise NotImplementedError

    def prompt(self, stack: str, task: str | None) -> Tensor:
        """The tokens (P, width) before the text of a stack."""
        raise NotImplementedError

    def insert(self, stack: str, text: Text, memories: Memories, task: str | None) -> Inserted | None:
        """The tokens (B, n, d) that enter a stack before its layer `inserted[stack]`; None where there is nothing to
        make them of."""
        raise NotImplementedError

    def deltas(self, task: str | None) -> dict[str, Tensor]:
        """Module path -> what to add to its weight so that the graft can be left out.

        Raises:
            InputError: no such sum exists; no such task.
        """
        raise InputError(f"{type(self).__name__} is not linear in its input, so it cannot be merged into the weights")

    def check_task(self, task: str | None) -> None:
        """Raises:
        InputError: the graft has a set of weights a task, and no such task."""
        if self.tasks and task not in self.tasks:
            raise InputError(
                f"{f'unknown task {task!r}' if task else 'a task has to be set'}: this adapter has weights of its own "
                f"for each of {', '.join(self.tasks)}"
            )
