"""All few-shot methods on one data set: accuracy by shots, fit seconds, microseconds a query, trained parameters.

    python benchmarks/fewshot.py DATA [--split split.json] --model pocket-lite [--protocol none] [--test DATA2 ...]

The same experiment as `crossgraft fewshot`, over shots 1, 2, 4, 8, 16 and seeds 1, 2, 3, written to
benchmarks/results/fewshot-<data>-<model>-<protocol>.json. Times are of this machine, in this run: compare them with
each other only.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from rich.console import Console

from crossgraft.encoders.load import load_encoder
from crossgraft.encoders.store import default_store
from crossgraft.fewshot import METHODS
from crossgraft.fewshot.data import load_data, load_test_data
from crossgraft.fewshot.run import Fit, run_fewshot
from crossgraft.files import write_json
from crossgraft.reporting.results import few_shot_results
from crossgraft.reporting.table import few_shot_tables, setting

RESULTS = Path(__file__).parent / "results"
SEEDS = [1, 2, 3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--test", type=Path, action="append", default=[])
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--protocol", default="none")
    parser.add_argument("--shots", default="1,2,4,8,16")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--name", help="of the data, for the file of results")
    arguments = parser.parse_args()
    console = Console(highlight=False)

    def say(fit: Fit) -> None:
        scores = ", ".join(f"{test} {metrics['accuracy']:.1f}" for test, metrics in fit.metrics.items())
        console.print(
            f"{fit.method} {fit.shots} shots seed {fit.seed}: {scores} ({fit.fit_seconds:.2f} s)", highlight=False
        )

    data = load_data(arguments.data, split=arguments.split)
    encoder = load_encoder(arguments.model, device=arguments.device, dtype=arguments.dtype)
    run = run_fewshot(
        data,
        encoder,
        default_store(encoder),
        methods=arguments.methods.split(","),
        shots=[int(k) for k in arguments.shots.split(",")],
        seeds=SEEDS,
        protocol=arguments.protocol,
        tests=[load_test_data(path, data.classes) for path in arguments.test],
        on_fit=say,
    )
    document = few_shot_results(run, encoder, protocol=arguments.protocol, seeds=SEEDS, settings={"key": "feature"})
    document["machine"] = {"processor": platform.machine(), "cpu_count": os.cpu_count(), "device": str(encoder.device)}
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"fewshot-{arguments.name or data.name}-{Path(encoder.name).name}-{arguments.protocol}.json"
    write_json(target, document)
    console.print(setting(document), markup=False)
    for table in few_shot_tables(document):
        console.print(table)
    console.print(f"written: {target}")


if __name__ == "__main__":
    main()
