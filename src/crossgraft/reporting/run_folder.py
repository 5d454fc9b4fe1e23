"""Reads what a run left in its output folder, and says clearly where it is damaged."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossgraft.errors import InputError
from crossgraft.files import read_json

SCHEMA_VERSION = 1
_REPAIR = "run `crossgraft fewshot` again, or leave this one out"


@dataclass(frozen=True)
class Score:
    """A number over seeds."""

    mean: float
    std: float
    per_seed: tuple[float, ...]


@dataclass(frozen=True)
class TestResult:
    """One record's scores on one test set, in percent; what an older run did not write is None or empty.

    `bins` are (count, mean confidence, accuracy), 0 to 1; `coverage` (percent answered, accuracy).
    """

    __test__ = False

    accuracy: Score
    macro_accuracy: Score
    calibration_error: Score | None
    bins: tuple[tuple[int, float, float], ...]
    coverage: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Record:
    """One method at one number of shots."""

    method: str
    shots: int | str
    tests: dict[str, TestResult]
    trainable: int
    percent: float
    fit: Score
    tune: Score
    query: Score | None
    hyperparameters: tuple[dict[str, Any], ...]


@dataclass(frozen=True, eq=False)
class RunFolder:
    """A run: its results, and what is known of its images. Equal to itself only."""

    path: Path
    results: Path
    document: dict[str, Any]
    protocol: str
    seeds: tuple[int, ...]
    data: dict[str, Any]
    backbone: dict[str, Any]
    records: tuple[Record, ...]
    warnings: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] | None = field(default=None)
    """(path, reason) of each image that could not be used; None where the run's list is not there."""

    @property
    def identity(self) -> tuple[Any, ...]:
        """Runs with the same one may stand in one chart: same images, same encoder, same protocol, same test sets."""
        tests = {name for record in self.records for name in record.tests}
        encoder = tuple(self.backbone.get(key) for key in ("fingerprint", "dtype", "draft"))
        return (self.data["fingerprint"], *encoder, self.protocol, tuple(sorted(tests)))


def read_run(folder: Path) -> RunFolder:
    """Read an output folder of `crossgraft fewshot`, or a results file of its kind.

    Raises:
        InputError: no run there, another kind or version of results, or a damaged file; the message names the key.
    """
    results = folder / "results.json" if folder.is_dir() else folder
    if not results.exists():
        what = "holds no results.json" if folder.is_dir() else "does not exist"
        raise InputError(f"{folder} {what}; expected an output folder (--out) of `crossgraft fewshot`")
    reader = _Reader(results)
    document = reader.object(read_json(results), "the file")
    version, task = document.get("schema_version"), document.get("task")
    if version != SCHEMA_VERSION or task != "few-shot classification":
        raise InputError(
            f"{results}: schema_version {version!r}, task {task!r}; expected {SCHEMA_VERSION} and "
            f"'few-shot classification', as `crossgraft fewshot` writes them; {_REPAIR}"
        )
    data, backbone = (reader.object(document.get(key), key) for key in ("data", "backbone"))
    for where, part, keys in (("data", data, ("name", "fingerprint")), ("backbone", backbone, ("name", "fingerprint"))):
        for key in keys:
            reader.text(part.get(key), f"{where}.{key}")
    runs = reader.list(document.get("runs"), "runs")
    if not runs:
        raise InputError(f"{results}: runs is empty; {_REPAIR}")
    return RunFolder(
        path=results.parent,
        results=results,
        document=document,
        protocol=reader.text(document.get("protocol"), "protocol"),
        seeds=tuple(int(reader.number(seed, "seeds")) for seed in reader.list(document.get("seeds"), "seeds")),
        data=data,
        backbone=backbone,
        records=tuple(_record(reader, record, f"runs[{i}]") for i, record in enumerate(runs)),
        warnings=tuple(str(one) for one in reader.list(document.get("warnings", []), "warnings")),
        skipped=_skipped(results.parent / "skipped.json") if folder.is_dir() else None,
    )


