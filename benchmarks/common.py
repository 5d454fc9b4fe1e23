"""What the few-shot benchmarks share: options, seeds, where results go, and a line for each fit."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from crossgraft.encoders.base import Encoder
from crossgraft.encoders.load import load_encoder
from crossgraft.fewshot import METHODS
from crossgraft.fewshot.run import Fit

RESULTS = Path(__file__).parent / "results"
SEEDS = [1, 2, 3]


def data_options(parser: argparse.ArgumentParser) -> None:
    """The images, --split, --name."""
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--name", help="of the data, for the file of results")


def encoder_options(parser: argparse.ArgumentParser) -> None:
    """--model, --dtype, --device, --shots."""
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shots", type=lambda text: [int(k) for k in text.split(",")], default=[1, 2, 4, 8, 16])


def few_shot_options(parser: argparse.ArgumentParser) -> None:
    """Those of `encoder_options`, --protocol, --methods."""
    encoder_options(parser)
    parser.add_argument("--protocol", default="none")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))


def encoder_of(arguments: argparse.Namespace) -> Encoder:
    """The encoder that the options name."""
    return load_encoder(arguments.model, device=arguments.device, dtype=arguments.dtype)


def result_file(kind: str, *parts: str) -> Path:
    """benchmarks/results/<kind>-<part>-<part>.json; the folder is made."""
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{'-'.join((kind, *parts))}.json"


def machine(encoder: Encoder) -> dict[str, Any]:
    """Where it ran: times are comparable within one run only."""
    return {"processor": platform.machine(), "cpu_count": os.cpu_count(), "device": str(encoder.device)}


def teller(console: Console) -> Callable[[Fit], None]:
    """Print a line for each fit."""

    def tell(fit: Fit) -> None:
        scores = ", ".join(f"{test} {metrics['accuracy']:.1f}" for test, metrics in fit.metrics.items())
        console.print(f"{fit.method} {fit.shots} shots seed {fit.seed}: {scores} ({fit.fit_seconds:.2f} s)")

    return tell
