"""Methods that put nothing in and train parameters the backbone has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from crossgraft.adapt import AdaptedModel, Graft
from crossgraft.errors import InputError
from crossgraft.methods.base import Method, register_method


@dataclass(frozen=True)
class _ParametersOnly(Method):
    def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
        return Graft()


@register_method("bitfit")
@dataclass(frozen=True)
class BitFit(_ParametersOnly):
    """All biases. A T5 has none, and says so."""

    paper: ClassVar[str] = "Ben Zaken, Goldberg and Ravfogel, ACL 2022"
    tunes: ClassVar[tuple[str, ...]] = ("biases",)

    def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
        inside = tuple(f"{stack.path}." if stack.path else "" for stack in model.stacks.values())
        names = [name for name, _ in model.backbone.named_parameters() if name.endswith(".bias")]
        if not any(name.startswith(inside) for name in names):
            raise InputError(
                f"bitfit trains biases, and the layers of this {type(model.backbone).__name__} have none; choose "
                "another method, such as lora or adapter"
            )
        return super().graft(model, tasks)


@register_method("full")
@dataclass(frozen=True)
class FullFineTuning(_ParametersOnly):
    """Everything, in place: the frozen backbone is lost, which is what it costs."""

    paper: ClassVar[str] = "full fine-tuning"
    tunes: ClassVar[tuple[str, ...]] = ("all",)
    in_place: ClassVar[bool] = True


@register_method("projection")
@dataclass(frozen=True)
class ProjectionOnly(_ParametersOnly):
    """Nothing of its own: only what `also_train` names, such as the projection of visual features."""

    paper: ClassVar[str] = "Sung, Cho and Bansal, CVPR 2022 (their lower bound)"
