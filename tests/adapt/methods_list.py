"""Every method with small options, and what families it is not for."""

from __future__ import annotations

import torch
from tiny_models import backbone

from crossgraft.adapt import AdaptedModel, Memory
from crossgraft.methods.adapter import Adapter
from crossgraft.methods.attach import attach
from crossgraft.methods.base import Method
from crossgraft.methods.compacter import Compacter
from crossgraft.methods.dvp import DVP
from crossgraft.methods.hyperformer import Hyperformer
from crossgraft.methods.lora import LoRA
from crossgraft.methods.parameters_only import BitFit, FullFineTuning
from crossgraft.methods.prompt_tuning import Prompt
from crossgraft.methods.visual_tokens import VisualTokens
from crossgraft.methods.xadapter import XAdapter

METHODS: dict[str, Method] = {
    "adapter": Adapter(reduction=4),
    "adapter-multiple": Adapter(reduction=4, sharing="multiple"),
    "adapter-half": Adapter(reduction=4, sharing="half_up"),
    "compacter": Compacter(reduction=4),
    "compacter-paper": Compacter(reduction=4, rank=1, shared_rule=True, sharing="multiple"),
    "hyperformer": Hyperformer(embedding=6, hidden=5, code=4, reduction=4),
    "lora": LoRA(r=3, dropout=0.0),
    "lora-multiple": LoRA(r=3, dropout=0.0, sharing="multiple"),
    "prompt": Prompt(length=3, hidden=8),
    "prompt-multiple": Prompt(length=2, hidden=0, sharing="multiple"),
    "dvp": DVP(layer=1, feature_width=6, dropout=0.0),
    "dvp-encoder": DVP(layer=0, stack="encoder", tokens=2, query="mean", feature_width=6, dropout=0.0),
    "visual-tokens": VisualTokens(feature_width=6),
    "xadapter": XAdapter(width=4, visual_width=6, text_width=5),
    "xadapter-gate": XAdapter(
        experts=("text",), sites=("*.feed_forward",), width=4, heads=2, fusion="gate", text_width=5
    ),
    "bitfit": BitFit(),
    "full": FullFineTuning(),
}
TASKS = ("a", "b")
WITHOUT_BIASES = ("t5", "sighted-t5", "llama", "mistral")
SINGLE_TOWERS = ("clip-text", "clip-vision")
CAUSAL = ("llama", "qwen2", "mistral")
INSERTED = ("dvp", "dvp-encoder", "visual-tokens")
LOOKING = (*INSERTED, "xadapter", "xadapter-gate")
TOKENS = ("prompt", *INSERTED)  # change what is attended to
_drawn = torch.Generator().manual_seed(0)
VISUAL = torch.randn(3, 4, 6, generator=_drawn)  # what methods that look at images are shown
MEMORIES = {  # of three rows
    "visual": VISUAL,
    "retrieved": torch.randn(3, 2, 6, generator=_drawn),
    "text": Memory(torch.randn(3, 5, 5, generator=_drawn), torch.tensor([[1, 1, 1, 0, 0], [1] * 5, [1, 1, 0, 0, 0]])),
}


def memories(rows: slice = slice(None)) -> dict[str, Memory]:
    """What there is to look at, of some of the rows."""
    return {
        name: (memory if isinstance(memory, Memory) else Memory(memory)).rows(rows) for name, memory in MEMORIES.items()
    }


def fits(method: str, family: str) -> bool:
    """Whether a family has what a method needs."""
    if method in INSERTED and family.startswith("sighted"):
        return False  # it has visual tokens of its own
    if method == "dvp" and family in ("bart", "marian"):
        return False  # their decoders count positions by their cache
    if method == "dvp-encoder" and family in CAUSAL:
        return False
    if method.startswith("prompt") or method in INSERTED:
        return family not in SINGLE_TOWERS
    return method != "bitfit" or family not in WITHOUT_BIASES


def adapted(method: str, family: str, *, moved: bool = True, seed: int = 0) -> AdaptedModel:
    """A backbone with one adapter whose weights, if `moved`, are not those of the start."""
    model = AdaptedModel(backbone(family))
    torch.manual_seed(seed)
    also = ("layer_norms",) if method in ("adapter", "lora") else ()
    attach(model, "new", METHODS[method], tasks=TASKS, also_train=also)
    model.set_task("a")
    model.set_memory(**memories())
    if moved:
        move(model, seed)
    return model.eval()


def move(model: AdaptedModel, seed: int) -> None:
    """Noise on everything that is trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
