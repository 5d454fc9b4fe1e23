"""Visual knowledge for models of text: experts that attend to what a frozen dual encoder knows of a sentence.

"Towards Versatile and Efficient Visual Knowledge Integration into Pre-trained Language Models with Cross-Modal
Adapters" (X-adapter), arXiv 2305.07358. A V-expert attends to images that were retrieved for the text, a T-expert to
the text as CLIP's text encoder reads it; only they train. The authors published no code, and what their abstract does
not say is a **reconstruction**: every such choice is an option here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossgraft.adapt import AdaptedModel, Graft, Shown, Site, select_sites
from crossgraft.errors import InputError
from crossgraft.methods.base import Method, key_of, register_method
from crossgraft.methods.bottleneck import Activation, activate
from crossgraft.methods.options import check_choice, check_number, check_whole

Fusion = Literal["sum", "sequence", "gate"]
RETRIEVED, READ = "retrieved", "text"
MEMORY = {"visual": RETRIEVED, "text": READ}
"""Expert -> the memory that it attends to: images found for a text, or the text as a dual encoder reads it."""


@register_method("xadapter")
@dataclass(frozen=True)
class XAdapter(Method):
    """Options of X-adapter.

    `experts`: "visual", "text", or both. `sites`: where they stand; None: behind every layer (its output). `width`: r,
    of queries, keys and values. `heads`: of their attention. `activation`: before the last projection, which starts at
    zero. `scale`: s, of what is added. `fusion` of two experts: the "sum" of what both add, one after the other in
    "sequence", or a "gate" for each, a sigmoid of the state that starts at one half. `visual_width`, `text_width`: of
    the memories; recipes know them by themselves.

    Trains, at each site d wide, 2 d + 2 d r + d + 2 g r numbers for an expert whose memory is g wide; a gate d + 1.
    """

    experts: tuple[str, ...] = ("visual", "text")
    sites: tuple[str, ...] | None = None
    width: int = 64
    heads: int = 1
    activation: Activation = "gelu"
    scale: float = 1.0
    fusion: Fusion = "sum"
    visual_width: int | None = None
    text_width: int | None = None

    paper: ClassVar[str] = "X-adapter, arXiv 2305.07358 (a reconstruction: no code was published)"

    def __post_init__(self) -> None:
        if not self.experts or len(set(self.experts)) < len(self.experts) or not set(self.experts) <= MEMORY.keys():
            raise InputError(f"experts is {list(self.experts)}, expected one or both of {', '.join(MEMORY)}, each once")
        given = {name: getattr(self, name) for name in ("visual_width", "text_width")}
        check_whole(1, width=self.width, heads=self.heads, **{key: v for key, v in given.items() if v is not None})
        if self.width % self.heads:
            raise InputError(f"width is {self.width} and heads {self.heads}: the one has to be a multiple of the other")
        check_number(0, scale=self.scale)
        check_choice(Activation, activation=self.activation)
        check_choice(Fusion, fusion=self.fusion)

    @property
    def memories(self) -> tuple[str, ...]:
        return tuple(MEMORY[name] for name in self.experts)

    def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
        outputs = {name: site for name, site in model.sites.items() if site.part == "output"}
        sites = outputs if self.sites is None else select_sites(model.sites, self.sites)
        widths = {"visual": self.visual_width, "text": self.text_width}
        for name in self.experts:
            if widths[name] is None:
                raise InputError(f"{name}_width is needed: how wide the memory {MEMORY[name]!r} is that it attends to")
        return ExpertGraft(sites, {name: widths[name] for name in self.experts}, self)  # type: ignore[misc]


class ExpertGraft(Graft):
    """The experts at each site.

    Args:
        sites: where.
        widths: expert -> width of its memory.
        config: the method's options.
    """

    looks = True

    def __init__(self, sites: Mapping[str, Site], widths: Mapping[str, int], config: XAdapter) -> None:
        super().__init__(sites=sites)
        self.scale, self.fusion = config.scale, config.fusion
        self.experts = nn.ModuleDict(
            {
                key_of(name): nn.ModuleDict(
                    {expert: Expert(site.width, width, config) for expert, width in widths.items()}
                )
                for name, site in sites.items()
            }
        )

    def look(
        self, site: Site, hidden: Tensor, given: Tensor, memories: Mapping[str, Shown], task: str | None
    ) -> Tensor:
        out, asked = hidden, hidden
        for name, expert in self.experts[key_of(site.name)].items():  # type: ignore[operator, union-attr]
            if MEMORY[name] in memories:
                out = out + self.scale * expert(asked, memories[MEMORY[name]]).to(hidden.dtype)
                asked = out if self.fusion == "sequence" else hidden
        return out


class Expert(nn.Module):
    """States (B, L, d) attend to a memory (B, T, g): up(act(attention(norm(h) Wq, M Wk, M Wv))), up zero at the start.

    Keys and values are made once for a memory, however many passes look at it (`Memory.once`).
    """

    def __init__(self, d: int, g: int, config: XAdapter) -> None:
        super().__init__()
        r = config.width
        self.heads, self.activation = config.heads, config.activation
        self.norm = nn.LayerNorm(d)
        self.q, self.k, self.v = nn.Linear(d, r, bias=False), nn.Linear(g, r, bias=False), nn.Linear(g, r, bias=False)
        self.up = nn.Linear(r, d)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.gate = nn.Linear(d, 1) if config.fusion == "gate" else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def forward(self, hidden: Tensor, shown: Shown) -> Tensor:
        """-> what is added (B, L, d); zeros in rows whose memory holds nothing."""
        seen, present = shown.memory.seen()
        normed = self.norm(hidden.to(self.q.weight.dtype))
        q = self._split(self.q(normed))  # (B, heads, L, r / heads)
        keys, values = shown.memory.once(self, (self.k.weight, self.v.weight), self._project)
        k, v = (shown.spread(part).to(q.dtype) for part in (keys, values))  # (B, heads, T, r / heads)
        mask = shown.spread(seen)[:, None, None]  # (B, 1, 1, T)
        attended = functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
        added: Tensor = self.up(activate(self.activation, attended))
        if self.gate is not None:
            added = added * torch.sigmoid(self.gate(normed))
        return added if present is None else added * shown.spread(present)[:, None, None].to(added.dtype)

    def _project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = tokens.to(self.k.weight.dtype)
        return self._split(self.k(tokens)), self._split(self.v(tokens))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)
