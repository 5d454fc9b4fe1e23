"""The few-shot experiment: draw supports, encode what is needed once, fit every method, score the sealed test sets."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from crossgraft.encoders.base import Encoder
from crossgraft.encoders.extract import extract
from crossgraft.encoders.prompts import Prompts
from crossgraft.encoders.store import FeatureStore
from crossgraft.errors import InputError
from crossgraft.fewshot.base import FewShotClassifier
from crossgraft.fewshot.data import ImageData, ImageSplit, TestImages
from crossgraft.fewshot.features import unit
from crossgraft.fewshot.plan import SeedPlan, Shots, make_plan, without
from crossgraft.fewshot.protocol import Protocol, check_protocol
from crossgraft.fewshot.registry import get_method
from crossgraft.fewshot.scoring import Answers, Features, TestRecord, TestScore, TestSet, answers, record, score


@dataclass
class Fit:
    """One fitted classifier and its scores, by test set.

    `support` are the images that it learned from, `support_labels` their classes (rows of `ImageData.classes`),
    `support_hashes` the SHA-256 (hex) of their files. `records` says of each test image what was predicted: in the fits
    at the last number of shots with the first seed (those that the command line saves), else None.
    """

    method: str
    shots: Shots
    seed: int
    classifier: FewShotClassifier
    support: tuple[Path, ...]
    support_labels: tuple[int, ...] = ()
    support_hashes: tuple[str, ...] = ()
    scores: dict[str, TestScore] = field(default_factory=dict)
    fit_seconds: float = 0.0
    tune_seconds: float = 0.0
    query_microseconds: float | None = None
    records: dict[str, TestRecord] | None = None

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Test set -> metric -> percent."""
        return {test: one.metrics for test, one in self.scores.items()}


@dataclass
class FewShotRun:
    """What `run_fewshot` found."""

    data: ImageData
    text: Tensor
    fits: list[Fit]
    skipped: list[dict[str, str | None]]
    warnings: list[str] = field(default_factory=list)


def run_fewshot(
    data: ImageData,
    encoder: Encoder,
    store: Path,
    *,
    methods: Sequence[str],
    shots: Sequence[Shots],
    seeds: Sequence[int],
    protocol: Protocol = "none",
    prompts: Prompts | None = None,
    tests: Sequence[ImageData] = (),
    key: Literal["feature", "embedding"] = "feature",
    views: int = 0,
    params: dict[str, Any] | None = None,
    calibrate: bool = True,
    workers: int = 1,
    progress: bool = True,
    on_fit: Callable[[Fit], None] = lambda _: None,
) -> FewShotRun:
    """Fit each method at each number of shots with each seed, and score it on every test set.

    Args:
        data: the training data; its test split, if it has one, is a test set called "test". For data without one that
            is what lies outside the largest support of each seed, if photos are left.
        encoder, store: the frozen encoder, and the feature store that caches what it gives.
        protocol: how hyperparameters are chosen (crossgraft.fewshot.protocol).
        prompts: what is said about each class; by default one template.
        tests: more test sets (`load_test_data`), by name.
        key: what cache methods compare: the un-projected image feature, or the text-aligned embedding.
        views: augmented views of each support image that are averaged with it (Tip-Adapter's cache construction).
        params: constructor parameters for the methods, where they have them.
        calibrate: fit probabilities and reject threshold too (crossgraft.fewshot.calibration), a few more fits each;
            not of methods that train by gradient descent, which would take minutes.
        on_fit: is told each fit as it is done.

    Raises:
        InputError: bad arguments, or data that does not allow what is asked.
    """
    check_protocol(protocol, data.val is not None)
    classes = {name: get_method(name) for name in methods}
    _check_params(params or {}, classes.values(), protocol)
    text = (prompts or Prompts()).encode_each(encoder, data.classes).cpu()
    reader = _Reader(data.classes, encoder, store, key, workers, progress)
    run = FewShotRun(data, text, [], reader.skipped)

    plans = reader.readable(lambda bad: make_plan(without(data, bad), shots, seeds, protocol, bool(tests)))
    if data.test is None and tests and plans[seeds[0]].test is None:
        run.warnings.append(f"no photo of {data.name} is left to test on; only the other test sets are scored")
    shared = {"test": data.test} if data.test is not None else {}
    for other in tests:
        if other.test is None or other.name in shared:
            raise InputError(f"test set {other.name!r} is empty, or another one has its name; rename one of them")
        shared[other.name] = other.test
    shared_tests = {name: reader.test_set(name, split) for name, split in shared.items()}

    leaks: dict[str, int] = {}
    for seed in seeds:
        own = plans[seed]
        test_sets = shared_tests if own.test is None else {"test": reader.test_set("test", own.test)} | shared_tests
        for k in shots:
            support = own.supports[k]
            _count_leaks(leaks, reader, support, test_sets)
            X, y = reader.features(support.paths, views=views).X, reader.names(support)
            chosen = own.validation[k]
            val = None if chosen is None else (reader.features(chosen.paths).X, reader.names(chosen))
            for name, kind in classes.items():
                classifier = _make(kind, text, data.classes, encoder, seed, params or {})
                fit = Fit(name, k, seed, classifier, support.paths, support.labels, reader.hashes(support.paths))
                keep = (k, seed) == (shots[-1], seeds[0])
                _fit_and_score(fit, X, y, val, test_sets, calibrate=calibrate, keep=keep)
                run.fits.append(fit)
                on_fit(fit)
    run.warnings += [
        f"test set {name!r}: {count} image(s) are byte for byte in the largest support" for name, count in leaks.items()
    ]
    return run


