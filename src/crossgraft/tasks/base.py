"""What a task is: an official file format, what the model reads and answers, how answers are scored and handed in."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from crossgraft.errors import InputError


class NoSuchSplit(InputError):  # noqa: N818  (it names what is the case)
    """A task has no examples in a split. A run can do without val and test."""


@dataclass(frozen=True)
class Example:
    """One question about images, or one image to describe.

    Attributes:
        id: the official id as a string, unique in its split.
        images: image files, or arrays of precomputed features (.npy, .npz): one, two or three images, or the frames of
            a video in order. That a file is there does not say that it can be decoded: who reads it finds out.
        text: what the encoder reads behind the task's prefix; empty for captions of images.
        targets: (answer, score in (0, 1]) pairs that are right to some degree; empty where there are no labels.
        reference: what `Task.score` compares with, in the official file's own terms (ten answers, all captions, ...);
            None where there are no labels.
        rows: which rows of a feature file (n, d) to read, in order, where `images` is that one file (the frames of a
            video, see `crossgraft.tasks.video.read_features`); empty: all of it.
        about: what the result file repeats of the official line, by key, such as a clip's name; None where it needs
            nothing.
        choices: the answers that this example offers, of which targets are some; empty: those of the task, see
            `Decoding.choices`.
        second: the other text of a pair, of which `text` is the first; empty: there is no pair.
    """

    id: str
    images: tuple[Path, ...]
    text: str
    targets: tuple[tuple[str, float], ...] = ()
    reference: Any = None
    rows: tuple[int, ...] = ()
    about: dict[str, Any] | None = None
    choices: tuple[str, ...] = ()
    second: str = ""


@dataclass(frozen=True)
class Decoding:
    """How answers are made: generation, greedy or with beams, or the likeliest of `choices`."""

    max_new_tokens: int = 20
    num_beams: int = 1
    choices: tuple[str, ...] | None = None


class Task(ABC):
    """A task: a frozen dataclass whose fields are what a recipe may set, registered with `@register_task`.

    Attributes that a recipe may set where a task makes them fields:
        prefix: what stands before each text, such as "vqa: ".
        question_length: how many tokens of prefix and text the encoder reads at most, at least 1; None: as many as it
            can.

    Class attributes:
        name: what recipes call it.
        metric: the main metric's name, a key of `score`.
        visual: "grid", the pooled grid of each image, or "frames", one token a frame.
        weighted: the loss of a sample is multiplied by the score of the target that was drawn.
        cloze: what is drawn is the text with words masked (`tasks.cloze`), and those are learned.
    """

    prefix: str
    question_length: int | None = None

    name: ClassVar[str]
    metric: ClassVar[str]
    visual: ClassVar[str] = "grid"
    weighted: ClassVar[bool] = False
    cloze: ClassVar[bool] = False

    def __post_init__(self) -> None:
        length = self.question_length
        if length is not None and (type(length) is not int or length < 1):
            raise InputError(f"question_length: must be a whole number of at least 1, or null, found {length!r}")

    @property
    def decoding(self) -> Decoding:
        """How answers are made; greedy and open unless a task says otherwise."""
        return Decoding()

    @property
    def regression(self) -> bool:
        """Whether answers are numbers, of which one may be nearer to the truth than another."""
        return False

    @abstractmethod
    def load(self, split: str) -> list[Example]:
        """Read a split ("train", "val" or "test").

        Raises:
            NoSuchSplit: the recipe, or the file, has no such split, or nothing falls into it.
            InputError: a file is missing or not in the official layout (file and line
                or key are named); questions and annotations do not belong together; an image file is missing (how many,
                and the first).
        """

    @abstractmethod
    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """Official metrics of one answer an example, in percent where the official scorer gives percent."""

    @abstractmethod
    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """Write the official result file that the task's leaderboard takes."""

    def draw(self, example: Example, rng: random.Random) -> tuple[str, float]:
        """A target to train on, drawn in proportion to the scores, and the weight of its loss."""
        answers = [answer for answer, _ in example.targets]
        scores = [score for _, score in example.targets]
        (row,) = rng.choices(range(len(answers)), scores)
        return answers[row], scores[row] if self.weighted else 1.0
