"""Visual tokens before a layer of a language model: all of an image's, or their mean as one token.

These are what dynamic visual prompts (`dvp`) are compared with: all tokens at layer 0 is full visual prompting, and one
linearly projected token is what Merullo et al. (LiMBeR, "Linearly Mapping from Image to Text Space", ICLR 2023) and
Shukor et al. (eP-ALM, ICCV 2023) give a frozen language model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from crossgraft.adapt import AdaptedModel, Graft, Inserted, Memories, Memory, Text
from crossgraft.errors import InputError
from crossgraft.methods.base import Method, register_method
from crossgraft.methods.options import check_choice, check_whole

Into = Literal["auto", "encoder", "decoder"]
Pool = Literal["none", "mean"]
VISUAL = "visual"  # the memory that holds an image's tokens


def stack_for(model: AdaptedModel, stack: Into) -> str:
    """The stack that visual tokens enter: by default the encoder where there is one.

    Raises:
        InputError: the model is none of language, or has no such stack.
    """
    have = [name for name in ("encoder", "decoder") if name in model.stacks]
    if not have or (stack != "auto" and stack not in have):
        raise InputError(f"stack is {stack!r}, and this model has {', '.join(model.stacks)}")
    return have[0] if stack == "auto" else stack


def known_feature_width(feature_width: int | None) -> int:
    """Raises:
    InputError: it is None."""
    if feature_width is None:
        raise InputError("feature_width is needed: how wide the visual features are that it will be given")
    return feature_width


@register_method("visual-tokens")
@dataclass(frozen=True)
class VisualTokens(Method):
    """Options. `layer`: the tokens enter before it. `stack`: into which they go; "auto": the encoder, or a causal
    model's decoder. `pool`: "none", a token for each of the image's, or "mean", one for all. `types`: two trained
    vectors that are added to text and tokens, zero at the start. `feature_width`: of what it is given; recipes know it
    by themselves.
    """

    layer: int = 0
    stack: Into = "auto"
    pool: Pool = "none"
    types: bool = True
    feature_width: int | None = None

    paper: ClassVar[str] = "Merullo et al., ICLR 2023; Shukor et al., ICCV 2023"

    def __post_init__(self) -> None:
        check_whole(0, layer=self.layer)
        check_choice(Into, stack=self.stack)
        check_choice(Pool, pool=self.pool)

    def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
        stack = stack_for(model, self.stack)
        where = {stack: self.layer}
        return ProjectedTokens(where, model.stacks[stack].width, known_feature_width(self.feature_width), self)


class VisualGraft(Graft):
    """Base of what lets tokens made of an image into a stack; without a visual memory the text stands alone.

    Args:
        where: stack -> layer.
        width: d, of the language model.
        types: whether two vectors (d,) are trained that are added to the text and to the tokens, from that layer on.
    """

    def __init__(self, where: Mapping[str, int], width: int, types: bool) -> None:
        super().__init__(inserted=where)
        self.types = nn.Parameter(torch.zeros(2, width)) if types else None  # text, image

    @abstractmethod
    def tokens(self, visual: Memory, seen: Tensor, text: Text) -> Tensor:
        """visual tokens (B, T, g), which of them to look at (B, T), and the text -> tokens (B, n, d)."""

    def insert(self, stack: str, text: Text, memories: Memories, task: str | None) -> Inserted | None:
        if VISUAL not in memories:
            return None
        visual = memories[VISUAL]
        seen, present = visual.seen()
        tokens = self.tokens(visual, seen, text)
        shift = None
        if self.types is not None:
            tokens = tokens + self.types[1]
            shift = self.types[0].expand(1, 1, -1)
            if present is not None:  # rows without an image are text alone
                shift = shift * present[:, None, None].to(shift.dtype)
        return Inserted(tokens, self.there(visual, present, tokens.shape[1]), shift)

    def there(self, visual: Memory, present: Tensor | None, n: int) -> Tensor | None:
        """Which of the tokens (B, n) are there, None: all; present (B,): which rows have an image, None: all."""
        return None if present is None else present[:, None].expand(-1, n)


class ProjectedTokens(VisualGraft):
    """A linear map of an image's tokens, or of their mean."""

    def __init__(self, where: Mapping[str, int], width: int, feature_width: int, config: VisualTokens) -> None:
        super().__init__(where, width, config.types)
        self.pool = config.pool
        self.project = nn.Linear(feature_width, width)

    def tokens(self, visual: Memory, seen: Tensor, text: Text) -> Tensor:
        given = visual.tokens.to(self.project.weight.dtype)  # (B, T, g)
        if self.pool == "mean":
            weight = seen[..., None].to(given.dtype)
            given = (given * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        return self.project(given)

    def there(self, visual: Memory, present: Tensor | None, n: int) -> Tensor | None:
        if self.pool == "mean" or visual.mask is None:
            return super().there(visual, present, n)
        return visual.mask.bool()
