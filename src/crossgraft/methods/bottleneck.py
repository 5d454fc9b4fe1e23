"""What all bottleneck adapters share: where they go, their activation, and x + U f(D x)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from crossgraft.adapt import AdaptedModel, Graft, Site, select_sites
from crossgraft.errors import InputError
from crossgraft.methods.base import OwnTasks, PerTask, key_of

Activation = Literal["gelu_new", "gelu", "relu", "silu"]
SUBLAYERS = ("self_attention", "cross_attention", "feed_forward")


def activate(name: Activation, x: Tensor) -> Tensor:
    if name == "gelu_new":
        return functional.gelu(x, approximate="tanh")
    function: Callable[[Tensor], Tensor] = getattr(functional, name)
    return function(x)


def default_sites(model: AdaptedModel, sites: tuple[str, ...] | None) -> dict[str, Site]:
    """The sites that a recipe names, or the outputs of all sublayers."""
    if sites is None:
        return {name: site for name, site in model.sites.items() if site.part in SUBLAYERS}
    return select_sites(model.sites, sites)


def narrowed(width: int, reduction: int) -> int:
    """Width of the bottleneck of `width` hidden units.

    Raises:
        InputError: nothing is left of them.
    """
    if width < reduction:
        raise InputError(
            f"reduction is {reduction}, expected at most {width}: no bottleneck is left of {width} hidden units"
        )
    return width // reduction


class BottleneckGraft(Graft):
    """A down- and an up-projection at each site, each of them common to all tasks or one a task.

    Args:
        sites: where.
        own: the tasks that have a down-projection, and an up-projection, of their own.
        activation: between the two.
        make: (site, whether up) -> a projection.
    """

    def __init__(
        self,
        sites: dict[str, Site],
        own: OwnTasks,
        activation: Activation,
        make: Callable[[Site, bool], nn.Module],
    ) -> None:
        super().__init__(sites, tasks=own.down or own.up)
        self.activation = activation
        self.down = _at_sites(sites, own.down, make, False)
        self.up = _at_sites(sites, own.up, make, True)

    def change(self, site: Site, hidden: Tensor, given: Tensor, task: str | None) -> Tensor:
        self.check_task(task)
        down: PerTask = self.down[key_of(site.name)]  # type: ignore[assignment]
        up: PerTask = self.up[key_of(site.name)]  # type: ignore[assignment]
        narrow = activate(self.activation, self.project(down.of(task), hidden))  # (B, L, r)
        return hidden + self.project(up.of(task), narrow)

    def project(self, projection: nn.Module, x: Tensor) -> Tensor:
        """One projection of x (B, L, in) -> (B, L, out)."""
        return projection(x)


def _at_sites(
    sites: dict[str, Site], tasks: tuple[str, ...], make: Callable[[Site, bool], nn.Module], up: bool
) -> nn.ModuleDict:
    return nn.ModuleDict({key_of(name): PerTask(partial(make, site, up), tasks) for name, site in sites.items()})
