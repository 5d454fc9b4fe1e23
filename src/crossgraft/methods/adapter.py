"""Bottleneck adapters: x + U f(D x) on the output of a sublayer.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019; with weights shared over tasks: Sung, Cho
and Bansal, "VL-Adapter", CVPR 2022 (reduction 8, gelu_new, biases, before dropout, residual and layer norm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from crossgraft.adapt import AdaptedModel, Graft, Site
from crossgraft.methods.base import Init, Method, Sharing, own_tasks, register_method
from crossgraft.methods.bottleneck import Activation, BottleneckGraft, default_sites, narrowed
from crossgraft.methods.options import check_choice, check_number, check_whole


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

    def __post_init__(self) -> None:
        check_whole(1, reduction=self.reduction)
        if self.bottleneck is not None:
            check_whole(1, bottleneck=self.bottleneck)
        check_number(0, std=self.std)
        check_choice(Activation, activation=self.activation)
        check_choice(Sharing, sharing=self.sharing)
        check_choice(Init, init=self.init)

    def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
        sites = default_sites(model, self.sites)
        return BottleneckGraft(sites, own_tasks(self.sharing, tasks), self.activation, self._projection)

    def _projection(self, site: Site, up: bool) -> nn.Linear:
        width, narrow = site.width, self.bottleneck or narrowed(site.width, self.reduction)
        linear = nn.Linear(narrow, width) if up else nn.Linear(width, narrow)
        nn.init.normal_(linear.weight, std=0.0 if up and self.init == "zero_up" else self.std)
        nn.init.zeros_(linear.bias)
        return linear
