"""Options that several commands share, and output that is either for people or for scripts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from crossgraft.errors import InputError

Model = Annotated[
    str, typer.Option("--model", "-m", help="pocket-clip, pocket-lite, a Hugging Face name, or a folder.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0, mps, ...")]
Dtype = Annotated[str, typer.Option(help="Precision of the encoder: float32, bfloat16, or int8 (CPU).")]
Draft = Annotated[bool, typer.Option(help="Decode large photos faster, with nearly the same pixels.")]
Split = Annotated[Path | None, typer.Option(help="CoOp split file or CSV whose images lie in DATA.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that encode.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


def check_out_folder(out: Path) -> None:
    """Raise InputError, before any work is done, if `out` cannot become a folder that results are written to."""
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"--out {out}: {nearest} is no folder that can be written to; give another")


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def say(line: str) -> None:
    """A line of log, on stderr."""
    typer.echo(line, err=True)
