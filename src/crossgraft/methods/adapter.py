"""Bottleneck adapters: x + U f(D x) on the output of a sublayer.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019; with weights shared over tasks: Sung, Cho and
Bansal, "VL-Adapter", CVPR 2022 (reduction 8, gelu_new, biases, before dropout, residual and layer norm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional

from crossgraft.adapt import AdaptedModel, Graft, Site, select_sites
from crossgraft.errors import InputError
from crossgraft.methods.base import Init, Method, PerTask, Sharing, key_of, own_tasks, register_method

SUBLAYERS = ("*.self_attention", "*.feed_forward")

Activation = Literal["gelu_new", "gelu", "relu", "silu"]


def activate(name: Activation, x: Tensor) -> Tensor:
    if name == "gelu_new":
        return functional.gelu(x, approximate="tanh")
    return {"gelu": functional.gelu, "relu": functional.relu, "silu": functional.silu}[name](x)


def default_sites(model: AdaptedModel, sites: tuple[str, ...] | None) -> dict[str, Site]:
    """The sites that a recipe names, or the outputs of all sublayers."""
    if sites is not None:
        return select_sites(model.sites, sites)
    return {
        name: site
        for name, site in model.sites.items()
        if site.part in ("self_attention", "cross_attention", "feed_forward")
    }


@register_method("adapter")
@dataclass(frozen=True)
class Adapter(Method):
    """Options of bottleneck adapters.

    `reduction`: width / width of the bottleneck. `bottleneck`: that width itself, instead. `sites`: patterns
    (`select_sites`); by default the output of every sublayer. `init`: "zero_up" (exactly the identity at the start) or
    "normal", as the authors have it for BART: all weights N(0, `std`).
    """

    reduction: int = 8
    bottleneck: int | None = None
    activation: Activation = "gelu_new"
    sharing: Sharing = "single"
    sites: tuple[str, ...] | None = None
    init: Init = "zero_up"
    std: float = 0.02

    paper: ClassVar[str] = "Houlsby et al., ICML 2019; Sung, Cho and Bansal, CVPR 2022 (VL-Adapter)"

    def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
        return AdapterGraft(default_sites(model, self.sites), own_tasks(self.sharing, tasks), self)

    def width(self, site: Site) -> int:
        """Of the bottleneck at a site."""
        width = (
            self.bottleneck if self.bottleneck is not None else site.width // self.reduction if self.reduction else 0
        )
        if width < 1:
            raise InputError(f"reduction {self.reduction}: no bottleneck is left of {site.width} hidden units")
        return width


class AdapterGraft(Graft):
    """Bottlenecks at sites."""

    def __init__(self, sites: dict[str, Site], own: tuple[tuple[str, ...], tuple[str, ...]], config: Adapter) -> None:
        super().__init__(sites, tasks=own[0] or own[1])
        self.config = config
        self.down = nn.ModuleDict({key_of(name): self._projections(site, own[0]) for name, site in sites.items()})
        self.up = nn.ModuleDict(
            {key_of(name): self._projections(site, own[1], up=True) for name, site in sites.items()}
        )

    def _projections(self, site: Site, tasks: tuple[str, ...], up: bool = False) -> PerTask:
        widths = (site.width, self.config.width(site))

        def make() -> nn.Linear:
            linear = nn.Linear(*(reversed(widths) if up else widths))
            nn.init.normal_(linear.weight, std=0.0 if up and self.config.init == "zero_up" else self.config.std)
            nn.init.zeros_(linear.bias)
            return linear

        return PerTask(make, tasks)

    def change(self, site: Site, hidden: Tensor, given: Tensor, task: str | None) -> Tensor:
        self.check_task(task)
        key = key_of(site.name)
        narrow = activate(self.config.activation, self.down[key].of(task)(hidden))  # (B, L, r)
        return hidden + self.up[key].of(task)(narrow)
