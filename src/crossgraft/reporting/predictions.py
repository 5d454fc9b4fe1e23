"""`predictions/`: what a run answered image by image, and why; what a report page is made of.

`images.json`: root (absolute), support -> images (paths from the root), sha256 (the first 16 hex digits), labels, and
tests: test set -> images, sha256, truth. `METHOD.json`, of the last number of shots and the first seed: method, shots,
seed, classes, and tests: test set -> predicted, probability, top (n x T), top_probability, evidence (for some images,
or null). Labels are rows of `classes`, the same in all files of a run; probabilities are rounded to six digits.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossgraft.files import write_bytes

if TYPE_CHECKING:
    import numpy as np

    from crossgraft.fewshot.run import FewShotRun, Fit
    from crossgraft.fewshot.scoring import TestRecord

SCHEMA_VERSION = 1
HASH_DIGITS = 16


def write_predictions(run: FewShotRun, folder: Path) -> bool:
    """Write the records of a run into `folder`; False if it has none (nothing was left to test on)."""
    recorded = [fit for fit in run.fits if fit.records]
    for stale in folder.glob("*.json"):  # of an earlier run with this output folder
        stale.unlink()
    if not recorded:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "images.json", _images(recorded[0]))
    for fit in recorded:
        _write(folder / f"{fit.method}.json", _method(fit))
    return True


def _images(fit: Fit) -> dict[str, Any]:
    assert fit.records is not None
    tests = {name: record.features for name, record in fit.records.items()}
    absolute = {path: os.path.abspath(path) for path in fit.support}
    absolute |= {path: os.path.abspath(path) for features in tests.values() for path in features.paths}
    root = os.path.commonpath([os.path.dirname(path) for path in absolute.values()])

    def listed(paths: tuple[Path, ...], hashes: tuple[str, ...]) -> dict[str, Any]:
        return {
            "images": [os.path.relpath(absolute[path], root) for path in paths],
            "sha256": [digest[:HASH_DIGITS] for digest in hashes],
        }

    return {
        "schema_version": SCHEMA_VERSION,
        "root": root,
        "support": listed(fit.support, fit.support_hashes) | {"labels": list(fit.support_labels)},
        "tests": {
            name: listed(features.paths, features.hashes) | {"truth": fit.records[name].truth.tolist()}
            for name, features in tests.items()
        },
    }


def _method(fit: Fit) -> dict[str, Any]:
    assert fit.records is not None
    return {
        "schema_version": SCHEMA_VERSION,
        "method": fit.method,
        "shots": fit.shots,
        "seed": fit.seed,
        "classes": [str(name) for name in fit.classifier.classes_.tolist()],
        "tests": {name: _test(record) for name, record in fit.records.items()},
    }


def _test(record: TestRecord) -> dict[str, Any]:
    return {
        "predicted": record.predicted.tolist(),
        "probability": _rounded(record.answers.probability),
        "top": record.answers.top.tolist(),
        "top_probability": _rounded(record.answers.top_probability),
        "evidence": record.evidence,
    }


def _rounded(values: np.ndarray) -> list[Any]:
    return values.astype("float64").round(6).tolist()


def _write(path: Path, value: Any) -> None:
    """On one line: 50,000 images a line each would be most of the file."""
    write_bytes(path, (json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n").encode())