class _Reader:
    """Images to features, each encoded once however many seeds and splits ask for it."""

    def __init__(
        self, classes: Sequence[str], encoder: Encoder, store: Path, key: str, workers: int, progress: bool
    ) -> None:
        self.classes = np.array(classes)
        self.encoder, self.store, self.key = encoder, store.absolute(), key
        self.options: dict[str, Any] = {"workers": workers, "progress": progress, "wait": True}
        self.hash_of: dict[Path, str] = {}
        self.skipped: list[dict[str, str | None]] = []
        self._stores: dict[int, FeatureStore] = {}

    def encode(self, paths: Iterable[Path], views: int = 0) -> set[Path]:
        """Encode what is not encoded yet; return the paths that cannot be used."""
        wanted = list(dict.fromkeys(paths))
        folder = self.store if not views else self.store.with_name(f"{self.store.name}-views{views}")
        done = extract(wanted, self.encoder, folder, views=views, **self.options)
        self._stores[views] = done.store
        self.hash_of |= done.hash_of
        known = {entry["path"] for entry in self.skipped}
        self.skipped += [entry for entry in done.skipped if entry["path"] not in known]
        return set(wanted) - done.hash_of.keys()

    def readable(self, plan: Callable[[set[Path]], dict[int, SeedPlan]]) -> dict[int, SeedPlan]:
        """Plan until every image of the plan can be read: a bad image costs that image, not the run."""
        bad: set[Path] = set()
        while True:
            try:
                plans = plan(bad)
            except InputError as error:
                if not bad:
                    raise
                first = self.skipped[0]
                unread = f"{len(bad)} images cannot be read, the first: {first['path']}: {first['reason']}"
                raise InputError(f"{error} ({unread})") from error
            fresh = self.encode(image for seed in plans.values() for image in seed.images())
            if not fresh:
                return plans
            bad |= fresh

    def features(self, paths: Sequence[Path], views: int = 0) -> Features:
        """X (n, p) of images that are known to be readable."""
        if views:
            self.encode(paths, views)
        hashes = self.hashes(paths)
        names = ("embedding", "feature") if self.key == "feature" else ("embedding",)
        store = self._stores[views]
        parts = []
        for name in names:
            part = store.gather(hashes, name)
            if views:
                # Unit views are averaged, so that each weighs the same (Tip-Adapter's cache construction).
                part = torch.cat([unit(part)[:, None], unit(store.gather(hashes, f"{name}_views"))], dim=1).mean(1)
            parts.append(part)
        return Features(torch.cat(parts, dim=1), tuple(paths), hashes)

    def hashes(self, paths: Sequence[Path]) -> tuple[str, ...]:
        """SHA-256 (hex) of the files of images that are known to be readable."""
        return tuple(self.hash_of[path] for path in paths)

    def test_set(self, name: str, images: TestImages) -> TestSet:
        bad = self.encode(images.paths)
        kept = images.take([i for i, path in enumerate(images.paths) if path not in bad])
        if not len(kept):
            raise InputError(f"no image of test set {name!r} can be read, the first: {self.skipped[-1]['reason']}")
        return TestSet(self.features(kept.paths), kept.labels)

    def names(self, split: ImageSplit) -> np.ndarray:
        """Class names (n,), the labels that classifiers learn and predict."""
        return self.classes[list(split.labels)]


