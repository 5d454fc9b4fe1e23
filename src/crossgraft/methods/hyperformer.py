"""Hyperformer: one small network writes the adapters of all tasks and layers.

Karimi Mahabadi, Ruder, Dehghani and Henderson, "Parameter-efficient Multi-task Fine-tuning for Transformers via Shared
Hypernetworks", ACL 2021, as VL-Adapter runs it: [task embedding; layer embedding] -> 128 -> ReLU -> 8 -> layer norm,
and one linear head for each position (sublayer) and direction that writes a projection's weight and bias. Encoder and
decoder have networks of their own; the task embeddings are common.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossgraft.adapt import AdaptedModel, Graft, Site, Stack
from crossgraft.errors import InputError
from crossgraft.methods.base import Init, Method, key_of, register_method
from crossgraft.methods.bottleneck import Activation, activate, default_sites, narrowed
from crossgraft.methods.options import check_choice, check_number, check_whole


@register_method("hyperformer")
@dataclass(frozen=True)
class Hyperformer(Method):
    """Options of Hyperformer: sizes of the embeddings, of the hidden layer and of what the heads read; the others are
    those of `Adapter`. With `init` "zero_up" the heads that write up-projections start at zero."""

    embedding: int = 512
    hidden: int = 128
    code: int = 8
    reduction: int = 8
    activation: Activation = "gelu_new"
    sites: tuple[str, ...] | None = None
    init: Init = "zero_up"
    std: float = 0.02

    paper: ClassVar[str] = "Karimi Mahabadi, Ruder, Dehghani and Henderson, ACL 2021"

    def __post_init__(self) -> None:
        check_whole(1, embedding=self.embedding, hidden=self.hidden, code=self.code, reduction=self.reduction)
        check_number(0, std=self.std)
        check_choice(Activation, activation=self.activation)
        check_choice(Init, init=self.init)

    def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
        sites = default_sites(model, self.sites)
        for name, site in sites.items():
            if site.width != model.stacks[site.stack].width:
                raise InputError(
                    f"sites: {name!r} is {site.width} wide, and Hyperformer writes adapters for hidden states "
                    f"({model.stacks[site.stack].width}); choose sublayers like *.feed_forward"
                )
        return HyperformerGraft(sites, model.stacks, tasks, self)


class HyperformerGraft(Graft):
    """Adapters at sites, written by a network a stack."""

    def __init__(
        self, sites: dict[str, Site], stacks: Mapping[str, Stack], tasks: tuple[str, ...], config: Hyperformer
    ) -> None:
        super().__init__(sites, tasks=tasks)
        self.config = config
        self.task_embedding = nn.Parameter(torch.randn(max(1, len(tasks)), config.embedding))
        self.networks = nn.ModuleDict()
        for name, stack in stacks.items():
            parts = dict.fromkeys(site.part for site in sites.values() if site.stack == name)
            if parts:
                self.networks[name] = Hypernetwork(stack, tuple(parts), config)

    def change(self, site: Site, hidden: Tensor, given: Tensor, task: str | None) -> Tensor:
        self.check_task(task)
        row = self.tasks.index(task) if task in self.tasks else 0
        network = self.networks[site.stack]
        (down, down_bias), (up, up_bias) = network(self.task_embedding[row], site.layer, site.part)  # type: ignore[operator]
        narrow = activate(self.config.activation, functional.linear(hidden, down, down_bias))  # (B, L, r)
        return hidden + functional.linear(narrow, up, up_bias)


class Hypernetwork(nn.Module):
    """Writes the adapters of one stack."""

    def __init__(self, stack: Stack, parts: tuple[str, ...], config: Hyperformer) -> None:
        super().__init__()
        self.width, self.narrow = stack.width, narrowed(stack.width, config.reduction)
        self.layer_embedding = nn.Parameter(torch.randn(stack.n_layers, config.embedding))
        self.encode = nn.Sequential(
            nn.Linear(2 * config.embedding, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.code),
            nn.LayerNorm(config.code),
        )
        self.heads = nn.ModuleDict()
        for part in parts:
            for direction, outputs in (("down", self.narrow), ("up", self.width)):
                for what, size in (("weight", self.narrow * self.width), ("bias", outputs)):
                    head = nn.Linear(config.code, size)
                    zero = direction == "up" and config.init == "zero_up"
                    nn.init.normal_(head.weight, std=0.0 if zero else config.std)
                    nn.init.zeros_(head.bias)
                    self.heads[f"{key_of(part)}_{direction}_{what}"] = head

    def forward(self, task: Tensor, layer: int, part: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        code = self.encode(torch.cat((task, self.layer_embedding[layer])))  # (8,)

        def write(direction: str, rows: int) -> tuple[Tensor, Tensor]:
            head = f"{key_of(part)}_{direction}"
            return self.heads[f"{head}_weight"](code).view(rows, -1), self.heads[f"{head}_bias"](code)

        return write("down", self.narrow), write("up", self.width)
