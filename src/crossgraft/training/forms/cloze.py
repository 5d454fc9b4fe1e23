"""Language models that learn masked words of sentences (`tasks.cloze`): a masked one fills them in where they stand, a
causal one goes on with them. Each learns the masked words and no others, since what it is shown beside the text was
made of all the others."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM

from crossgraft.adapt import AdaptedModel
from crossgraft.adapt.adapted import IGNORED
from crossgraft.models.architecture import language_config, pretrained
from crossgraft.tasks import Example
from crossgraft.tasks.cloze import MASK, masked_spans
from crossgraft.training.forms.base import TEXT, Form, Lesson, looking
from crossgraft.training.forms.seq2seq import weighted_loss

FAMILIES = ("bert", "roberta")
KEPT, OTHER = 0.1, 0.1  # shares of masked words that stay, and that become another token (BERT, Devlin et al. 2019)


class MaskedForm(Form):
    """A masked language model. Whole words are masked: all tokens of one become mask tokens, other ones, or stay."""

    cached = ()  # masks are drawn anew

    def laid_out(self, feature_width: int) -> nn.Module:
        return AutoModelForMaskedLM.from_config(language_config(self.recipe.backbone))

    def pretrained(self, folder: str, feature_width: int) -> nn.Module:
        model = pretrained(folder, FAMILIES, AutoModelForMaskedLM, whole=True, dtype=torch.float32)
        return model.eval()  # type: ignore[no-any-return]

    def texts(
        self, tokenizer: Any, texts: Sequence[str], length: int, seconds: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        hidden = [text.replace(MASK, tokenizer.mask_token) for text in texts]
        return super().texts(tokenizer, hidden, length, seconds)

    def targets(self, tokenizer: Any, inputs: Mapping[str, Tensor], lesson: Lesson) -> dict[str, Tensor]:
        tokens, words = masked_words(tokenizer, lesson)
        ids, labels = tokens["input_ids"], torch.full_like(tokens["input_ids"], IGNORED)
        for row, ((masked, _), places) in enumerate(zip(lesson.drawn, words, strict=True)):
            rng = random.Random(masked)  # as new as the masks are
            for word in places:
                labels[row, word] = ids[row, word]
                chance = rng.random()
                if chance >= KEPT + OTHER:
                    ids[row, word] = tokenizer.mask_token_id
                elif chance >= KEPT:
                    ids[row, word] = torch.tensor([rng.randrange(len(tokenizer)) for _ in word])
        return {**tokens, "labels": labels, "weights": torch.ones(len(ids))}

    def loss(
        self, model: nn.Module, adapted: AdaptedModel, given: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        with looking(adapted, given) as text:
            outputs = model(**text)
        return weighted_loss(outputs.logits, batch["labels"], batch["weights"]), outputs

    @torch.no_grad()
    def answers(
        self, adapted: AdaptedModel, tokenizer: Any, given: dict[str, Any], task: str, examples: Sequence[Example]
    ) -> list[str]:
        """The likeliest token at the first mask."""
        with looking(adapted, given) as text:
            logits = adapted(**text).logits
        at = (given["input_ids"] == tokenizer.mask_token_id).int().argmax(1)
        best = logits[torch.arange(len(at), device=at.device), at].argmax(1)
        return [tokenizer.decode([token]).strip() for token in best.tolist()]


def continued_words(tokenizer: Any, lesson: Lesson) -> dict[str, Tensor]:
    """What a causal model learns of a sentence: its masked words, each after the words before it."""
    tokens, words = masked_words(tokenizer, lesson)
    labels = torch.full_like(tokens["input_ids"], IGNORED)
    for row, places in enumerate(words):
        for word in places:
            labels[row, word] = tokens["input_ids"][row, word]
    return {**tokens, "labels": labels, "weights": torch.ones(len(labels))}


def masked_words(tokenizer: Any, lesson: Lesson) -> tuple[dict[str, Tensor], list[list[list[int]]]]:
    """A lesson's sentences, whole and padded on the right, and where the tokens of each masked word are."""
    sentences = [example.text for example in lesson.examples]
    side, tokenizer.padding_side = tokenizer.padding_side, "right"
    tokens = tokenizer(
        sentences, padding=True, truncation=True, max_length=lesson.length, return_offsets_mapping=True,
        return_tensors="pt",
    )  # fmt: skip
    tokenizer.padding_side = side
    words = []
    for row, (sentence, (masked, _)) in enumerate(zip(sentences, lesson.drawn, strict=True)):
        offsets = tokens["offset_mapping"][row].tolist()
        places = (
            [token for token, (left, right) in enumerate(offsets) if left < end and right > start]
            for start, end in masked_spans(sentence, masked)
        )
        words.append([place for place in places if place])  # none: it was cut off
    return {name: tokens[name] for name in TEXT}, words
