"""Reads `predictions/` back, and leaves out, with a reason, what does not belong to the run's results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossgraft.errors import InputError
from crossgraft.files import read_json
from crossgraft.reporting.predictions import SCHEMA_VERSION
from crossgraft.reporting.run_folder import Record, RunFolder
from crossgraft.reporting.thumbnails import Picture


@dataclass(frozen=True)
class Vote:
    """A support image's part in a prediction: what it adds to the predicted class's logit."""

    picture: Picture
    label: str
    contribution: float


@dataclass(frozen=True)
class Case:
    """An explained prediction. `texts` are the nearest class texts with their cosines; `top` classes with their
    probabilities, the likeliest first."""

    picture: Picture
    truth: str
    predicted: str
    probability: float
    top: tuple[tuple[str, float], ...]
    image_share: float
    text_share: float
    ratio: float | None
    votes: tuple[Vote, ...]
    texts: tuple[tuple[str, float], ...]

    @property
    def hit(self) -> bool:
        return self.truth == self.predicted


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another; the surest first. `example` is a support image of that other."""

    truth: str
    predicted: str
    pictures: tuple[tuple[Picture, float], ...]
    example: Picture | None


@dataclass(frozen=True)
class RecordedTest:
    """One method on one test set; `cases` is None for a method that keeps no evidence."""

    images: int
    misses: int
    confusions: tuple[Confusion, ...]
    cases: tuple[Case, ...] | None


@dataclass(frozen=True)
class Recorded:
    """What a run recorded of one method, at one number of shots with one seed."""

    method: str
    shots: int | str
    seed: int
    tests: dict[str, RecordedTest]


def read_recorded(
    run: RunFolder, confusions: int, tell: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Recorded], list[str]]:
    """method -> what was recorded, with at most so many confusion pairs a test set; and what had to be left out.

    `tell` hears what is read now.
    """
    folder = run.path / "predictions"
    if not (folder / "images.json").is_file():
        return {}, []
    notes: list[str] = []
    found: dict[str, Recorded] = {}
    try:
        images = _Images.read(folder / "images.json")
    except InputError as error:
        return {}, [f"{error}; without it nothing is shown image by image"]
    for method in dict.fromkeys(record.method for record in run.records):
        path = folder / f"{method}.json"
        if not path.is_file():
            continue
        tell(f"reading {path}")
        try:
            found[method] = _read(path, images, run, method, confusions)
        except InputError as error:
            notes.append(f"{error}; {method} is not shown image by image")
    return found, notes


@dataclass(frozen=True)
class _Images:
    """`tests`: test set -> its pictures, and the classes they show."""

    support: tuple[Picture, ...]
    labels: tuple[int, ...]
    tests: dict[str, tuple[tuple[Picture, ...], tuple[int, ...]]]

    @classmethod
    def read(cls, path: Path) -> _Images:
        document = read_json(path)
        with _explained(path):
            _expect(document["schema_version"] == SCHEMA_VERSION)
            root = Path(document["root"])
            tests = {}
            for name, listed in document["tests"].items():
                pictures, truth = _pictures(root, listed), tuple(int(row) for row in listed["truth"])
                _expect(len(pictures) == len(truth) > 0)
                tests[name] = (pictures, truth)
            support = document["support"]
            return cls(_pictures(root, support), tuple(int(row) for row in support["labels"]), tests)


