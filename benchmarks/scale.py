"""Few-shot classifiers at 1000 classes x 16 shots x 512 numbers and 50,000 queries, beside the bare linear algebra.

    python benchmarks/scale.py [--methods proker xmadapter] [--repeats 3]

Only ratios count, each between two things measured in turn in this run, by the best of the repeats:

- linear heads: `predict` over one matrix product (50000 x 512 @ 512 x 1000); target 1.5
- kernel methods: `fit` over one Cholesky factorisation of a 16000 x 16000 kernel matrix; target 1.5
- cache methods: a dense Tip-Adapter cache as published, exp(-beta (1 - Q K^T)) @ V with one-hot V, over `predict`;
  target 10, with the same predictions

Two synthetic problems of unit features: "clustered" has the cosines that CLIP's have (0.5 between two photos, 0.75 in a
class, classes in groups of ten, texts right for 6 of 10), "hard" is noise without classes, where bounds help least.
Memory is the growth of the process's peak (Linux) while 2,000 and while 50,000 queries are predicted. Writes
benchmarks/results/scale.json.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from crossgraft.fewshot import get_method
from crossgraft.fewshot.base import FewShotClassifier
from crossgraft.files import write_json
from crossgraft.reporting.results import versions

RESULTS = Path(__file__).parent / "results" / "scale.json"
N, SHOTS, D, QUERIES, FEW = 1000, 16, 512, 50_000, 2_000
LOGIT_SCALE, BETA = 100.0, 5.5  # CLIP's, Tip-Adapter's
ALPHAS = (1.0, 3.0, 10.0)  # Tip-Adapter's default, and what its search finds
LINEAR = ("zero-shot", "linear-probe", "nearest-mean", "gda")
TARGETS = {"linear": 1.5, "kernel": 1.5, "cache": 10.0}


class Problem(NamedTuple):
    """Support X (M, D) with labels y (M,), queries Q (n, D) with labels, texts (N, D); all features unit."""

    X: Tensor
    y: Tensor
    Q: Tensor
    y_query: Tensor
    text: Tensor


def problem(clustered: bool, seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def directions(n: int) -> Tensor:
        return normalize(torch.randn(n, D, generator=generator), dim=1)

    y, y_query = torch.arange(N).repeat_interleave(SHOTS), torch.randint(N, (QUERIES,), generator=generator)
    if not clustered:
        return Problem(directions(len(y)), y, directions(QUERIES), y_query, directions(N))
    classes = normalize(directions(N // 10)[torch.arange(N) // 10] + 0.6 * directions(N), dim=1)
    common, common_text = directions(1), directions(1)

    def photos(labels: Tensor) -> Tensor:
        return normalize(0.7 * common + 0.45 * classes[labels] + 0.55 * directions(len(labels)), dim=1)

    text = normalize(0.9 * common_text + 0.25 * common + 0.25 * classes + 0.35 * directions(N), dim=1)
    return Problem(photos(y), y, photos(y_query), y_query, text)


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The best time of each work; they take turns, so that what else the machine does falls on all of them."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(repeats):
        for name, work in works.items():
            best[name] = min(best[name], seconds(work))
    return best


def fitted(method: str, data: Problem, **settings: Any) -> FewShotClassifier:
    return get_method(method)(text=data.text, classes=list(range(N)), logit_scale=LOGIT_SCALE, **settings).fit(
        data.X, data.y
    )


def measure_linear(data: Problem, repeats: int) -> dict[str, Any]:
    # The size of a logistic regression's head does not depend on the samples, and its fit takes minutes on all of them.
    few = data._replace(X=data.X[::SHOTS], y=data.y[::SHOTS])
    heads = {method: fitted(method, few if method == "linear-probe" else data) for method in LINEAR}
    weight = data.text.T.contiguous()
    works: dict[str, Callable[[], Any]] = {"matrix product": lambda: data.Q @ weight}
    works |= {method: lambda head=head: head.predict(data.Q) for method, head in heads.items()}
    times = in_turn(works, repeats)
    reference = times.pop("matrix product")
    return {
        "matrix_product_seconds": reference,
        "methods": {method: {"predict_seconds": t, "ratio": t / reference} for method, t in times.items()},
    }


def measure_kernel(data: Problem, methods: list[str], repeats: int) -> dict[str, Any]:
    def cholesky() -> float:
        """Of exp(-3 (1 - X X^T)) + 0.05 I; making the matrix is not counted."""
        kernel = (data.X @ data.X.T).sub_(1).mul_(3).exp_()
        kernel.diagonal().add_(0.05)
        return seconds(lambda: torch.linalg.cholesky(kernel))

    reference, best = float("inf"), dict.fromkeys(methods, float("inf"))
    for _ in range(repeats):
        reference = min(reference, cholesky())
        for method in methods:
            best[method] = min(best[method], seconds(lambda method=method: fitted(method, data)))
    return {
        "cholesky_seconds": reference,
        "methods": {method: {"fit_seconds": t, "ratio": t / reference} for method, t in best.items()},
    }


def dense_cache(data: Problem, keys: Tensor) -> tuple[Tensor, float]:
    """A V (n, N) of a dense cache, a block of queries after the other, and the seconds until all are classified."""
    values = one_hot(data.y, N).float()
    votes = torch.empty(QUERIES, N)
    start = time.perf_counter()
    for cut in torch.arange(QUERIES).split(1000):
        votes[cut] = torch.exp(-BETA * (1 - data.Q[cut] @ keys.T)) @ values
        (LOGIT_SCALE * data.Q[cut] @ data.text.T + votes[cut]).argmax(dim=1)
    return votes, time.perf_counter() - start


def measure_cache(data: Problem, classifiers: list[FewShotClassifier], repeats: int) -> dict[str, Any]:
    """Classifiers that share their keys, beside one dense cache of these."""
    votes, dense_seconds = dense_cache(data, classifiers[0].keys_)
    results = {}
    for classifier in classifiers:
        top = (LOGIT_SCALE * data.Q @ data.text.T + classifier.alpha * votes).topk(2, dim=1)
        predicted = torch.as_tensor(classifier.predict(data.Q))
        best = in_turn({"predict": lambda c=classifier: c.predict(data.Q)}, repeats)["predict"]
        results[f"{classifier.method}, alpha {classifier.alpha:g}"] = {
            "dense_seconds": dense_seconds,
            "predict_seconds": best,
            "ratio": dense_seconds / best,
            "accuracy": (predicted == data.y_query).double().mean().item(),
            "different_predictions": int((predicted != top.indices[:, 0]).sum()),
            "smallest_lead": (top.values[:, 0] - top.values[:, 1]).min().item(),
        }
    return results


def status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def peak_growth(work: Callable[[], Any]) -> float:
    """MiB by which the process's memory at its peak during some work exceeds what it held before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is what is held now
    before = status("VmRSS")
    work()
    return (status("VmHWM") - before) / 2**20


