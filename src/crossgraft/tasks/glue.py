"""GLUE (Wang et al., ICLR 2019, arXiv 1804.07461): nine corpora of texts and pairs of texts to be judged.

Official files of gluebenchmark.com, or the data set "glue" of Hugging Face's `datasets`. The labels of GLUE's own test
files are not public. So, as papers do, "test" here is the official dev, whose scores are reported; "val", by which
learning rates and epochs are chosen, is a part of the official train that is not trained on. Dev chooses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from crossgraft.errors import InputError
from crossgraft.tasks.base import Decoding, Example
from crossgraft.tasks.files import check_answers, many_objects, references, write_result_lines
from crossgraft.tasks.glue_files import HIGHEST, Corpus, Entry, find_corpus, number_of, read_dataset, read_tsv
from crossgraft.tasks.metrics.correlation import f1, matthews, pearson, spearman
from crossgraft.tasks.metrics.exact import by_kind
from crossgraft.tasks.registry import register_task
from crossgraft.tasks.splits import SPLITS, Fractions, OneFileTask

SUBMISSION = "submission"
"""The split of the official test files, whose labels are hidden; it can be answered and handed in."""

_OF_YES = {"f1": f1, "matthews": matthews}
_OF_NUMBERS = {"pearson": pearson, "spearman": spearman}


@register_task("glue")
@dataclass(frozen=True, kw_only=True)
class Glue(OneFileTask):
    """One corpus of GLUE. Examples have no images; pairs have their other text in `Example.second`.

    Attributes:
        corpus: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE or WNLI, whatever the capitals.
        folder: that of the corpus's official files train.tsv, dev.tsv and test.tsv; of MNLI dev_matched.tsv,
            dev_mismatched.tsv and likewise of test. Or
        dataset: the name of a data set for `datasets`, such as nyu-mll/glue, or a folder of one.
        fractions: how the official train is divided into train and val, by first texts: no text is in both.
        limits: as in all tasks; `submission` has none.
    """

    corpus: str
    folder: Path | None = None
    dataset: str | None = None
    fractions: Fractions = field(default_factory=lambda: Fractions(train=0.9, val=0.1, test=0))
    prefix: str = ""
    question_length: int | None = None

    metric: ClassVar[str] = "score"

    def __post_init__(self) -> None:
        super().__post_init__()
        find_corpus(self.corpus)
        if (self.folder is None) == (self.dataset is None):
            raise InputError("either 'folder' or 'dataset' is needed, and not both")
        if self.fractions.test:
            raise InputError("fractions.test: must be 0, since test is GLUE's dev")
        if self.images is not None:
            raise InputError("images: GLUE has none; leave 'images' out")

    @property
    def decoding(self) -> Decoding:
        """The likeliest of the corpus's words; of STS-B a number, written out."""
        words = self._corpus.words
        return Decoding(choices=words) if words else Decoding(max_new_tokens=8)

    @property
    def regression(self) -> bool:
        """Of STS-B."""
        return not self._corpus.words

    @many_objects()
    def load(self, split: str) -> list[Example]:
        """Read a split, see `Task.load`: "train" and "val" of the official train, "test", which is the official dev, or
        "submission", the official test, without labels. Ids are rows from 0, of MNLI with "matched-" before them."""
        if split not in (*SPLITS, SUBMISSION):
            raise InputError(f"task {self.name!r}: unknown split {split!r}; known: {', '.join((*SPLITS, SUBMISSION))}")
        corpus = self._corpus
        if split in ("train", "val"):
            entries = {entry.number: entry for entry in self._read("train")}
            kept = self._part({key: entry.text for key, entry in entries.items()}, split)
            found = {key: _example(key, entries[key]) for key in kept}
        else:
            stem, hidden = ("dev", False) if split == "test" else ("test", True)
            found = {}
            for part in corpus.parts or ("",):
                for entry in self._read(f"{stem}_{part}" if part else stem, hidden=hidden):
                    key = f"{part}-{entry.number}" if part else entry.number
                    found[key] = _example(key, entry)
        return [example for _, example in self._limited(found, self.limits.get(split))]

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """{"score": GLUE's, which is the mean of the corpus's metrics, and each of these}, in percent.

        CoLA: Matthews correlation; MRPC and QQP: accuracy and F1; STS-B: Pearson and Spearman correlation; all others:
        accuracy, of MNLI also by part ("accuracy.mismatched"), whose mean the score is. An answer that is none of the
        words is taken for a wrong one, and what is no number for 0.
        """
        truths: list[str] = references(examples, answers)
        corpus = self._corpus
        if self.regression:
            numbers = [float(truth) for truth in truths], [_number(answer) for answer in answers]
            found = {name: 100 * _OF_NUMBERS[name](*numbers) for name in corpus.metrics}
            return {"score": _mean(found), **found}
        right = [answer.strip().lower() == truth for answer, truth in zip(answers, truths, strict=True)]
        accuracy = by_kind("accuracy", right, [_part_of(example) or None for example in examples])
        yes = [truth == corpus.words[-1] for truth in truths]
        guessed = [truth == good for truth, good in zip(yes, right, strict=True)]
        found = {
            name: 100 * _OF_YES[name](yes, guessed) if name in _OF_YES else accuracy[name] for name in corpus.metrics
        }
        by_part = {name: value for name, value in accuracy.items() if "." in name}
        return {"score": _mean(by_part or found), **found, **by_part}

    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """GLUE's layout: lines "index", tab, "prediction", with labels as the corpus's own files have them.

        Of MNLI, what is mismatched goes into a file of its own, "-mm" behind the name. For the leaderboard, answer the
        split "submission" and call the files as it wants them: RTE.tsv, MNLI-m.tsv, MNLI-mm.tsv, ...
        """
        check_answers(examples, answers)
        labels = {word: label for label, word in self._corpus.labels.items()}
        lines: dict[str, list[str]] = {}
        for example, answer in zip(examples, answers, strict=True):
            number = example.id.rpartition("-")[2]
            text = f"{_number(answer):.3f}" if self.regression else labels.get(answer.strip().lower(), answer.strip())
            lines.setdefault("-mm" if _part_of(example) == "mismatched" else "", ["index\tprediction"]).append(
                f"{number}\t{text}"
            )
        for end, part_lines in lines.items():
            write_result_lines(path.with_name(path.name + end), part_lines)

    @property
    def _corpus(self) -> Corpus:
        return find_corpus(self.corpus)

    def _read(self, part: str, *, hidden: bool = False) -> list[Entry]:
        if self.folder is not None:
            return read_tsv(self.folder / f"{part}.tsv", self._corpus, hidden=hidden)
        return read_dataset(str(self.dataset), self._corpus, part, hidden=hidden)


def _example(key: str, entry: Entry) -> Example:
    targets = () if entry.answer is None else ((entry.answer, 1.0),)
    return Example(key, (), entry.text, targets, entry.answer, second=entry.second)


def _part_of(example: Example) -> str:
    """Of MNLI "matched" or "mismatched", else ""."""
    return example.id.rpartition("-")[0]


def _number(answer: str) -> float:
    """A model's answer as a score: GLUE takes no others than from 0 to 5."""
    return min(max(number_of(answer) or 0.0, 0.0), HIGHEST)


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)
