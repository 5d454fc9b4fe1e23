"""What tasks that describe share: all captions are targets, CIDEr and its like score them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from crossgraft.errors import InputError
from crossgraft.tasks.base import Decoding, Example
from crossgraft.tasks.files import references
from crossgraft.tasks.metrics.captions import caption_scores
from crossgraft.tasks.splits import FilesTask


class Captioned(NamedTuple):
    """One thing to describe: its captions (none where the split has no labels); the rest is as in `Example`."""

    id: str
    images: tuple[Path, ...]
    captions: tuple[str, ...]
    rows: tuple[int, ...] = ()
    about: Any = None


@dataclass(frozen=True, kw_only=True)
class CaptionTask(FilesTask):
    """A task whose answers are captions.

    Attributes:
        per_caption: each caption of the training split is an example of its own, with an id such as "ID#0".
            Otherwise each image is one example, and training draws one of its captions.
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
        truths: list[tuple[str, ...]] = references(examples, answers)
        return caption_scores(answers, truths)

    def _examples(self, found: Sequence[Captioned], split: str) -> list[Example]:
        """Examples of what was read; in training with `per_caption`, one a caption."""
        examples = []
        for thing in found:
            targets = tuple((caption, 1.0) for caption in thing.captions)
            example = Example(thing.id, thing.images, "", targets, thing.captions or None, thing.rows, thing.about)
            examples += _apart(example) if split == "train" and self.per_caption else [example]
        return examples


def _apart(example: Example) -> list[Example]:
    """An example for each caption of one."""
    return [
        replace(example, id=f"{example.id}#{number}", targets=(target,))
        for number, target in enumerate(example.targets)
    ]
