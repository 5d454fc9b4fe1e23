"""`crossgraft export`: a saved classifier as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossgraft.cli.options import Json, check_out_folder, print_json, say


def export(
    adapter: Annotated[Path, typer.Argument(help="Adapter folder that `crossgraft fewshot` saved.")],
    out: Annotated[Path, typer.Option(help="ONNX file to write; OUT.json beside it says what it is.")],
    head_only: Annotated[
        bool, typer.Option("--head-only", help="Leave the encoder out: features in, probabilities out.")
    ] = False,
    opset: Annotated[int, typer.Option(help="Version of ONNX's operators, 18 to 23.")] = 20,
    model: Annotated[
        str | None, typer.Option(help="Where the encoder is, if it moved; it has to be the same one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a classifier to ONNX, and check it: no file is left unless it gives what PyTorch gives, to 1e-4."""
    check_out_folder(out.absolute().parent)
    say(f"exporting {adapter} (seconds for a head, up to a minute for a vision transformer)")
    from crossgraft.serving.onnx_export import export_onnx

    report = export_onnx(adapter, out, head_only=head_only, opset=opset, model=model)
    if as_json:
        print_json({"file": str(out), **report})
        return
    agreement = report["agreement"]
    say(
        f"{out}: {report['method']}, {len(report['classes'])} classes, {report['bytes'] / 1e6:.1f} MB; against PyTorch "
        f"on {agreement['checked_on']}: probabilities within {agreement['max_probability_difference']:.1e}, "
        f"{agreement['same_label']} labels the same"
    )