def _record(reader: _Reader, value: Any, where: str) -> Record:
    record = reader.object(value, where)
    shots = record.get("shots")
    if shots != "all" and (isinstance(shots, bool) or not isinstance(shots, int) or shots < 1):
        raise reader.error(f"{where}.shots", shots, "a whole number, or all")
    metrics = reader.object(record.get("metrics"), f"{where}.metrics")
    confidence = reader.object(record.get("confidence", {}), f"{where}.confidence")
    parameters = reader.object(record.get("parameters"), f"{where}.parameters")
    seconds = reader.object(record.get("seconds"), f"{where}.seconds")
    query = record.get("microseconds_per_query")
    given = reader.list(record.get("hyperparameters", []), f"{where}.hyperparameters")
    return Record(
        method=reader.text(record.get("method"), f"{where}.method"),
        shots=shots,
        tests={
            name: _test(reader, scores, confidence.get(name), f"{where}.metrics.{name}", f"{where}.confidence.{name}")
            for name, scores in metrics.items()
        },
        trainable=int(reader.number(parameters.get("trainable"), f"{where}.parameters.trainable")),
        percent=reader.number(parameters.get("percent"), f"{where}.parameters.percent"),
        fit=reader.score(seconds.get("fit"), f"{where}.seconds.fit"),
        tune=reader.score(seconds.get("tune"), f"{where}.seconds.tune"),
        query=None if query is None else reader.score(query, f"{where}.microseconds_per_query"),
        hyperparameters=tuple(reader.object(one, f"{where}.hyperparameters") for one in given),
    )


def _test(reader: _Reader, value: Any, confidence: Any, where: str, where_confidence: str) -> TestResult:
    scores = reader.object(value, where)
    error = scores.get("calibration_error")
    bins: list[list[float]] = []
    coverage: list[list[float]] = []
    if confidence is not None:
        parts = reader.object(confidence, where_confidence)
        for name, keys, into in (
            ("reliability", ("count", "confidence", "accuracy"), bins),
            ("coverage", ("percent", "mean"), coverage),
        ):
            part = reader.object(parts.get(name), f"{where_confidence}.{name}")
            for key in keys:
                at = f"{where_confidence}.{name}.{key}"
                into.append([reader.number(number, at) for number in reader.list(part.get(key), at)])
            if len({len(column) for column in into}) > 1:
                raise reader.error(f"{where_confidence}.{name}", [len(column) for column in into], "equal lengths")
    return TestResult(
        accuracy=reader.score(scores.get("accuracy"), f"{where}.accuracy"),
        macro_accuracy=reader.score(scores.get("macro_accuracy"), f"{where}.macro_accuracy"),
        calibration_error=None if error is None else reader.score(error, f"{where}.calibration_error"),
        bins=tuple((int(count), stated, right) for count, stated, right in zip(*bins, strict=True)),
        coverage=tuple((percent, accuracy) for percent, accuracy in zip(*coverage, strict=True)),
    )


def _skipped(path: Path) -> tuple[tuple[str, str], ...] | None:
    if not path.exists():
        return None
    reader = _Reader(path)
    entries = [reader.object(entry, "an entry") for entry in reader.list(read_json(path), "the file")]
    return tuple((str(entry.get("path")), str(entry.get("reason"))) for entry in entries)


@dataclass(frozen=True)
class _Reader:
    """Checks values of one file as they are read."""

    path: Path

    def error(self, where: str, value: Any, expected: str) -> InputError:
        return InputError(f"{self.path}: {where} is {str(value)[:40]!r}; expected {expected}; {_REPAIR}")

    def object(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(where, value, "a JSON object")
        return value

    def list(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise self.error(where, value, "a list")
        return value

    def text(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not value:
            raise self.error(where, value, "a text")
        return value

    def number(self, value: Any, where: str) -> float:
        right = isinstance(value, int | float) and not isinstance(value, bool)
        if not right or not abs(value) < 1e15 or not math.isfinite(value):
            raise self.error(where, value, "a number")
        return value

    def score(self, value: Any, where: str) -> Score:
        one = self.object(value, where)
        seeds = self.list(one.get("per_seed"), f"{where}.per_seed")
        return Score(
            self.number(one.get("mean"), f"{where}.mean"),
            self.number(one.get("std"), f"{where}.std"),
            tuple(self.number(value, f"{where}.per_seed") for value in seeds),
        )
