"""Tokens that enter a stack before one of its layers: layers below run on the text alone.

Everything that goes with the hidden states of a layer is made to fit from there on (`fitting`), and caches hold more in
the layers above. Encoders alone and causal models give the positions of the text back; a sequence-to-sequence encoder
keeps the new tokens, and its decoder attends to them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossgraft.adapt.fitting import Level, Shape, fit_bias, fit_mask, fit_rotary, raised
from crossgraft.adapt.sites import Stack
from crossgraft.errors import InputError


class Text(NamedTuple):
    """What there is of the text: states (B, L, d) and which are real (B, L). Before a layer of an encoder or a causal
    model it is what enters that layer; for the decoder of a sequence-to-sequence model, what its encoder made."""

    states: Tensor
    mask: Tensor

    def rows(self, rows: Tensor) -> Text:
        """Some rows of the batch."""
        return Text(self.states[rows], self.mask[rows])


class Inserted(NamedTuple):
    """New tokens (B, n, d); which of them are there (B, n), None: all; and what is added to the text (B or 1, 1, d)."""

    tokens: Tensor
    present: Tensor | None = None
    shift: Tensor | None = None

    def before(self, other: Inserted) -> Inserted:
        """Both, these tokens first."""
        level = raised(raised(Level(), *other), *self)
        shifts = [shift for shift in (self.shift, other.shift) if shift is not None]
        tokens = torch.cat((self.tokens, other.tokens), 1)
        return Inserted(tokens, level.present, sum(shifts[1:], shifts[0]) if shifts else None)


Insert = Callable[[str, int, Callable[[], Text]], Inserted | None]
"""(stack's name, layer, gives the text) -> what enters before that layer."""


@dataclass
class Pass:
    """One forward pass of a stack, and the steps of a cached generation after it.

    `mask`: (B, L) of the text, as the model was given it. `question`: (B, L or less) which of it asks. `source`: of a
    decoder, what the encoder made. `levels`: layer -> what it sees of new tokens. `cut`: how many of them the stack's
    output begins with.
    """

    mask: Tensor | None = None
    question: Tensor | None = None
    source: Text | None = None
    levels: dict[int, Level] = field(default_factory=dict)
    cut: int = 0


class InsertionHooks:
    """The hooks that let tokens into one stack.

    They are bound methods and no closures, so that a deep copy of a model has hooks of its own.

    Args:
        model: the backbone.
        stacks: its stacks.
        name: of the stack that takes the tokens.
        insert: gives them.

    Attributes:
        now: the pass that is going on.
        question: which of the text to come asks (B, L), None: all of it. What follows it in a causal model is an
            answer, and nothing is made of that.

    Raises:
        InputError: the stack counts its positions in a way that leaves no room (BART's decoder).
    """

    def __init__(self, model: nn.Module, stacks: Mapping[str, Stack], name: str, insert: Insert) -> None:
        self._stack, self._insert = stacks[name], insert
        self._causal = name == "decoder"
        self._crossing = name == "decoder" and "encoder" in stacks
        self.now = Pass()
        self.question: Tensor | None = None
        layers = [model.get_submodule(self._stack.layer_path(layer)) for layer in range(self._stack.n_layers)]
        self._names = _parameters(layers[0])
        if self._crossing and "position_bias" not in self._names:
            raise InputError("tokens cannot enter this decoder, which counts positions by its cache; use the encoder")
        entry, self._module = model.get_submodule(self._stack.entry), model.get_submodule(self._stack.path)
        self._entry_names = _parameters(entry)
        self._hooks = [entry.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True)]
        for number, layer in enumerate(layers):
            hook = partial(self._before, number)
            self._hooks.append(layer.register_forward_pre_hook(hook, with_kwargs=True, prepend=True))
        if name == "encoder" and "decoder" in stacks:
            cross = model.get_submodule(stacks["decoder"].entry)
            self._hooks.append(cross.register_forward_pre_hook(self._widen_cross, with_kwargs=True, prepend=True))
        else:
            self._hooks.append(self._module.register_forward_hook(self._cut_off, prepend=True))

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    # ---------------------------------------------------------------- where the stack begins

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        given = dict(zip(self._entry_names, args, strict=False)) | kwargs
        if seen := _length(given.get("past_key_values"), 0):
            return self._make_room(args, given, seen)
        mask = given.get("attention_mask")
        if mask is not None and mask.ndim != 2:
            raise InputError(
                f"attention_mask: tokens are inserted: expected (batch, length), found {tuple(mask.shape)}"
            )
        source = self._encoded(given) if self._crossing else None
        self.now = Pass(mask, None if source is not None else self.question, source)
        return None

    @staticmethod
    def _encoded(given: Mapping[str, Any]) -> Text:
        states, mask = given.get("encoder_hidden_states"), given.get("encoder_attention_mask")
        if states is None:
            raise InputError("tokens are to enter the decoder, which was given nothing of an encoder")
        return Text(states, _real(mask, states))

    def _make_room(self, args: Any, given: dict[str, Any], seen: int) -> Any:
        """A step with a cache: new tokens before the first layer are in it, and are no positions of the text."""
        first = self.now.levels.get(0, Level())
        if not first.tokens:
            return None
        if (mask := given.get("attention_mask")) is not None:
            given["attention_mask"] = torch.cat((first.shown(len(mask), mask.dtype, mask.device), mask), 1)
        if "position_ids" in self._entry_names and given.get("position_ids") is None:
            embeds = given.get("inputs_embeds")
            ids = given["input_ids"] if embeds is None else embeds
            start = seen - first.tokens
            given["position_ids"] = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
        return _arguments(given, self._entry_names, args)

    # ---------------------------------------------------------------- before its layers

    def _before(self, number: int, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        given = dict(zip(self._names, args, strict=False)) | kwargs
        hidden: Tensor = given["hidden_states"]
        past = _length(given.get("past_key_values"), number)
        if past:  # the new tokens are in the cache, and all that comes is text
            level = self.now.levels.get(number, Level())
            hidden = hidden if level.shift is None else hidden + level.shift.to(hidden.dtype)
        else:
            below = self.now.levels.get(number - 1, Level())
            found = self._insert(self._stack.name, number, partial(self._text, hidden, below.tokens))
            level = below._replace(shift=None) if found is None else raised(below, *found)
            self.now.levels[number] = level
            if found is not None:
                earlier, text = hidden[:, : below.tokens], hidden[:, below.tokens :]
                text = text if found.shift is None else text + found.shift.to(text.dtype)
                hidden = torch.cat((found.tokens.to(hidden.dtype), earlier, text), 1)
        self.now.cut = 0 if past else level.tokens
        if not level.tokens:
            return None
        given["hidden_states"] = hidden
        self._fit(given, level, past, layer)
        return _arguments(given, self._names, args)

    def _text(self, hidden: Tensor, inserted: int) -> Text:
        if self.now.source is not None:
            return self.now.source
        states, mask = hidden[:, inserted:], self.now.mask
        if (question := self.now.question) is not None:
            length = states.shape[1] if mask is None else mask.shape[1]
            asks = question.repeat_interleave(len(states) // len(question), 0).bool()  # beams repeat rows
            asks = functional.pad(asks, (0, length - asks.shape[1]))
            mask = asks if mask is None else asks & mask.bool()
            if not bool(mask.any(1).all()):
                raise InputError("question: a row has no token that asks; tokens are made of the question alone")
        return Text(states, _real(mask, states))

    def _fit(self, given: dict[str, Any], level: Level, past: int, layer: nn.Module) -> None:
        queries = given["hidden_states"].shape[1]
        shape = Shape(queries, past + queries, 0 if past else level.tokens)
        given["attention_mask"] = fit_mask(
            given.get("attention_mask"), level, shape, given["hidden_states"], self._causal
        )
        if given.get("position_embeddings") is not None:
            fit_rotary(given, level, shape, self._module, self.now.mask)
        if "position_bias" in self._names:
            fit_bias(given, level, shape, layer)

    # ---------------------------------------------------------------- where it ends

    def _cut_off(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The states of the text."""
        if not self.now.cut:
            return output
        if isinstance(output, tuple):
            return (output[0][:, self.now.cut :], *output[1:])
        output.last_hidden_state = output.last_hidden_state[:, self.now.cut :]
        return output

    def _widen_cross(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """A decoder is told the mask of the text; what the encoder gives is longer by the new tokens, which come first,
        and by a prompt."""
        level, states = self.now.levels.get(self._stack.n_layers - 1, Level()), kwargs.get("encoder_hidden_states")
        if states is None or not level.tokens:
            return None
        mask = kwargs.get("encoder_attention_mask")
        if mask is None:
            mask = states.new_ones(len(states), states.shape[1] - level.tokens)
        elif mask.shape[1] == states.shape[1]:
            return None
        shown = level.shown(len(mask), mask.dtype, mask.device)
        prompt = mask.new_ones(len(mask), states.shape[1] - level.tokens - mask.shape[1])
        return args, kwargs | {"encoder_attention_mask": torch.cat((shown, prompt, mask), 1)}


def _parameters(module: nn.Module) -> list[str]:
    """Names of what a module's forward takes, in order."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


def _arguments(given: dict[str, Any], names: list[str], args: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by name -> as they came, by place and by name."""
    placed = names[: len(args)]
    return tuple(given[name] for name in placed), {name: given[name] for name in given if name not in placed}


def _real(mask: Tensor | None, states: Tensor) -> Tensor:
    """Which states (B, S, d) are real text (B, S): prompts before it have no entry in its mask, and are none."""
    if mask is None:
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    return functional.pad(mask.bool(), (states.shape[1] - mask.shape[1], 0))


def _length(cache: Any, layer: int) -> int:
    """How many positions a layer's cache holds."""
    return 0 if cache is None else int(cache.get_seq_length(layer))
