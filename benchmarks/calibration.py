"""Calibration and the reject threshold, on test photos: both are found on the support alone.

    python benchmarks/calibration.py DATA [--split split.json] --model pocket-lite [--shots 1,2,4,16]

For each method, number of shots and seed: the expected calibration error (15 bins) before and after `calibrate`, also
with every class counted the same (a support knows no class frequencies); what the temperature that is best on the test
photos would reach; and for each accuracy asked for, how many photos are answered and how many of those answers are
right. Written to benchmarks/results/calibration-<data>-<model>.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize_scalar
from torch import Tensor

from crossgraft.encoders.extract import extract
from crossgraft.encoders.load import load_encoder
from crossgraft.encoders.store import default_store
from crossgraft.errors import InputError
from crossgraft.fewshot.base import FewShotClassifier
from crossgraft.fewshot.confidence import BINS, reliability
from crossgraft.fewshot.data import load_data
from crossgraft.fewshot.run import Fit, run_fewshot
from crossgraft.fewshot.sealed import SealedLabels
from crossgraft.files import write_json

RESULTS = Path(__file__).parent / "results"
SEEDS = [1, 2, 3]
METHODS = "nearest-mean,linear-probe,tip-adapter,gda,proker"
ACCURACIES = (0.9, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shots", default="1,2,4,16")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--name", help="of the data, for the file of results")
    arguments = parser.parse_args()
    data = load_data(arguments.data, split=arguments.split)
    if data.test is None:
        raise InputError(f"{arguments.data} has no test split")
    encoder = load_encoder(arguments.model, device=arguments.device, dtype=arguments.dtype)
    encoded = extract(data.test.paths, encoder, default_store(encoder), wait=True)
    read = [i for i, path in enumerate(data.test.paths) if path in encoded.hash_of]
    test = data.test.take(read)
    hashes = [encoded.hash_of[path] for path in test.paths]
    Q = torch.cat([encoded.store.gather(hashes, name) for name in ("embedding", "feature")], dim=1)
    console = Console(highlight=False)
    found: dict[tuple[str, Any], list[dict[str, Any]]] = {}

    def measure(fit: Fit) -> None:
        found.setdefault((fit.method, fit.shots), []).append(measured(fit.classifier, Q, test.labels))
        console.print(f"{fit.method} {fit.shots} shots seed {fit.seed}", highlight=False)

    run_fewshot(
        data,
        encoder,
        default_store(encoder),
        methods=arguments.methods.split(","),
        shots=[int(k) for k in arguments.shots.split(",")],
        seeds=SEEDS,
        on_fit=measure,
    )
    runs = [{"method": method, "shots": shots, "per_seed": seeds} for (method, shots), seeds in found.items()]
    document = {"data": data.name, "model": encoder.identity, "seeds": SEEDS, "bins": BINS, "runs": runs}
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"calibration-{arguments.name or data.name}-{Path(encoder.name).name}.json"
    write_json(target, document)
    console.print(table(runs))
    console.print(f"written: {target}")


def measured(classifier: FewShotClassifier, Q: Tensor, labels: SealedLabels) -> dict[str, Any]:
    """What one fit's calibration does on the test features Q (n, p); errors, coverage and accuracy in percent."""
    classifier.calibration_ = None
    predicted = classifier.predict(Q)
    hits, truth = labels.hits(predicted), np.array(labels.reveal(predicted))
    logits = classifier.logits(Q)
    before = calibration_error(classifier.probabilities(logits), hits, truth)
    start = time.perf_counter()
    found = classifier.calibrate().calibration_
    seconds = time.perf_counter() - start
    assert found is not None
    best = best_temperature(logits, [classifier.classes_.tolist().index(label) for label in truth])
    return {
        "accuracy": 100 * float(hits.mean()),
        "temperature": found.temperature,
        "best_temperature": best,
        "error_before": before,
        "error": calibration_error(classifier.probabilities(logits), hits, truth),
        "error_best": calibration_error((best * logits).softmax(dim=1), hits, truth),
        "reject": {str(accuracy): rejected(classifier, Q, hits, accuracy) for accuracy in ACCURACIES},
        "seconds": seconds,
    }


def calibration_error(probabilities: Tensor, hits: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Expected calibration error in percent: each photo counted once, and each class (truth, (n,)) counted the same."""
    confidence = probabilities.max(dim=1).values.cpu().numpy()
    _, rows, counts = np.unique(truth, return_inverse=True, return_counts=True)
    weight = 1 / counts[rows]
    edges = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(edges, weight * (hits - confidence), minlength=BINS)
    plain = reliability(hits, confidence, BINS).error
    return {"photos": 100 * plain, "classes": 100 * float(np.abs(gaps).sum() / weight.sum())}


def best_temperature(logits: Tensor, rows: list[int]) -> float:
    """The temperature of lowest cross-entropy on the test photos: what could be reached, for comparison only."""
    z, labels = logits.double().cpu(), torch.tensor(rows)

    def loss(t: float) -> float:
        return torch.nn.functional.cross_entropy(np.exp(t) * z, labels).item()

    return float(np.exp(minimize_scalar(loss, bounds=(-8, 8), method="bounded", options={"xatol": 1e-3}).x))


def rejected(classifier: FewShotClassifier, Q: Tensor, hits: np.ndarray, accuracy: float) -> dict[str, float] | None:
    """Threshold, coverage and accuracy of what is answered; None where the support cannot show the accuracy."""
    try:
        threshold = classifier.threshold(accuracy)
    except InputError:
        return None
    _, sure = classifier.predict_or_reject(Q, accuracy)
    kept = 100 * float(hits[sure].mean()) if sure.any() else 100.0
    return {"threshold": threshold, "coverage": 100 * float(sure.mean()), "accuracy": kept}


def table(runs: list[dict[str, Any]]) -> Table:
    """Means over seeds. Reject: coverage -> accuracy, over the seeds that have a threshold."""
    shown = Table("method", "shots", "accuracy", "ECE before", "after", "best", "by class: before", "after", "seconds")
    for accuracy in ACCURACIES:
        shown.add_column(f"reject at {accuracy:.0%}")
    for run in runs:
        seeds = run["per_seed"]

        def mean(name: str, part: str | None = None, of: list[dict[str, Any]] = seeds) -> float:
            return float(np.mean([one[name] if part is None else one[name][part] for one in of]))

        numbers = [
            mean("accuracy"),
            mean("error_before", "photos"),
            mean("error", "photos"),
            mean("error_best", "photos"),
            mean("error_before", "classes"),
            mean("error", "classes"),
        ]
        cells = [run["method"], str(run["shots"]), *(f"{number:.1f}" for number in numbers), f"{mean('seconds'):.2f}"]
        for accuracy in ACCURACIES:
            cuts = [one["reject"][str(accuracy)] for one in seeds if one["reject"][str(accuracy)]]
            coverage, kept = (np.mean([cut[name] for cut in cuts] or [0]) for name in ("coverage", "accuracy"))
            cells.append(f"{coverage:.0f} -> {kept:.1f} ({len(cuts)} of {len(seeds)})" if cuts else "no threshold")
        shown.add_row(*cells)
    return shown


if __name__ == "__main__":
    main()
