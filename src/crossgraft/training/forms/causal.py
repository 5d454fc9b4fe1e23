"""A causal language model (LLaMA) that reads a text, sees images by its adapters, and goes on with the answer.

To be asked, texts are padded on the left, as generation wants it; to be taught, text and answer stand side by side and
are padded on the right.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

from crossgraft.adapt import AdaptedModel
from crossgraft.adapt.adapted import IGNORED
from crossgraft.adapt.prefix import Prefix, capture, resumed
from crossgraft.adapt.sites import Stack
from crossgraft.models.architecture import language_config, pretrained
from crossgraft.models.classifier import CAUSAL
from crossgraft.tasks import Example
from crossgraft.tasks.cloze import MASK
from crossgraft.training.forms.base import TEXT, Drawn, Form, Lesson, looking
from crossgraft.training.forms.cloze import continued_words
from crossgraft.training.forms.seq2seq import weighted_loss

BEFORE_ANSWER = " "  # between text and answer; most tokenizers make it part of the answer's first token


class CausalForm(Form):
    """See the module."""

    padding = "left"
    cached = ("train",)  # generation begins with the text

    def laid_out(self, feature_width: int) -> nn.Module:
        return AutoModelForCausalLM.from_config(language_config(self.recipe.backbone))

    def pretrained(self, folder: str, feature_width: int) -> nn.Module:
        return pretrained(folder, CAUSAL, AutoModelForCausalLM, dtype=torch.float32).eval()  # type: ignore[no-any-return]

    def texts(
        self, tokenizer: Any, texts: Sequence[str], length: int, seconds: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """What is hidden is what comes next: all behind it is left out. Of nothing, a token to begin with is left."""
        nothing = tokenizer.bos_token or tokenizer.eos_token
        before = [text.split(MASK)[0].rstrip() or nothing for text in texts]
        return super().texts(tokenizer, before, length, seconds)

    def targets(self, tokenizer: Any, inputs: Mapping[str, Tensor], lesson: Lesson) -> dict[str, Tensor]:
        if lesson.task in self.tasks and self.tasks[lesson.task].cloze:
            return continued_words(tokenizer, lesson)
        end = [tokenizer.eos_token_id]
        answers = [torch.tensor([*_tokens(tokenizer, one)[: lesson.length - 1], *end]) for one, _ in lesson.drawn]
        texts = [ids[mask.bool()] for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
        both = list(zip(texts, answers, strict=True))
        return {
            "input_ids": _side_by_side([torch.cat(pair) for pair in both], end[0]),
            "attention_mask": _side_by_side([torch.ones_like(torch.cat(pair)) for pair in both], 0),
            "labels": _side_by_side([torch.cat((torch.full_like(t, IGNORED), a)) for t, a in both], IGNORED),
            "weights": torch.tensor([weight for _, weight in lesson.drawn]),
        }

    def stack(self, adapted: AdaptedModel) -> Stack:
        return adapted.stacks["decoder"]

    def capture(self, adapted: AdaptedModel, layers: int, **inputs: Tensor) -> Prefix:
        return capture(adapted.backbone, self.stack(adapted), layers, **inputs)

    def samples(self, batch: Mapping[str, Any], split: str) -> list[Hashable]:
        """What layers make of a row depends on the answer too, which may be drawn anew."""
        real = zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
        return [tuple(ids[mask].tolist()) for ids, mask in real]

    def loss(
        self, model: nn.Module, adapted: AdaptedModel, given: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        labels = batch["labels"]
        with looking(adapted, given, question=labels == IGNORED) as text:  # nothing is made of the answer
            prefix: Prefix | None = text.pop("prefix", None)
            if prefix is None:
                outputs = model(**text, use_cache=False)
            else:
                with resumed(adapted.backbone, self.stack(adapted), prefix.layers, prefix.states):
                    # Layers that are passed over only ask for something of that shape.
                    outputs = model(inputs_embeds=prefix.states, attention_mask=prefix.mask, **text, use_cache=False)
        return weighted_loss(outputs.logits[:, :-1], labels[:, 1:], batch["weights"]), outputs

    @torch.no_grad()
    def answers(
        self, adapted: AdaptedModel, tokenizer: Any, given: dict[str, Any], task: str, examples: Sequence[Example]
    ) -> list[str]:
        decoding = self.tasks[task].decoding
        offered = [example.choices or decoding.choices for example in examples]
        if all(offered):
            return self._likeliest(adapted, tokenizer, given, offered)  # type: ignore[arg-type]
        with looking(adapted, given) as text:
            tokens = adapted.generate(
                **text,
                max_new_tokens=decoding.max_new_tokens,
                num_beams=decoding.num_beams,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        new = tokens[:, text["input_ids"].shape[1] :]
        return [answer.strip() for answer in tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _likeliest(
        self, adapted: AdaptedModel, tokenizer: Any, given: dict[str, Any], offered: Sequence[Sequence[str]]
    ) -> list[str]:
        """Of each example's choices the one with the highest log-probability, its end included."""
        scores: list[list[float]] = [[] for _ in offered]
        most = max(map(len, offered))
        for number in range(most):
            drawn = [(choices[min(number, len(choices) - 1)], 1.0) for choices in offered]
            cpu = {name: given[name].cpu() for name in TEXT}
            made = self.targets(tokenizer, cpu, Lesson("", (), drawn, _most_tokens(tokenizer, drawn)))
            ids, mask, labels = (made[name].to(adapted.device) for name in (*TEXT, "labels"))
            with looking(
                adapted, given | {"input_ids": ids, "attention_mask": mask}, question=labels == IGNORED
            ) as text:
                logits = adapted(**text, use_cache=False).logits
            losses = functional.cross_entropy(
                logits[:, :-1].float().transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none"
            ).sum(1)
            for row, loss in enumerate(losses.tolist()):
                if number < len(offered[row]):
                    scores[row].append(-loss)
        return [
            choices[max(range(len(own)), key=own.__getitem__)] for choices, own in zip(offered, scores, strict=True)
        ]


def _tokens(tokenizer: Any, answer: str) -> list[int]:
    return list(tokenizer(BEFORE_ANSWER + answer, add_special_tokens=False).input_ids)


def _most_tokens(tokenizer: Any, drawn: Drawn) -> int:
    """Tokens of the longest answer, its end included."""
    return max(len(_tokens(tokenizer, answer)) for answer, _ in drawn) + 1


def _side_by_side(rows: Sequence[Tensor], padding: int) -> Tensor:
    """Rows of different lengths -> (B, L), padded on the right."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=padding)
