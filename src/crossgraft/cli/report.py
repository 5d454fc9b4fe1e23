"""`crossgraft report`: what runs found, on one page."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from crossgraft.cli.options import Json, check_out_folder, print_json, say
from crossgraft.errors import InputError


def report(
    runs: Annotated[list[Path], typer.Argument(help="Output folders of `crossgraft fewshot`.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about one or more runs: accuracy, evidence, calibration, cost."""
    if os.path.isdir(out):
        raise InputError(f"--out {out} is a folder; expected a file, such as {out / 'report.html'}")
    check_out_folder(out.parent)

    from crossgraft.files import write_bytes
    from crossgraft.reporting.report import build_report

    said = time.monotonic()

    def tell(what: str) -> None:
        nonlocal said
        if time.monotonic() - said > 2:
            said = time.monotonic()
            say(what)

    page = build_report(runs, tell)
    content = page.html.encode()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, content)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}); give another file") from error
    for note in page.notes:
        say(f"note: {note}")
    if as_json:
        print_json(
            {
                "report": str(out),
                "bytes": len(content),
                "runs": page.runs,
                "sections": page.groups,
                "pictures": {"shown": page.pictures, "missing": page.missing, "left_out": page.left_out},
                "notes": list(page.notes),
            }
        )
    else:
        say(f"report: {out} ({len(content) / 1e6:.1f} MB, {page.pictures} pictures); open it in a browser")
