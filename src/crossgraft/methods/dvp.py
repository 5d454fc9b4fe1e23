"""Dynamic visual prompts: a few tokens that attention makes of an image for a text, let in before a layer.

"Adapting Pre-trained Language Models to Vision-Language Tasks via Dynamic Visual Prompting", arXiv 2306.00409. The
query is a vector of the text where it enters layer k, keys and values are the image's tokens; no residual, no norm, no
feed-forward. Layers below k run on the text alone, so that what they give can be kept (`adapt.prefix`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossgraft.adapt import AdaptedModel, Graft, Memory, Text
from crossgraft.errors import InputError
from crossgraft.methods.base import Method, register_method
from crossgraft.methods.options import check_choice, check_number, check_whole
from crossgraft.methods.visual_tokens import Into, VisualGraft, known_feature_width, stack_for

Query = Literal["auto", "first", "mean", "last", "learned"]
HEAD = 64  # units a head, where the paper does not say
CAUSAL_WIDTH, CAUSAL_HEADS = 512, 16  # the paper's for LLaMA


@register_method("dvp")
@dataclass(frozen=True)
class DVP(Method):
    """Options of dynamic visual prompts.

    `layer`: k, before which the tokens enter; None: the middle one, until a search finds a better. `stack`: into which;
    "auto": an encoder alone, T5's decoder (as the authors; "encoder" is an option), a causal model's decoder. `tokens`:
    how many; the n-th adds a trained vector to the query. `query`: "first" ([CLS]), "mean" over the real tokens, "last"
    real token, "learned" (blind to the text); "auto": first for an encoder alone, mean for T5, last for causal models.
    `width`, `heads`: of the attention; None: as wide as the model with 64 units a head, and for causal models 512 and
    16. `types`: two trained vectors added to text and prompt, zero at the start; None: not for causal models, as the
    authors. `feature_width`: of what it is given; recipes know it by themselves.
    """

    layer: int | None = None
    stack: Into = "auto"
    tokens: int = 1
    query: Query = "auto"
    width: int | None = None
    heads: int | None = None
    dropout: float = 0.1
    types: bool | None = None
    feature_width: int | None = None

    paper: ClassVar[str] = "Dynamic Visual Prompting, arXiv 2306.00409"

    def __post_init__(self) -> None:
        check_whole(1, tokens=self.tokens)
        given = {name: getattr(self, name) for name in ("width", "heads", "feature_width")}
        check_whole(1, **{name: value for name, value in given.items() if value is not None})
        if self.layer is not None:
            check_whole(0, layer=self.layer)
        check_number(0, 1, dropout=self.dropout)
        check_choice(Into, stack=self.stack)
        check_choice(Query, query=self.query)

    def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
        crossing = {"encoder", "decoder"} <= model.stacks.keys()
        stack = stack_for(model, "decoder" if crossing and self.stack == "auto" else self.stack)
        causal = stack == "decoder" and not crossing
        query = self.query
        if query == "auto":
            query = "last" if causal else "mean" if crossing else "first"
        layer = model.stacks[stack].n_layers // 2 if self.layer is None else self.layer
        if layer == 0 and query == "first" and stack == "encoder":
            warnings.warn(
                "dvp: the first token entering layer 0 is the same for every text: the prompt is blind to it; "
                "choose another layer, or query=mean",
                stacklevel=2,
            )
        d = model.stacks[stack].width
        width = self.width or (CAUSAL_WIDTH if causal else d)
        heads = self.heads or (CAUSAL_HEADS if causal and self.width is None else max(1, width // HEAD))
        if width % heads:
            raise InputError(f"width is {width} and heads {heads}: the one has to be a multiple of the other")
        attention = CrossAttention(d, known_feature_width(self.feature_width), width, heads, self.dropout)
        types = not causal if self.types is None else self.types
        return PromptFromImage({stack: layer}, d, types, query, self.tokens, attention)


class PromptFromImage(VisualGraft):
    """The graft: n tokens (B, n, d) made of an image for a text.

    Args:
        where, width, types: as of `VisualGraft`.
        query: which vector of the text asks.
        count: n.
        attention: makes tokens of queries and the image.
    """

    def __init__(
        self, where: Mapping[str, int], width: int, types: bool, query: Query, count: int, attention: CrossAttention
    ) -> None:
        super().__init__(where, width, types)
        self.query, self.attention = query, attention
        self.asked = nn.Parameter(torch.randn(count, width) * 0.02) if query == "learned" else None
        # Tokens after the first need queries of their own.
        self.offsets = nn.Parameter(torch.randn(count - 1, width) * 0.02) if count > 1 and query != "learned" else None

    def tokens(self, visual: Memory, seen: Tensor, text: Text) -> Tensor:
        if self.asked is not None:
            queries = self.asked.expand(len(text.states), -1, -1)
        else:
            queries = _vector(self.query, text)[:, None]  # (B, 1, d)
            if self.offsets is not None:
                queries = torch.cat((queries, queries + self.offsets), 1)
        return self.attention(queries, visual.tokens, seen)


def _vector(query: Query, text: Text) -> Tensor:
    """A vector (B, d) of the text: padding is never in it, on whichever side it is."""
    states, mask = text
    if query == "mean":
        weight = mask[..., None].to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1).clamp(min=1)
    places = mask.int()
    at = places.argmax(1) if query == "first" else places.shape[1] - 1 - places.flip(1).argmax(1)
    return states[torch.arange(len(states), device=states.device), at]


class CrossAttention(nn.Module):
    """Multi-head attention of queries (B, n, d) to tokens (B, T, g): four linear maps, dropout on the weights.

    Args:
        d: width of queries and output.
        g: width of the tokens attended to.
        width: of queries, keys and values inside.
        heads: how many.
        dropout: of attention weights, in training.
    """

    def __init__(self, d: int, g: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q, self.k, self.v = nn.Linear(d, width), nn.Linear(g, width), nn.Linear(g, width)
        self.o = nn.Linear(width, d)

    def forward(self, queries: Tensor, tokens: Tensor, seen: Tensor) -> Tensor:
        """seen (B, T): which tokens are attended to -> (B, n, d)."""
        dtype = self.q.weight.dtype
        tokens = tokens.to(dtype)
        q, k, v = (
            linear(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, n or T, width / heads)
            for linear, x in ((self.q, queries.to(dtype)), (self.k, tokens), (self.v, tokens))
        )
        dropout = self.dropout if self.training else 0.0
        made = functional.scaled_dot_product_attention(q, k, v, seen[:, None, None], dropout_p=dropout)
        return self.o(made.transpose(1, 2).flatten(2))