def measure_memory(data: Problem, methods: list[str]) -> dict[str, Any]:
    results = {}
    for method in methods:
        classifier = fitted(method, data)
        classifier.predict(data.Q[:FEW])  # what a library keeps for ever is not counted
        results[method] = {
            f"peak_growth_mib_{n}_queries": peak_growth(lambda c=classifier, n=n: c.predict(data.Q[:n]))
            for n in (FEW, QUERIES)
        }
    return results


def processor() -> str:
    """The name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def print_results(results: dict[str, Any]) -> None:
    table = Table("", "seconds", "reference", "ratio", "target", title="1000 classes x 16 shots x 512, 50,000 queries")
    for kind, key, reference in (
        ("linear", "predict_seconds", "matrix_product_seconds"),
        ("kernel", "fit_seconds", "cholesky_seconds"),
    ):
        for method, row in results[kind]["methods"].items():
            bare = f"{results[kind][reference]:.2f}"
            table.add_row(method, f"{row[key]:.2f}", bare, f"{row['ratio']:.2f}", f"<= {TARGETS[kind]:g}")
    for name, rows in results["cache"].items():
        for method, row in rows.items():
            cells = (f"{row['predict_seconds']:.2f}", f"{row['dense_seconds']:.2f}", f"{row['ratio']:.1f}")
            differing = f", {row['different_predictions']} predictions differ"
            table.add_row(f"{method}, {name} ({row['accuracy']:.0%}{differing})", *cells, f">= {TARGETS['cache']:g}")
    Console(width=130).print(table)
    memory = Table("", *(f"MiB, {n} queries" for n in (FEW, QUERIES)), title="memory while predicting")
    for method, row in results.get("memory", {}).items():
        memory.add_row(method, *(f"{value:.0f}" for value in row.values()))
    Console(width=130).print(memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["proker", "xmadapter"], help="the kernel methods")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    console = Console(stderr=True)
    clustered = problem(clustered=True)
    results: dict[str, Any] = {
        "classes": N,
        "shots": SHOTS,
        "dimensions": D,
        "queries": QUERIES,
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "targets": TARGETS,
        "cache": {},
    }
    console.print("linear heads")
    results["linear"] = measure_linear(clustered, arguments.repeats + 2)
    console.print("kernel methods")
    results["kernel"] = measure_kernel(clustered, arguments.methods, arguments.repeats)
    for name, data in (("clustered", clustered), ("hard", problem(clustered=False))):
        console.print(f"cache methods, {name}")
        classifiers = [fitted("tip-adapter", data, alpha=alpha, beta=BETA) for alpha in ALPHAS]
        results["cache"][name] = measure_cache(data, classifiers, arguments.repeats)
    console.print("cache methods, trained keys")
    trained = fitted("tip-adapter-f", clustered, epochs=1)
    results["cache"]["clustered"] |= measure_cache(clustered, [trained], arguments.repeats)
    if Path("/proc/self/clear_refs").exists():
        console.print("memory")
        results["memory"] = measure_memory(clustered, ["zero-shot", "tip-adapter", *arguments.methods])
    results["seconds"] = time.perf_counter() - start
    results["machine"] = {"processor": processor(), "cpu_count": os.cpu_count()}
    results["versions"] = versions()
    print_results(results)
    write_json(RESULTS, results)


if __name__ == "__main__":
    main()
