"""Options that several commands share, and output that is either for people or for scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[str, typer.Option("--model", "-m", help="pocket-clip, pocket-lite, a Hugging Face name, or a folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0, mps, ...")]
Dtype = Annotated[str, typer.Option(help="Precision of the encoder: float32 or bfloat16.")]
Split = Annotated[Path | None, typer.Option(help="CoOp split file or CSV whose images lie in DATA.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that encode.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def say(line: str) -> None:
    """A line of log, on stderr."""
    typer.echo(line, err=True)
