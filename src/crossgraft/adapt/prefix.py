"""Frozen layers need to be run once a sample, not once a step.

Where nothing that is trained lies below layer k of a stack, the states entering layer k are the same in every epoch.
`frozen_layers` finds k by itself; `captured` takes the states out of a pass, `resumed` starts a pass from them. The
frozen layers then run as they do in evaluation, without dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crossgraft.adapt.adapted import AdaptedModel
from crossgraft.adapt.graft import Graft
from crossgraft.adapt.sites import Stack

BEHIND = ("lm_head.", "head.", "cls.", "classifier.", "pooler.")
"""Parameters that come behind all stacks: heads, by the names that models give them."""


class Prefix(NamedTuple):
    """What the first `layers` layers of a stack made of a batch: states (B, S, d), their mask (B, S), and how many of
    the S are text, which comes first."""

    layers: int
    states: Tensor
    mask: Tensor
    text_length: int


def frozen_layers(model: AdaptedModel, stack: str = "encoder", *, unused: tuple[str, ...] = ()) -> int:
    """How many layers at the bottom of a stack give the same states for a sample whatever is trained.

    Args:
        model: with the adapters that are trained active.
        stack: name of the stack.
        unused: prefixes of parameters that the samples do not use, such as "visual_embedding." for texts alone.

    Returns:
        k: layers 0 to k - 1, and all that comes before them, depend on nothing that is trained.
    """
    where = model.stacks[stack]
    first = where.n_layers
    for name in model.active:
        graft: Graft = model.grafts[name]  # type: ignore[assignment]
        if any(parameter.requires_grad for parameter in graft.parameters()):
            first = min(first, lowest_layer(graft, where))
    for name, parameter in model.backbone.named_parameters():
        if parameter.requires_grad and not name.startswith(unused or ("\n",)):
            first = min(first, _layer_of(name, where, model))
    return first


def lowest_layer(graft: Graft, stack: Stack) -> int:
    """The first layer of a stack whose input or work a graft changes; its number of layers if there is none."""
    if stack.name in graft.prompted:
        return 0
    layers = [
        # What an output hook of a layer changes is first met by the next one.
        site.layer + (site.part == "output")
        for site in graft.sites.values()
        if site.stack == stack.name
    ]
    return min([stack.n_layers, *layers, graft.inserted.get(stack.name, stack.n_layers)])


def _layer_of(parameter: str, stack: Stack, model: AdaptedModel) -> int:
    """The first layer whose input a parameter of the backbone may have changed."""
    for other in model.stacks.values():
        inside = f"{other.path}." if other.path else ""
        if not parameter.startswith(inside):
            continue
        rest = parameter.removeprefix(inside).split(".")
        if other.name != stack.name:
            if stack.name == "encoder" and other.name == "decoder" and inside:
                return stack.n_layers
            continue
        if rest[0] == stack.layout.layers:
            return int(rest[1])
        if rest[0] in stack.layout.tail:
            return stack.n_layers
    if parameter.removeprefix("language_model.").startswith(BEHIND):
        return stack.n_layers
    return 0  # an embedding, or something of which it is not known where it is used


@torch.no_grad()
def states_entering(model: nn.Module, stack: Stack, k: int, run: Callable[[], Any]) -> Tensor:
    """The states (B, S, d) entering layer k (k >= 1) of a stack, in evaluation; the layers above do not run.

    Args:
        model: what the stack is of.
        run: a forward pass through the stack.
    """
    last = model.get_submodule(stack.layer_path(k - 1))
    was_training = model.training
    model.eval()
    try:
        with captured(model, stack, k) as states, _stopping(last):
            run()
    except _Stop:
        pass
    finally:
        model.train(was_training)
    return states[0]


class _Stop(Exception):  # noqa: N818  (no error)
    """The layers above need not run."""


@contextmanager
def _stopping(layer: nn.Module) -> Iterator[None]:
    """A forward pass inside the `with` ends, by `_Stop`, behind a layer."""

    def stop(*ignored: Any) -> None:
        raise _Stop

    hook = layer.register_forward_hook(stop)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def captured(model: nn.Module, stack: Stack, k: int) -> Iterator[list[Tensor]]:
    """A list that a forward pass inside the `with` fills with the states (B, S, d) entering layer k (k >= 1)."""
    states: list[Tensor] = []
    layer = model.get_submodule(stack.layer_path(k - 1))
    # Before the hooks of adapters: what one does to the layer's output is done again when the states are resumed.
    hook = layer.register_forward_hook(
        lambda module, args, output: states.append(output[0] if isinstance(output, tuple) else output), prepend=True
    )
    try:
        yield states
    finally:
        hook.remove()


def capture(
    model: nn.Module, stack: Stack, k: int, input_ids: Tensor, attention_mask: Tensor | None = None, **more: Tensor
) -> Prefix:
    """What the first k layers of a language model's stack make of a text (B, L), in evaluation.

    Args:
        more: what its embeddings read beside the ids, such as BERT's token_type_ids; no layer asks for it again.
    """
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    entry = model.get_submodule(stack.entry)
    states = states_entering(model, stack, k, lambda: entry(input_ids=input_ids, attention_mask=mask, **more))
    return Prefix(k, states, mask, mask.shape[1])


@contextmanager
def resumed(model: nn.Module, stack: Stack, k: int, states: Tensor) -> Iterator[None]:
    """Inside the `with`, layers 0 to k - 1 of the stack do no work: layer k is given `states` (B, S, d).

    Run the stack on any embeddings of that shape.
    """
    with ExitStack() as undo:
        for number in range(k):
            layer = model.get_submodule(stack.layer_path(number))
            layer.forward = _idle(layer, states, first=number == 0)  # type: ignore[method-assign]
            undo.callback(layer.__dict__.pop, "forward")
        yield


def _idle(layer: nn.Module, states: Tensor, first: bool) -> Any:
    """A forward that returns the states in the form that the layer's class does."""
    if not type(layer).__name__.endswith("T5Block"):
        return lambda *args, **kwargs: states

    def forward(hidden: Tensor, mask: Any = None, position_bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        # T5's first layer makes the position bias that all others use.
        if first:
            attention: Any = layer.get_submodule("layer.0.SelfAttention")
            position_bias = attention.compute_bias(states.shape[1], states.shape[1], device=states.device)
        return states, position_bias, None

    return forward
