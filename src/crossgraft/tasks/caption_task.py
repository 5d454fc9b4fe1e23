"""What tasks that describe share: all captions are targets, CIDEr and its like score them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from crossgraft.errors import InputError
from crossgraft.tasks.base import Decoding, Example
from crossgraft.tasks.files import check_answers, references
from crossgraft.tasks.metrics.captions import caption_scores
from crossgraft.tasks.splits import FilesTask


class Captioned(NamedTuple):
    """One thing to describe: its captions (none where the split has no labels); the rest is as in `Example`.

    `about` names the thing: no other thing of the split has the same. Where it is None, `id` does.
    """

    id: str
    images: tuple[Path, ...]
    captions: tuple[str, ...]
    rows: tuple[int, ...] = ()
    about: dict[str, Any] | None = None
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class CaptionTask(FilesTask):
    """A task whose answers are captions.

    Attributes:
        per_caption: each caption of the training split is an example of its own, with an id such as "ID#0".
            Otherwise each image is one example, and training draws one of its captions. Scores and result files have
            each image once, in either case, with its first answer.
        max_new_tokens, num_beams: how captions are generated.
    """

    prefix: str = "caption: "
    per_caption: bool = False
    max_new_tokens: int = 40
    num_beams: int = 5

    metric: ClassVar[str] = "CIDEr"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_new_tokens", "num_beams"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, found {getattr(self, name)}")

    @property
    def decoding(self) -> Decoding:
        """Beam search."""
        return Decoding(max_new_tokens=self.max_new_tokens, num_beams=self.num_beams)

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """CIDEr, BLEU-1 to BLEU-4 and ROUGE-L, times 100."""
        things, captions = self._once(examples, answers)
        truths: list[tuple[str, ...]] = references(things, captions)
        return caption_scores(captions, truths)

    def _examples(self, found: Sequence[Captioned], split: str) -> list[Example]:
        """Examples of what was read; in training with `per_caption`, one a caption."""
        examples = []
        for thing in found:
            targets = tuple((caption, 1.0) for caption in thing.captions)
            example = Example(
                thing.id, thing.images, thing.text, targets, thing.captions or None, thing.rows, thing.about
            )
            examples += _apart(example) if split == "train" and self.per_caption else [example]
        return examples

    def _described(self, examples: Sequence[Example], answers: Sequence[str]) -> list[tuple[dict[str, Any], str]]:
        """What the result file says of each thing (`Example.about`), and its caption; each thing once."""
        return [(example.about or {}, answer) for example, answer in zip(*self._once(examples, answers), strict=True)]

    def _once(self, examples: Sequence[Example], answers: Sequence[str]) -> tuple[list[Example], list[str]]:
        """Each thing with its first answer: examples of one thing (`per_caption`) differ in their target alone.

        Raises:
            InputError: there is not one answer an example.
        """
        check_answers(examples, answers)
        first: dict[str, tuple[Example, str]] = {}
        for example, answer in zip(examples, answers, strict=True):
            first.setdefault(json.dumps(example.about or example.id, sort_keys=True), (example, answer))
        return [example for example, _ in first.values()], [answer for _, answer in first.values()]


def _apart(example: Example) -> list[Example]:
    """An example for each caption of one."""
    return [
        replace(example, id=f"{example.id}#{number}", targets=(target,))
        for number, target in enumerate(example.targets)
    ]
