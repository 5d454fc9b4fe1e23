"""Answers of a model: generated, or the likeliest of a few choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.adapt.adapted import IGNORED
from crossgraft.tasks import Decoding


@torch.no_grad()
def answer(
    model: Any, tokenizer: Any, inputs: dict[str, Any], decoding: Decoding, offered: Sequence[Sequence[str]] = ()
) -> list[str]:
    """One answer a row.

    Args:
        model: an adapted `VisionSeq2Seq`, in eval mode, its task set.
        inputs: what the encoder reads, or a prefix (`VisionSeq2Seq.generate`).
        decoding: how to answer.
        offered: of each row, the choices that are its own; those without any have the decoding's.
    """
    if any(offered):
        every = list(dict.fromkeys(choice for own in offered for choice in own or decoding.choices or ()))
        return _likeliest(model, tokenizer, inputs, every, [own or decoding.choices or every for own in offered])
    if decoding.choices is not None:
        return _likeliest(model, tokenizer, inputs, decoding.choices)
    tokens = model.generate(
        **inputs, max_new_tokens=decoding.max_new_tokens, num_beams=decoding.num_beams, do_sample=False
    )
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def _likeliest(
    model: Any,
    tokenizer: Any,
    inputs: dict[str, Any],
    choices: Sequence[str],
    offered: Sequence[Sequence[str]] | None = None,
) -> list[str]:
    """The choice with the highest log-probability. Where the choices are one token each, as NLVR2's "true" and "false"
    are, these tokens alone are compared, at their one position."""
    tokens = tokenizer(text_target=list(choices), padding=True, return_tensors="pt")
    labels = tokens.input_ids.masked_fill(tokens.attention_mask == 0, IGNORED)
    encoded, mask = encoded_of(model, inputs)
    labels = labels.to(encoded.last_hidden_state.device)

    def logits(choice: Tensor) -> Tensor:
        target = choice[choice != IGNORED].repeat(len(mask), 1)
        return model(encoder_outputs=encoded, attention_mask=mask, labels=target).logits.float()  # type: ignore[no-any-return]

    at = only_difference(labels)
    if at is not None:
        scored = logits(labels[0])[:, at, labels[:, at]]
    else:
        scores = []
        for choice in labels:
            made = logits(choice)
            target = choice[choice != IGNORED].repeat(len(mask), 1)
            scores.append(-functional.cross_entropy(made.transpose(1, 2), target, reduction="none").sum(-1))
        scored = torch.stack(scores, -1)  # (B, n)
    if offered is not None:
        allowed = torch.tensor([[choice in own for choice in choices] for own in offered], device=scored.device)
        scored = scored.masked_fill(~allowed, float("-inf"))
    return [choices[row] for row in scored.argmax(-1).tolist()]


def only_difference(labels: Tensor) -> int | None:
    """The one position at which choices (n, M) differ, each from all others; None if there is no such position."""
    different = [position for position in range(labels.shape[1]) if len(labels[:, position].unique()) > 1]
    if len(different) == 1 and len(labels[:, different[0]].unique()) == len(labels):
        return different[0]
    return None


def encoded_of(model: Any, inputs: dict[str, Any]) -> tuple[Any, Tensor]:
    """The encoder's output for the inputs or the prefix, and its mask."""
    if "prefix" in inputs:
        return model.backbone.resume(inputs["prefix"])
    return model.backbone.encode(**inputs)
