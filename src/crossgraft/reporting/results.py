"""`results.json`: what was run, on what, with which protocol and seeds, and what came out."""

from __future__ import annotations

import platform
import resource
import sys
from importlib.metadata import version
from statistics import mean, stdev
from typing import Any

from crossgraft import __version__
from crossgraft.encoders.base import Encoder
from crossgraft.fewshot.confidence import COVERAGES, Reliability
from crossgraft.fewshot.run import FewShotRun, Fit

SCHEMA_VERSION = 1


def summary(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation over seeds (of a sample, n - 1; 0 for one seed), and each seed's value."""
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else 0.0, "per_seed": values}


def few_shot_results(
    run: FewShotRun, encoder: Encoder, *, protocol: str, seeds: list[int], settings: dict[str, Any]
) -> dict[str, Any]:
    """The document of a few-shot run (schema version 1).

    `runs` holds one record a method and number of shots: method, shots, hyperparameters per seed, metrics (test set ->
    metric -> mean, std, per_seed; percent), confidence (test set -> reliability, coverage), parameters, seconds. A run
    of one record has its keys at the top level too.
    """
    groups: dict[tuple[str, Any], list[Fit]] = {}
    for fit in run.fits:
        groups.setdefault((fit.method, fit.shots), []).append(fit)
    records = [_record(fits, encoder) for fits in groups.values()]
    document = {
        "schema_version": SCHEMA_VERSION,
        "task": "few-shot classification",
        "protocol": protocol,
        "seeds": seeds,
        "settings": settings,
        "backbone": encoder.identity | {"device": str(encoder.device)},
        "data": {"name": run.data.name, "fingerprint": run.data.fingerprint, "classes": len(run.data.classes)},
        "skipped_images": len(run.skipped),
        "warnings": run.warnings,
        "runs": records,
        "peak_memory_mb": peak_memory_mb(),
        "versions": versions(),
    }
    return document | (records[0] if len(records) == 1 else {})


def _record(fits: list[Fit], encoder: Encoder) -> dict[str, Any]:
    first = fits[0]
    trainable = max(fit.classifier.n_parameters_ for fit in fits)
    total = encoder.n_parameters + trainable
    metrics = {
        test: {name: summary([fit.metrics[test][name] for fit in fits]) for name in scores}
        for test, scores in first.metrics.items()
    }
    queries = [fit.query_microseconds for fit in fits if fit.query_microseconds is not None]
    return {
        "method": first.method,
        "shots": first.shots,
        "support_images": len(first.support),
        "hyperparameters": [_hyperparameters(fit) for fit in fits],
        "metrics": metrics,
        "confidence": {test: _confidence(fits, test) for test in first.scores},
        "parameters": {"trainable": trainable, "total": total, "percent": 100 * trainable / total},
        "seconds": {
            "fit": summary([fit.fit_seconds for fit in fits]),
            "tune": summary([fit.tune_seconds for fit in fits]),
        },
        "microseconds_per_query": summary(queries) if queries else None,
    }


def _confidence(fits: list[Fit], test: str) -> dict[str, Any]:
    """reliability: bins over (0, 1], the predictions of all seeds together (confidence and accuracy from 0 to 1; an
    empty bin has count 0). coverage: accuracy in percent on the surest so many percent of the images, over seeds."""
    bins = Reliability.pooled([fit.scores[test].reliability for fit in fits])
    curves = [summary(list(at)) for at in zip(*(fit.scores[test].coverage for fit in fits), strict=True)]
    return {
        "reliability": {
            "count": bins.count.tolist(),
            "confidence": bins.confidence.round(6).tolist(),
            "accuracy": bins.accuracy.round(6).tolist(),
        },
        "coverage": {
            "percent": list(COVERAGES),
            "mean": [round(curve["mean"], 6) for curve in curves],
            "std": [round(curve["std"], 6) for curve in curves],
        },
    }


def _hyperparameters(fit: Fit) -> dict[str, Any]:
    """What the method ran with, after tuning."""
    return {
        name: value for name, value in fit.classifier.get_params().items() if name not in ("text", "classes", "device")
    }


def peak_memory_mb() -> float:
    """The largest resident set so far, of this process or of a worker that has ended, in MB."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    packages = {name: version(name) for name in ("torch", "transformers", "numpy", "scikit-learn", "pillow")}
    return {"crossgraft": __version__, "python": platform.python_version()} | packages
