"""Tensors of which each process holds a part (FSDP2): as a whole, and filled from a whole."""

from __future__ import annotations

from torch import Tensor, nn


def is_sharded(model: nn.Module) -> bool:
    """Whether any parameter is spread over processes."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole(value: Tensor) -> Tensor:
    """A tensor with all its parts; all processes have to ask for it."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value.detach()  # type: ignore[no-any-return]


def fill(value: Tensor, source: Tensor) -> None:
    """Write a whole tensor into one that may be spread."""
    if hasattr(value, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        source = distribute_tensor(source.to(value.device), value.device_mesh, value.placements)  # type: ignore[attr-defined]
    value.copy_(source)


def class_name(module: nn.Module) -> str:
    """The name of a module's class, past the class of its own that FSDP2 gives each module."""
    classes = [
        base for base in type(module).__mro__ if "FSDPModule" not in [parent.__name__ for parent in base.__mro__]
    ]
    return classes[0].__name__
