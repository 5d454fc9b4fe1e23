"""Compacter: bottleneck adapters whose projections are sums of Kronecker products.

Karimi Mahabadi, Henderson and Ruder, "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers", NeurIPS 2021.
W = sum over i < k of kron(A_i, B_i), A_i (k, k), B_i (in / k, out / k). VL-Adapter's best setting is k = 2 with rules A
of each projection's own and full B; Compacter's own variant shares the rules between all projections and makes each B_i
the product of two thin matrices.
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
from crossgraft.methods.base import Init, Method, OwnTasks, Sharing, own_tasks, register_method
from crossgraft.methods.bottleneck import Activation, BottleneckGraft, default_sites, narrowed
from crossgraft.methods.options import check_choice, check_number, check_whole


@register_method("compacter")
@dataclass(frozen=True)
class Compacter(Method):
    """Options of Compacter.

    `k`: how many Kronecker products are summed. `rank`: of each B, or None for full matrices (VL-Adapter).
    `shared_rule`: one set of A for all projections (Compacter) or one each (VL-Adapter). `rule_std`: A is drawn from
    N(0, rule_std). The others are those of `Adapter`.
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

    def __post_init__(self) -> None:
        check_whole(1, k=self.k, reduction=self.reduction)
        if self.rank is not None:
            check_whole(1, rank=self.rank)
        check_number(0, rule_std=self.rule_std)
        check_choice(Activation, activation=self.activation)
        check_choice(Sharing, sharing=self.sharing)
        check_choice(Init, init=self.init)

    def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
        return CompacterGraft(default_sites(model, self.sites), own_tasks(self.sharing, tasks), self)

    def projection(self, site: Site, up: bool) -> HypercomplexLinear:
        """The down- or up-projection of a site.

        Raises:
            InputError: k does not divide both widths.
        """
        width, narrow = site.width, narrowed(site.width, self.reduction)
        if narrow % self.k or width % self.k:
            raise InputError(
                f"k is {self.k}, expected a divisor of both widths, {width} and {narrow} (reduction {self.reduction}); "
                "choose another k or reduction"
            )
        n_in, n_out = (narrow, width) if up else (width, narrow)
        return HypercomplexLinear(n_in, n_out, self, zero=up and self.init == "zero_up")


class CompacterGraft(BottleneckGraft):
    """Bottlenecks of hypercomplex layers at sites."""

    def __init__(self, sites: dict[str, Site], own: OwnTasks, config: Compacter) -> None:
        super().__init__(sites, own, config.activation, config.projection)
        self.rule = _rule(config) if config.shared_rule else None

    def project(self, projection: nn.Module, x: Tensor) -> Tensor:
        return projection(x, self.rule)


class HypercomplexLinear(nn.Module):
    """A linear layer (n_in -> n_out) whose weight is a sum of `config.k` Kronecker products."""

    def __init__(self, n_in: int, n_out: int, config: Compacter, zero: bool) -> None:
        super().__init__()
        k, rank = config.k, config.rank
        self.rule = None if config.shared_rule else _rule(config)
        if rank is None:
            self.full = nn.Parameter(_xavier(k, n_in // k, n_out // k, zero))  # B
        else:
            self.left = nn.Parameter(_xavier(k, n_in // k, rank, False))
            self.right = nn.Parameter(_xavier(k, rank, n_out // k, zero))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def weight(self, shared_rule: Tensor | None = None) -> Tensor:
        """(n_in, n_out): the sum over i of kron(A_i, B_i)."""
        rule = shared_rule if self.rule is None else self.rule
        factors = self.full if hasattr(self, "full") else self.left @ self.right  # (k, in / k, out / k)
        blocks = torch.einsum("iab,icd->acbd", rule, factors)  # (k, in / k, k, out / k)
        return blocks.flatten(2, 3).flatten(0, 1)

    def forward(self, x: Tensor, shared_rule: Tensor | None = None) -> Tensor:
        return functional.linear(x, self.weight(shared_rule).T, self.bias)


def _rule(config: Compacter) -> nn.Parameter:
    """The matrices A, (k, k, k)."""
    return nn.Parameter(torch.randn(config.k, config.k, config.k) * config.rule_std)


def _xavier(k: int, n_in: int, n_out: int, zero: bool) -> Tensor:
    """k matrices (n_in, n_out), Xavier-uniform with gain sqrt 2, or zeros."""
    bound = 0.0 if zero else math.sqrt(2) * math.sqrt(6 / (n_in + n_out))
    return (torch.rand(k, n_in, n_out) * 2 - 1) * bound
