"""Compacter: bottleneck adapters whose projections are sums of Kronecker products.

Karimi Mahabadi, Henderson and Ruder, "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers", NeurIPS 2021.
W = sum over i < k of kron(A_i, B_i), A_i (k, k), B_i (in / k, out / k). VL-Adapter's best setting is k = 2 with rules A of
each projection's own and full B; Compacter's own variant shares the rules between all projections and makes each B_i the
product of two thin matrices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossgraft.adapt import AdaptedModel, Graft, Site
from crossgraft.errors import InputError
from crossgraft.methods.adapter import Activation, activate, default_sites
from crossgraft.methods.base import Init, Method, PerTask, Sharing, key_of, own_tasks, register_method


@register_method("compacter")
@dataclass(frozen=True)
class Compacter(Method):
    """Options of Compacter.

    `k`: how many Kronecker products are summed. `rank`: of each B, or None for full matrices (VL-Adapter).
    `shared_rule`: one set of A for all projections (Compacter) or one each (VL-Adapter). `rule_std`: A ~ N(0, rule_std).
    The others are those of `Adapter`.
    """

    k: int = 2
    rank: int | None = None
    shared_rule: bool = False
    rule_std: float = 0.01
    reduction: int = 8
    activation: Activation = "gelu_new"
    sharing: Sharing = "single"
    sites: tuple[str, ...] | None = None
    init: Init = "zero_up"

    paper: ClassVar[str] = "Karimi Mahabadi, Henderson and Ruder, NeurIPS 2021"

    def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
        return CompacterGraft(default_sites(model, self.sites), own_tasks(self.sharing, tasks), self)


class CompacterGraft(Graft):
    """Bottlenecks of hypercomplex layers at sites."""

    def __init__(self, sites: dict[str, Site], own: tuple[tuple[str, ...], tuple[str, ...]], config: Compacter) -> None:
        super().__init__(sites, tasks=own[0] or own[1])
        self.config = config
        self.rule = (
            nn.Parameter(torch.randn(config.k, config.k, config.k) * config.rule_std) if config.shared_rule else None
        )
        self.down = nn.ModuleDict({key_of(name): self._layers(site, own[0]) for name, site in sites.items()})
        self.up = nn.ModuleDict({key_of(name): self._layers(site, own[1], up=True) for name, site in sites.items()})

    def _layers(self, site: Site, tasks: tuple[str, ...], up: bool = False) -> PerTask:
        width, narrow, k = site.width, site.width // self.config.reduction, self.config.k
        if narrow % k or width % k or not narrow:
            raise InputError(f"k = {k} divides not both widths, {width} and {narrow}; choose another k or reduction")
        sizes = (narrow, width) if up else (width, narrow)
        zero = up and self.config.init == "zero_up"
        return PerTask(lambda: HypercomplexLinear(*sizes, self.config, zero), tasks)

    def change(self, site: Site, hidden: Tensor, given: Tensor, task: str | None) -> Tensor:
        self.check_task(task)
        key = key_of(site.name)
        narrow = activate(self.config.activation, self.down[key].of(task)(hidden, self.rule))  # (B, L, r)
        return hidden + self.up[key].of(task)(narrow, self.rule)


class HypercomplexLinear(nn.Module):
    """A linear layer (n_in -> n_out) whose weight is a sum of `config.k` Kronecker products."""

    def __init__(self, n_in: int, n_out: int, config: Compacter, zero: bool) -> None:
        super().__init__()
        k, rank = config.k, config.rank
        self.rule = None if config.shared_rule else nn.Parameter(torch.randn(k, k, k) * config.rule_std)
        if rank is None:
            self.full = nn.Parameter(_xavier(k, n_in // k, n_out // k, zero))  # B
        else:
            self.left = nn.Parameter(_xavier(k, n_in // k, rank, False))
            self.right = nn.Parameter(_xavier(k, rank, n_out // k, zero))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor, shared_rule: Tensor | None) -> Tensor:
        rule = shared_rule if self.rule is None else self.rule
        factors = self.full if hasattr(self, "full") else self.left @ self.right  # (k, in / k, out / k)
        weight = torch.einsum("iab,icd->acbd", rule, factors)  # sum of kron(A_i, B_i), its blocks unfolded
        k, (_, rows, columns) = len(rule), factors.shape  # type: ignore[arg-type]
        return functional.linear(x, weight.reshape(k * rows, k * columns).T, self.bias)


def _xavier(k: int, n_in: int, n_out: int, zero: bool) -> Tensor:
    """k matrices (n_in, n_out), Xavier-uniform with gain sqrt 2, or zeros."""
    bound = 0.0 if zero else math.sqrt(2) * math.sqrt(6 / (n_in + n_out))
    return (torch.rand(k, n_in, n_out) * 2 - 1) * bound
