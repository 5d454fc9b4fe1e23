"""Tokens before a text, in any family: put in where a stack takes its tokens, and taken out where they would be in the
way.

Encoder alone (BERT): the prompt's states are cut off again, so heads see the positions they know.
Encoder and decoder (T5, BART): they stay, and the decoder attends to them.
Causal (LLaMA): they are part of the cache after the first step, and are cut off the output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from crossgraft.adapt.sites import Stack
from crossgraft.errors import InputError

Prompt = Callable[[str, Tensor], Tensor | None]
"""(stack's name, a tensor of the batch) -> tokens (B, P, width), or None."""


class PromptHooks:
    """The hooks that put a prompt before what a model's text stack is given.

    Args:
        model: the backbone.
        stacks: its stacks.
        prompt: gives the tokens.
    """

    def __init__(self, model: nn.Module, stacks: Mapping[str, Stack], prompt: Prompt) -> None:
        self._prompt = prompt
        self._length = 0  # of the prompt of the forward pass that is going on
        encoder, decoder = stacks.get("encoder"), stacks.get("decoder")
        stack = encoder or decoder
        if stack is None:
            raise InputError(f"prompts go before the text of a language model; this one has {', '.join(stacks)}")
        self._stack, self._embed = stack, _embedding(model, stack)
        entry = model.get_submodule(stack.entry)
        self._hooks = [entry.register_forward_pre_hook(self._put_in, with_kwargs=True)]
        if encoder is not None and decoder is not None:
            cross = model.get_submodule(decoder.entry)
            self._hooks.append(cross.register_forward_pre_hook(self._widen_mask, with_kwargs=True))
        else:
            self._hooks.append(model.get_submodule(stack.path).register_forward_hook(self._cut_off, prepend=True))

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _put_in(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        kwargs = dict(kwargs)
        if args:
            kwargs["input_ids"], *rest = args
            if rest:
                raise InputError(f"with a prompt, give {type(module).__name__} its arguments by name")
        embeds, ids = kwargs.get("inputs_embeds"), kwargs.get("input_ids")
        given = ids if embeds is None else embeds
        if given is None:
            raise InputError(f"{type(module).__name__} was given neither input_ids nor inputs_embeds; give one of them")
        tokens = self._prompt(self._stack.name, given)
        self._length = 0
        if tokens is None:
            return (), kwargs
        n = tokens.shape[1]
        mask = kwargs.get("attention_mask")
        if mask is not None:
            kwargs["attention_mask"] = _widened(mask, n)
        cache = kwargs.get("past_key_values")
        seen = cache.get_seq_length() if cache is not None else 0
        if seen:  # the prompt is in the cache; only positions have to make room for it
            if (positions := kwargs.get("position_ids")) is not None:
                kwargs["position_ids"] = positions + n
            return (), kwargs
        if embeds is None:
            embeds = self._embed(ids)
        kwargs["inputs_embeds"], kwargs["input_ids"] = torch.cat((tokens.to(embeds.dtype), embeds), 1), None
        if (positions := kwargs.get("position_ids")) is not None:
            first = torch.arange(n, device=positions.device).expand(len(positions), n)
            kwargs["position_ids"] = torch.cat((first, positions + n), 1)
        if (types := kwargs.get("token_type_ids")) is not None:
            kwargs["token_type_ids"] = torch.cat((types.new_zeros(len(types), n), types), 1)
        self._length = n
        return (), kwargs

    def _cut_off(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._length:
            output.last_hidden_state = output.last_hidden_state[:, self._length :]
        return output

    def _widen_mask(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """The decoder is told the mask of the text; what the encoder gives is longer by the prompt."""
        states, mask = kwargs.get("encoder_hidden_states"), kwargs.get("encoder_attention_mask")
        if states is None or mask is None or states.shape[1] == mask.shape[1]:
            return args, kwargs
        return args, kwargs | {"encoder_attention_mask": _widened(mask, states.shape[1] - mask.shape[1])}


def _embedding(model: nn.Module, stack: Stack) -> nn.Module:
    if not stack.layout.embed:
        raise InputError(f"prompts are not for the {stack.name} stack of this model")
    return model.get_submodule(".".join(part for part in (stack.entry, stack.layout.embed) if part))


def _widened(mask: Tensor, n: int) -> Tensor:
    """An attention mask (B, L) with n ones before it."""
    return torch.cat((mask.new_ones(len(mask), n), mask), 1)