def _check_params(params: dict[str, Any], kinds: Collection[type[FewShotClassifier]], protocol: Protocol) -> None:
    known = {name for kind in kinds for name in kind().get_params()} - {
        "text",
        "classes",
        "logit_scale",
        "device",
        "random_state",
    }
    if unknown := sorted(set(params) - known):
        raise InputError(
            f"no chosen method has a parameter {', '.join(unknown)}; they have: {', '.join(sorted(known)) or 'none'}"
        )
    for kind in kinds:
        own = kind().get_params()
        kind(**{name: value for name, value in params.items() if name in own}).check_params()
        searched = sorted(params.keys() & kind.grid.keys() - {"ratio"})  # a named ratio is not searched
        if searched and protocol != "none":
            raise InputError(
                f"{', '.join(searched)} of {kind.method}: set, and searched by protocol {protocol}; "
                "leave it out, or take protocol none"
            )


def _make(
    kind: type[FewShotClassifier],
    text: Tensor,
    classes: Sequence[str],
    encoder: Encoder,
    seed: int,
    params: dict[str, Any],
) -> FewShotClassifier:
    known = kind().get_params()
    given: dict[str, Any] = {
        "text": text.numpy(),
        "classes": list(classes),
        "logit_scale": encoder.logit_scale,
        "device": None if encoder.device.type == "cpu" else str(encoder.device),
        "random_state": seed,
    } | params
    return kind(**{name: value for name, value in given.items() if name in known})


def _fit_and_score(
    fit: Fit,
    X: Tensor,
    y: np.ndarray,
    val: tuple[Tensor, np.ndarray] | None,
    tests: dict[str, TestSet],
    *,
    calibrate: bool,
    keep: bool,
) -> None:
    """Fill in what `fit` is to hold; `keep` its records."""
    start = time.perf_counter()
    fit.classifier.fit(X, y)
    fitted = time.perf_counter()
    if val is not None:
        fit.classifier.tune(*val)
    fit.fit_seconds, fit.tune_seconds = fitted - start, time.perf_counter() - fitted
    if calibrate and "epochs" not in fit.classifier.get_params():
        fit.classifier.calibrate()
    said: dict[str, Answers] = {}
    seconds = 0.0
    for name, test in tests.items():
        said[name], took = answers(fit.classifier, test.features.X)
        fit.scores[name] = score(said[name], test.labels)
        seconds += took
    if tests:
        fit.query_microseconds = seconds / sum(len(test.labels) for test in tests.values()) * 1e6
    if keep:  # the labels are told here, where nothing is left to learn
        fit.records = record(fit.classifier, tests, said)


def _count_leaks(counts: dict[str, int], reader: _Reader, support: ImageSplit, tests: dict[str, TestSet]) -> None:
    """Count the test images whose very bytes are in a support (official splits have some, and they flatter)."""
    seen = {reader.hash_of[path] for path in support.paths}
    for name, test in tests.items():
        if same := sum(reader.hash_of[path] in seen for path in test.features.paths):
            counts[name] = max(same, counts.get(name, 0))
