"""A causal language model (LLaMA) that reads a text, sees images by its adapters, and goes on with the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

from crossgraft.adapt import AdaptedModel
from crossgraft.adapt.adapted import IGNORED
from crossgraft.models.architecture import language_config, pretrained
from crossgraft.models.classifier import CAUSAL
from crossgraft.tasks import Example
from crossgraft.training.forms.base import TEXT, Drawn, Form, Lesson, looking
from crossgraft.training.forms.seq2seq import weighted_loss

BEFORE_ANSWER = " "  # between text and answer; most tokenizers make it part of the answer's first token


class CausalForm(Form):
    """See the module. Texts are padded on the left, as generation wants it."""

    padding = "left"
    cached = False  # what lies below holds the answer, which is drawn anew

    def laid_out(self, feature_width: int) -> nn.Module:
        return AutoModelForCausalLM.from_config(language_config(self.recipe.backbone))

    def pretrained(self, folder: str, feature_width: int) -> nn.Module:
        return pretrained(folder, CAUSAL, AutoModelForCausalLM, dtype=torch.float32).eval()  # type: ignore[no-any-return]

    def targets(self, tokenizer: Any, inputs: Mapping[str, Tensor], lesson: Lesson) -> dict[str, Tensor]:
        end = [tokenizer.eos_token_id]
        made = [(*_tokens(tokenizer, answer)[: lesson.length - 1], *end) for answer, _ in lesson.drawn]
        longest = max(map(len, made))
        answers = torch.tensor([[*one, *end * (longest - len(one))] for one in made])
        real = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in made])
        ids = torch.cat((inputs["input_ids"], answers), 1)
        labels = torch.cat((torch.full_like(inputs["input_ids"], IGNORED), answers.masked_fill(real == 0, IGNORED)), 1)
        return {
            "input_ids": ids,
            "attention_mask": torch.cat((inputs["attention_mask"], real), 1),
            "labels": labels,
            "weights": torch.tensor([weight for _, weight in lesson.drawn]),
        }

    def loss(
        self, model: nn.Module, adapted: AdaptedModel, given: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        labels = batch["labels"]
        with looking(adapted, given, question=labels == IGNORED) as text:  # nothing is made of the answer
            outputs = model(**text, position_ids=_positions(text["attention_mask"]), use_cache=False)
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
                logits = adapted(**text, position_ids=_positions(mask), use_cache=False).logits
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


def _positions(mask: Tensor) -> Tensor:
    """Positions (B, L) that count real tokens only, as `generate` has them."""
    return (mask.cumsum(1) - 1).clamp(min=0)
