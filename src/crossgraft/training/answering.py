"""Answers of a model: generated, or the likeliest of a few choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.tasks import Decoding
from crossgraft.training.batches import IGNORED


@torch.no_grad()
def answer(model: Any, tokenizer: Any, inputs: dict[str, Any], decoding: Decoding) -> list[str]:
    """One answer a row.

    Args:
        model: an adapted `VisionSeq2Seq`, in eval mode, its task set.
        inputs: what the encoder reads, or a prefix (`VisionSeq2Seq.generate`).
        decoding: how to answer.
    """
    if decoding.choices is not None:
        return _likeliest(model, tokenizer, inputs, decoding.choices)
    tokens = model.generate(
        **inputs, max_new_tokens=decoding.max_new_tokens, num_beams=decoding.num_beams, do_sample=False
    )
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def _likeliest(model: Any, tokenizer: Any, inputs: dict[str, Any], choices: Sequence[str]) -> list[str]:
    """The choice with the highest log-probability; where all choices differ in their first token, one position says it
    (NLVR2's "true" and "false")."""
    tokens = tokenizer(text_target=list(choices), padding=True, return_tensors="pt")
    labels = tokens.input_ids.masked_fill(tokens.attention_mask == 0, IGNORED)
    at = first_difference(labels)
    encoded, mask = encoded_of(model, inputs)
    if at is not None:
        labels = labels[:, : at + 1]
    scores = []
    device = encoded.last_hidden_state.device
    for choice in labels if at is None else labels[:1]:
        target = choice[choice != IGNORED].to(device).expand(len(mask), -1)
        logits = model(encoder_outputs=encoded, attention_mask=mask, labels=target).logits.float()
        if at is not None:
            return [choices[int(row)] for row in logits[:, at, labels[:, at].to(device)].argmax(-1)]
        scores.append(-functional.cross_entropy(logits.transpose(1, 2), target, reduction="none").sum(-1))
    return [choices[int(row)] for row in torch.stack(scores, -1).argmax(-1)]


def first_difference(labels: Tensor) -> int | None:
    """The position at which all choices (n, M) differ after a common start, or None."""
    for position in range(labels.shape[1]):
        column = labels[:, position]
        if len(column.unique()) == len(column) and IGNORED not in column:
            return position
        if len(column.unique()) > 1:
            return None
    return None


def encoded_of(model: Any, inputs: dict[str, Any]) -> tuple[Any, Tensor]:
    """The encoder's output for the inputs or the prefix, and its mask."""
    if "prefix" in inputs:
        return model.backbone.resume(inputs["prefix"])
    return model.backbone.encode(**inputs)
