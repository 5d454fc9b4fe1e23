"""Prompt tuning: trained tokens before the text, written by a small network.

Lester, Al-Rfou and Constant, "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021; with the
reparametrisation of Li and Liang (prefix tuning, ACL 2021) as VL-Adapter has it: Embedding(40, d) -> Linear(800) ->
tanh -> Linear(d). With sharing "multiple" these are task-specific prompts, which may be active together with adapters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from crossgraft.adapt import AdaptedModel, Graft
from crossgraft.errors import InputError
from crossgraft.methods.base import Method, PerTask, Sharing, own_tasks, register_method
from crossgraft.methods.options import check_number, check_pairs, check_whole


@register_method("prompt")
@dataclass(frozen=True)
class Prompt(Method):
    """Options of prompt tuning. `length`: tokens. `hidden`: of the network that writes them; 0: they are trained
    themselves. `std`: of the embeddings at the start."""

    length: int = 40
    hidden: int = 800
    sharing: Sharing = "single"
    std: float = 0.02

    paper: ClassVar[str] = "Lester, Al-Rfou and Constant, EMNLP 2021; reparametrised as by Li and Liang, ACL 2021"

    def __post_init__(self) -> None:
        check_whole(1, length=self.length)
        check_whole(0, hidden=self.hidden)
        check_number(0, std=self.std)
        check_pairs(self.sharing, "prompts have no down- and up-projection")

    def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
        stack = model.stacks.get("encoder") or model.stacks.get("decoder")
        if stack is None:
            raise InputError(f"prompts go before the text of a language model; this one has {', '.join(model.stacks)}")
        return PromptGraft(stack.name, stack.width, own_tasks(self.sharing, tasks).down, self)


class PromptGraft(Graft):
    """Tokens before the text of one stack."""

    def __init__(self, stack: str, width: int, tasks: tuple[str, ...], config: Prompt) -> None:
        super().__init__(tasks=tasks, prompted=(stack,))
        self.prompts = PerTask(lambda: PromptWriter(width, config), tasks)

    def prompt(self, stack: str, task: str | None) -> Tensor:
        self.check_task(task)
        return self.prompts.of(task)()


class PromptWriter(nn.Module):
    """-> tokens (P, width)."""

    def __init__(self, width: int, config: Prompt) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(config.length, width) * config.std)
        self.network = (
            nn.Sequential(nn.Linear(width, config.hidden), nn.Tanh(), nn.Linear(config.hidden, width))
            if config.hidden
            else nn.Identity()
        )

    def forward(self) -> Tensor:
        return self.network(self.tokens)
