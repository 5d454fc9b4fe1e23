"""Multiple choice about videos: TVQA (Lei et al. 2018) and How2QA (Li et al. 2020, as in the VALUE benchmark)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from crossgraft.errors import InputError
from crossgraft.tasks.base import Decoding, Example
from crossgraft.tasks.files import Row, by_id, check_answers, one_line, read_lines, references, write_result
from crossgraft.tasks.metrics.exact import percent
from crossgraft.tasks.registry import register_task
from crossgraft.tasks.subtitles import Subtitles
from crossgraft.tasks.video import VideoFiles, VideoTask

# What the encoder reads. That it holds subtitles, question and choices is published; the words around them are a
# reconstruction. Subtitles come last, so that it is they that are cut off where the text is too long.
TEMPLATE = "question: {question} choices: {choices}{subtitles}"
CHOICE = "({number}) {choice}"
SUBTITLES = " subtitles: {subtitles}"


@dataclass(frozen=True, kw_only=True)
class VideoQa(VideoTask):
    """The answer is the number of the right choice, from 0."""

    splits: dict[str, VideoFiles]

    metric: ClassVar[str] = "accuracy"
    choices: ClassVar[int]

    @property
    def decoding(self) -> Decoding:
        """The likeliest of the numbers."""
        return Decoding(choices=tuple(map(str, range(self.choices))))

    def load(self, split: str) -> list[Example]:
        """Read a split, see `Task.load`; ids are question ids."""
        files = self._files(self.splits, split)
        videos = self._videos(files)
        subtitles = Subtitles(self.subtitles)
        examples = []
        for key, row in self._limited(by_id(read_lines(files.lines), "qid"), files.limit):
            answer = self._answer(row)
            targets = () if answer is None else ((str(answer), 1.0),)
            text = self._text(row, self._said(row, subtitles))
            images, rows = self._frames_of(row, videos)
            examples.append(Example(key, images, text, targets, answer, rows))
        videos.check()
        return examples

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """Accuracy in percent."""
        truths: list[int] = references(examples, answers)
        return {
            "accuracy": percent([answer.strip() == str(truth) for answer, truth in zip(answers, truths, strict=True)])
        }

    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """{"qid": number of the choice, ...}, as the leaderboards take it; -1 for an answer that is none of them."""
        check_answers(examples, answers)
        numbers = {choice: int(choice) for choice in self.decoding.choices or ()}
        pairs = zip(examples, answers, strict=True)
        write_result(path, {example.id: numbers.get(answer.strip(), -1) for example, answer in pairs})

    def _answer(self, row: Row) -> int | None:
        if "answer_idx" not in row.values:  # as in the public test files
            return None
        answer = int(row.get("answer_idx", int))
        if not 0 <= answer < self.choices:
            raise InputError(f"{row.where}: 'answer_idx' must be 0 to {self.choices - 1}, found {answer}")
        return answer

    def _text(self, row: Row, said: str) -> str:
        choices = (CHOICE.format(number=n, choice=one_line(row.get(f"a{n}", str))) for n in range(self.choices))
        return TEMPLATE.format(
            question=one_line(row.text("q")),
            choices=" ".join(choices),
            subtitles=SUBTITLES.format(subtitles=said) if said else "",
        )


@register_task("tvqa")
@dataclass(frozen=True, kw_only=True)
class Tvqa(VideoQa):
    """TVQA: five choices. Files: tvqa_train.jsonl, tvqa_val.jsonl, tvqa_test_public.jsonl (without answers)."""

    prefix: str = "tvqa: "
    choices: ClassVar[int] = 5


@register_task("how2qa")
@dataclass(frozen=True, kw_only=True)
class How2qa(VideoQa):
    """How2QA: four choices, in the layout of TVQA (qid, q, a0 to a3, answer_idx, ts, vid_name).

    No line of the real files was at hand: the layout is that of the VALUE benchmark's description.
    """

    prefix: str = "how2qa: "
    choices: ClassVar[int] = 4
