"""All few-shot methods on several data sets with nothing tuned: is what wins on one set ahead on the others?

    python scripts/make_evaluation_sets.py SETS
    python benchmarks/generalisation.py SETS --model pocket-lite

Every split file in SETS, and demo/emoji: trained on one art style, tested on the other two (domain generalisation), for
each of the three. The same experiment as `crossgraft fewshot`, seeds 1, 2, 3, at the shots that a set's training images
allow. Written to benchmarks/results/generalisation-<model>.json; docs/evaluation.md describes the sets.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from common import SEEDS, encoder_of, few_shot_options, machine, result_file, teller
from crossgraft.encoders.store import default_store
from crossgraft.fewshot.data import ImageData, load_data, load_test_data
from crossgraft.fewshot.run import Fit, run_fewshot
from crossgraft.files import write_json
from crossgraft.reporting.results import summary, versions

EMOJI = Path(__file__).resolve().parent.parent / "demo" / "emoji"
STYLES = ("noto", "fluent", "twemoji")
ACROSS = "emoji across styles"
OURS = ("xmadapter", "auto")

# (method, shots) -> accuracy in percent, one value a seed
Accuracy = dict[tuple[str, int], list[float]]


def possible_shots(data: ImageData, wanted: Sequence[int]) -> list[int]:
    """The numbers of shots that every class has training images for."""
    fewest = min(Counter(data.train.labels).values())
    return [k for k in wanted if k <= fewest]


def accuracy_on(fits: Sequence[Fit], tests: Sequence[str]) -> Accuracy:
    """Accuracy by method and shots, mean over the test sets, a value a seed in the order of the fits."""
    values: Accuracy = {}
    for fit in fits:
        score = mean(fit.metrics[test]["accuracy"] for test in tests)
        values.setdefault((fit.method, int(fit.shots)), []).append(score)
    return values


def mean_of(parts: Sequence[Accuracy]) -> Accuracy:
    """The mean over several sets, seed by seed."""
    return {key: [mean(values) for values in zip(*(part[key] for part in parts), strict=True)] for key in parts[0]}


def compare(accuracy: Accuracy) -> list[dict[str, Any]]:
    """For each number of shots: the best method that is not ours, our methods, and how far each is ahead (points)."""
    rows = []
    for shots in dict.fromkeys(shots for _, shots in accuracy):
        means = {method: mean(values) for (method, k), values in accuracy.items() if k == shots}
        peers = {method: value for method, value in means.items() if method not in OURS}
        if peers:
            best = max(peers, key=lambda method: peers[method])
            ours = {m: {"accuracy": means[m], "ahead": means[m] - peers[best]} for m in OURS if m in means}
            rows.append({"shots": shots, "best_peer": {"method": best, "accuracy": peers[best]}, **ours})
    return rows


def table_of(name: str, accuracy: Accuracy) -> Table:
    """Methods down, shots across; the best of a column is bold."""
    shots = list(dict.fromkeys(k for _, k in accuracy))
    table = Table(title=f"{name}: accuracy in %, by shots", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    for k in shots:
        table.add_column(str(k), justify="right", no_wrap=True)
    best = {k: max(mean(values) for (_, at), values in accuracy.items() if at == k) for k in shots}
    for method in dict.fromkeys(method for method, _ in accuracy):
        values = {k: summary(accuracy[method, k]) for k in shots}
        texts = {k: f"{value['mean']:.1f} ±{value['std']:.1f}" for k, value in values.items()}
        table.add_row(
            method, *(f"[bold]{texts[k]}[/bold]" if values[k]["mean"] == best[k] else texts[k] for k in shots)
        )
    return table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, help="folder with split files, as scripts/make_evaluation_sets.py writes it")
    few_shot_options(parser)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    files = sorted(arguments.sets.glob("*.json"))
    if not files:
        parser.error(f"{arguments.sets}: no split file (*.json); make the sets with scripts/make_evaluation_sets.py")
    encoder = encoder_of(arguments)
    described: dict[str, Any] = {}

    def fits_of(data: ImageData, tests: Sequence[ImageData] = ()) -> list[Fit]:
        shots = possible_shots(data, arguments.shots)
        console.print(f"{data.name}: {len(data.classes)} classes, shots {', '.join(map(str, shots))}")
        run = run_fewshot(
            data,
            encoder,
            default_store(encoder),
            methods=arguments.methods,
            shots=shots,
            seeds=SEEDS,
            protocol=arguments.protocol,
            tests=tests,
            calibrate=False,  # benchmarks/calibration.py measures that
            on_fit=teller(console),
        )
        parts = {"train": data.train, "val": data.val, "test": data.test}
        described[data.name] = {
            "fingerprint": data.fingerprint,
            "classes": len(data.classes),
            "images": {name: len(part) for name, part in parts.items() if part is not None},
            "skipped_images": len(run.skipped),
            "warnings": run.warnings,
        }
        return run.fits

    measured: dict[str, Accuracy] = {}
    for file in files:
        data = load_data(file)
        measured[data.name] = accuracy_on(fits_of(data), ["test"])
    shifted = {}
    for style in STYLES:
        data = load_data(EMOJI / f"{style}.json")
        others = [other for other in STYLES if other != style]
        fits = fits_of(data, [load_test_data(EMOJI / f"{other}.json", data.classes) for other in others])
        measured[f"emoji {style}"] = accuracy_on(fits, ["test"])
        shifted[f"emoji {style} to {' and '.join(others)}"] = accuracy_on(fits, others)
    measured |= shifted | {ACROSS: mean_of(list(shifted.values()))}

    document = {
        "schema_version": 1,
        "task": "few-shot classification on several data sets",
        "protocol": arguments.protocol,
        "seeds": SEEDS,
        "backbone": encoder.identity | {"device": str(encoder.device)},
        "data": described,
        "results": {
            name: [{"method": m, "shots": k, "accuracy": summary(values)} for (m, k), values in accuracy.items()]
            for name, accuracy in measured.items()
        },
        "summary": {name: compare(accuracy) for name, accuracy in measured.items()},
        "machine": machine(encoder),
        "versions": versions(),
    }
    target = result_file("generalisation", Path(encoder.name).name)
    write_json(target, document)
    for name, accuracy in measured.items():
        console.print(table_of(name, accuracy))
        for row in compare(accuracy):
            ours = ", ".join(f"{m} {row[m]['accuracy']:.1f} ({row[m]['ahead']:+.1f})" for m in OURS if m in row)
            best = row["best_peer"]
            console.print(f"  {row['shots']} shots: best peer {best['method']} {best['accuracy']:.1f}; {ours}")
    console.print(f"written: {target}")


if __name__ == "__main__":
    main()
