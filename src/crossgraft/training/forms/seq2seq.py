"""A T5 or BART that reads text and image tokens and writes its answers (VL-Adapter)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossgraft.adapt import AdaptedModel
from crossgraft.adapt.adapted import IGNORED
from crossgraft.models.architecture import language_config
from crossgraft.models.seq2seq import VisionSeq2Seq, VisionSeq2SeqConfig
from crossgraft.tasks import Example
from crossgraft.training.answering import answer
from crossgraft.training.forms.base import MEMORIES, Form, Lesson, knowing


class Seq2SeqForm(Form):
    """See the module."""

    also_train = ("visual_embedding.*", "layer_norms")

    def laid_out(self, feature_width: int) -> nn.Module:
        recipe = self.recipe
        language = language_config(recipe.backbone)
        language.vocab_size += recipe.extra_tokens
        return VisionSeq2Seq(VisionSeq2SeqConfig(language, feature_width, recipe.visual.images))

    def pretrained(self, folder: str, feature_width: int) -> nn.Module:
        visual = self.recipe.visual
        return VisionSeq2Seq.from_language_model(
            folder,
            feature_width=feature_width,
            images=visual.images,
            extra_tokens=self.recipe.extra_tokens,
            scale_to_words=visual.scale_to_words,
            seed=self.recipe.training.seed,
            dtype=torch.float32,
        )

    def targets(self, tokenizer: Any, inputs: Mapping[str, Tensor], lesson: Lesson) -> dict[str, Tensor]:
        texts = [target for target, _ in lesson.drawn]
        tokens = tokenizer(
            text_target=texts, padding=True, truncation=True, max_length=lesson.length, return_tensors="pt"
        )
        labels = tokens.input_ids.masked_fill(tokens.attention_mask == 0, IGNORED)
        return {"labels": labels, "weights": torch.tensor([weight for _, weight in lesson.drawn])}

    def loss(
        self, model: nn.Module, adapted: AdaptedModel, given: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        with knowing(adapted, given) as read:
            outputs = model(**read, labels=batch["labels"])
        return weighted_loss(outputs.logits, batch["labels"], batch["weights"]), outputs

    def answers(
        self, adapted: AdaptedModel, tokenizer: Any, given: dict[str, Any], task: str, examples: Sequence[Example]
    ) -> list[str]:
        with knowing(adapted, given) as read:
            offered = [example.choices for example in examples]
            return answer(adapted, tokenizer, read, self.tasks[task].decoding, offered)

    def seeing(self, adapted: AdaptedModel, given: Mapping[str, Any]) -> AbstractContextManager[dict[str, Any]]:
        """Images are read, and not looked at."""
        return knowing(adapted, given)

    def unused(self, pictured: bool) -> tuple[str, ...]:
        return () if pictured else ("visual_embedding.",)

    def prefix_inputs(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        below = {name: value for name, value in inputs.items() if name not in MEMORIES}
        return below, {name: inputs[name] for name in MEMORIES if name in inputs}


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """logits (B, M, V), labels (B, M) with -100 where there is none, weights (B,) -> the mean over samples of weight
    times token-mean cross-entropy."""
    losses = functional.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    counts = (labels != IGNORED).sum(1).clamp(min=1)
    return (losses.sum(1) / counts * weights.to(losses.dtype)).mean()
