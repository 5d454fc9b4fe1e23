"""All few-shot methods on one data set: accuracy by shots, fit seconds, microseconds a query, trained parameters.

    python benchmarks/fewshot.py DATA [--split split.json] --model pocket-lite [--protocol none] [--test DATA2 ...]

The same experiment as `crossgraft fewshot`, over shots 1, 2, 4, 8, 16 and seeds 1, 2, 3, written to
benchmarks/results/fewshot-<data>-<model>-<protocol>.json. Times are of this machine, in this run: compare them with
each other only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from common import SEEDS, data_options, encoder_of, few_shot_options, machine, result_file, teller
from crossgraft.encoders.store import default_store
from crossgraft.fewshot.data import load_data, load_test_data
from crossgraft.fewshot.run import run_fewshot
from crossgraft.files import write_json
from crossgraft.reporting.results import few_shot_results
from crossgraft.reporting.table import few_shot_tables, setting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_options(parser)
    parser.add_argument("--test", type=Path, action="append", default=[])
    few_shot_options(parser)
    arguments = parser.parse_args()
    console = Console(highlight=False)

    data = load_data(arguments.data, split=arguments.split)
    encoder = encoder_of(arguments)
    run = run_fewshot(
        data,
        encoder,
        default_store(encoder),
        methods=arguments.methods,
        shots=arguments.shots,
        seeds=SEEDS,
        protocol=arguments.protocol,
        tests=[load_test_data(path, data.classes) for path in arguments.test],
        calibrate=False,  # benchmarks/calibration.py measures that
        on_fit=teller(console),
    )
    document = few_shot_results(run, encoder, protocol=arguments.protocol, seeds=SEEDS, settings={"key": "feature"})
    document["machine"] = machine(encoder)
    target = result_file("fewshot", arguments.name or data.name, Path(encoder.name).name, arguments.protocol)
    write_json(target, document)
    console.print(setting(document), markup=False)
    for table in few_shot_tables(document):
        console.print(table)
    console.print(f"written: {target}")


if __name__ == "__main__":
    main()
