"""LoRA: low-rank changes of the attention's projections, with peft's own layers underneath.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. peft makes, initialises, scales and merges
the matrices; they act through our hooks, so no module of the backbone is replaced and no key of its state dict changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from crossgraft.adapt import AdaptedModel, Graft, Site, select_sites
from crossgraft.errors import CrossgraftError, InputError
from crossgraft.methods.base import SHARED, Method, Sharing, key_of, own_tasks, register_method
from crossgraft.methods.options import check_number, check_pairs, check_whole


@register_method("lora")
@dataclass(frozen=True)
class LoRA(Method):
    """Options of LoRA, with VL-Adapter's values; its recipes also train all biases.

    `sites`: patterns; by default q and v of every attention. `rank_stabilized`: scale by alpha / sqrt(r).
    """

    r: int = 128
    alpha: int = 32
    dropout: float = 0.1
    sharing: Sharing = "single"
    sites: tuple[str, ...] | None = None
    rank_stabilized: bool = False

    paper: ClassVar[str] = "Hu et al., ICLR 2022; implemented by peft"

    def __post_init__(self) -> None:
        check_whole(1, r=self.r, alpha=self.alpha)
        check_number(0, 1, dropout=self.dropout)
        check_pairs(self.sharing, "LoRA's matrices are peft's, which go in pairs")

    def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
        own = own_tasks(self.sharing, tasks).down
        if self.sites is None:
            sites = {
                name: site for name, site in model.sites.items() if site.part.endswith(("attention.q", "attention.v"))
            }
        else:
            sites = select_sites(model.sites, self.sites)
        modules = {name: model.backbone.get_submodule(site.module) for name, site in sites.items()}
        if others := [name for name, module in modules.items() if not isinstance(module, nn.Linear)]:
            raise InputError(
                f"sites: LoRA is for linear layers, and {others[0]} is none; choose projections like *.self_attention.q"
            )
        return LoRAGraft(sites, modules, own, self)


class LoRAGraft(Graft):
    """peft's LoRA layers beside linear layers of the backbone."""

    def __init__(
        self, sites: dict[str, Site], modules: dict[str, nn.Module], tasks: tuple[str, ...], config: LoRA
    ) -> None:
        super().__init__(sites, tasks=tasks)
        self.layers = nn.ModuleDict(
            {key_of(name): _lora_layer(modules[name], tasks or (SHARED,), config) for name in sites}
        )

    def change(self, site: Site, hidden: Tensor, given: Tensor, task: str | None) -> Tensor:
        self.check_task(task)
        layer: Any = self.layers[key_of(site.name)]
        key = task if self.tasks else SHARED
        low = layer.lora_A[key](layer.lora_dropout[key](given))  # (B, L, r)
        return hidden + layer.lora_B[key](low) * layer.scaling[key]

    def deltas(self, task: str | None) -> dict[str, Tensor]:
        self.check_task(task)
        key = task if self.tasks else SHARED
        return {
            site.module: self.layers[key_of(name)].get_delta_weight(key)  # type: ignore[operator]
            for name, site in self.sites.items()
        }


def _lora_layer(linear: nn.Module, names: tuple[str, ...], config: LoRA) -> nn.Module:
    """peft's layer for a linear layer, which it knows but does not hold: the backbone does."""
    try:
        from peft import LoraConfig
        from peft.tuners.lora.layer import Linear
    except ImportError as error:
        raise CrossgraftError("LoRA needs peft: pip install 'crossgraft[peft]'") from error
    options: dict[str, Any] = {"r": config.r, "lora_alpha": config.alpha}
    settings = LoraConfig(**options, lora_dropout=config.dropout, use_rslora=config.rank_stabilized)
    layer = Linear(linear, names[0], settings, **options)
    for name in names[1:]:
        layer.update_layer(name, config=settings, **options)
    object.__setattr__(layer, "base_layer", layer._modules.pop("base_layer"))
    layer.requires_grad_(True)
    return layer