class _explained:  # noqa: N801  (used as a function)
    """Turns what a file of unexpected shape raises into an InputError that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, InputError):
            raise InputError(f"{self.path}: {error}") from error
        if isinstance(error, KeyError | TypeError | ValueError | IndexError | AttributeError | OverflowError):
            raise InputError(f"{self.path}: damaged ({type(error).__name__}: {str(error)[:80]})") from error


def _expect(right: bool, message: str = "damaged, or of another version of crossgraft") -> None:
    if not right:
        raise InputError(message)


def _pictures(root: Path, listed: dict[str, Any]) -> tuple[Picture, ...]:
    return tuple(
        Picture(root / name, str(name), str(digest))
        for name, digest in zip(listed["images"], listed["sha256"], strict=True)
    )


def _read(path: Path, images: _Images, run: RunFolder, method: str, confusions: int) -> Recorded:
    document = read_json(path)
    with _explained(path):
        _expect(document["schema_version"] == SCHEMA_VERSION and document["method"] == method)
        record = next((r for r in run.records if (r.method, r.shots) == (method, document["shots"])), None)
        tests = {
            name: _test(images, name, answers, document["classes"], confusions)
            for name, answers in document["tests"].items()
        }
        _expect(_same_run(record, document["seed"], run, tests), "of another run than the results")
        return Recorded(method, document["shots"], int(document["seed"]), tests)


def _same_run(record: Record | None, seed: int, run: RunFolder, tests: dict[str, RecordedTest]) -> bool:
    """Whether the recorded answers have the very accuracy that the results give for their seed."""
    if record is None or seed not in run.seeds or tests.keys() != record.tests.keys():
        return False
    at = run.seeds.index(seed)
    scores = {name: result.accuracy.per_seed for name, result in record.tests.items()}
    return all(
        at < len(scores[name]) and math.isclose(scores[name][at], 100 * (1 - test.misses / test.images), abs_tol=1e-6)
        for name, test in tests.items()
    )


def _test(images: _Images, name: str, answers: Any, classes: list[Any], confusions: int) -> RecordedTest:
    pictures, truth = images.tests[name]
    classes = [str(one) for one in classes]
    predicted = [int(row) for row in answers["predicted"]]
    probability = [_finite(value) for value in answers["probability"]]
    _expect(len(predicted) == len(probability) == len(truth) and min(*predicted, *truth, 0) >= 0)
    wrong: dict[tuple[int, int], list[int]] = {}
    for i, pair in enumerate(zip(truth, predicted, strict=True)):
        if pair[0] != pair[1]:
            wrong.setdefault(pair, []).append(i)
    ranked = sorted(wrong, key=lambda pair: (-len(wrong[pair]), -sum(probability[i] for i in wrong[pair]), pair))
    example = dict(zip(reversed(images.labels), reversed(images.support), strict=True))  # the first of each class
    return RecordedTest(
        images=len(truth),
        misses=sum(map(len, wrong.values())),
        confusions=tuple(
            Confusion(
                classes[pair[0]],
                classes[pair[1]],
                tuple((pictures[i], probability[i]) for i in sorted(wrong[pair], key=lambda i: -probability[i])),
                example.get(pair[1]),
            )
            for pair in ranked[:confusions]
        ),
        cases=None
        if answers["evidence"] is None
        else tuple(
            _case(one, images, pictures, classes, truth, predicted, probability, answers) for one in answers["evidence"]
        ),
    )


def _case(
    one: dict[str, Any],
    images: _Images,
    pictures: tuple[Picture, ...],
    classes: list[str],
    truth: tuple[int, ...],
    predicted: list[int],
    probability: list[float],
    answers: dict[str, Any],
) -> Case:
    i = int(one["index"])
    _expect(0 <= i < len(truth))
    top = zip(answers["top"][i], answers["top_probability"][i], strict=True)
    votes = [
        Vote(images.support[int(vote["index"])], str(vote["label"]), _finite(vote["contribution"]))
        for vote in one["supports"]
    ]
    return Case(
        picture=pictures[i],
        truth=classes[truth[i]],
        predicted=classes[predicted[i]],
        probability=probability[i],
        top=tuple((classes[int(row)], _finite(value)) for row, value in top),
        image_share=_finite(one["image_share"]),
        text_share=_finite(one["text_share"]),
        ratio=None if one["ratio"] is None else _finite(one["ratio"]),
        votes=tuple(votes),
        texts=tuple((str(text["label"]), _finite(text["cosine"])) for text in one["texts"]),
    )


def _finite(value: Any) -> float:
    _expect(isinstance(value, int | float) and math.isfinite(value))
    return float(value)
