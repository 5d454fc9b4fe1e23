"""`crossgraft answer`: a question about images to a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossgraft.cli.options import Device, Json, print_json


def answer(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A folder that `crossgraft train` wrote.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or the frames of a video.")],
    text: Annotated[str, typer.Option("--text", "-t", help="The question; nothing for captions.")] = "",
    task: Annotated[str | None, typer.Option(help="A task of the run, if it has several.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Answer a question about images, or describe them."""
    from crossgraft.training.answerer import Answerer

    found = Answerer.load(run, device=device)(images, text, task=task)
    if as_json:
        print_json({"run": str(run), "images": [str(path) for path in images], "text": text, "answer": found})
        return
    typer.echo(found)
