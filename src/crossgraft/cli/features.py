"""`crossgraft features`: encode a data set once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossgraft.cli.options import Device, Draft, Dtype, Json, Model, Split, Workers, print_json, say
from crossgraft.errors import InputError


def features(
    data: Annotated[Path, typer.Argument(help="Image folder (a folder a class), CoOp split file, or CSV.")],
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder of the feature store; an existing store is completed or extended.")],
    split: Split = None,
    grid: Annotated[bool, typer.Option(help="Also store the token grid (large).")] = False,
    views: Annotated[int, typer.Option(min=0, help="Augmented views to encode of each image, besides the image.")] = 0,
    shard_size: Annotated[int, typer.Option(min=1, help="Images a shard: at most this much is lost by a kill.")] = 128,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a forward pass.  [default: 4 on a CPU, 64 elsewhere]")
    ] = None,
    workers: Workers = 1,
    engine: Annotated[
        str, typer.Option(help="local, or ray: Ray Data on this machine or the cluster at RAY_ADDRESS; the same bytes.")
    ] = "local",
    device: Device = "auto",
    dtype: Dtype = "float32",
    draft: Draft = False,
    as_json: Json = False,
) -> None:
    """Encode images once into a memory-mapped store. Kill it at any moment; run it again and it goes on."""
    from crossgraft.encoders.extract import extract
    from crossgraft.encoders.load import load_encoder
    from crossgraft.fewshot.data import load_data

    images = load_data(data, split=split)
    paths = [path for part in (images.train, images.val, images.test) if part is not None for path in part.paths]
    encoder = load_encoder(model, device=device, dtype=dtype, draft=draft)
    done = extract(
        paths,
        encoder,
        out,
        views=views,
        grid=grid,
        batch_size=batch_size,
        shard_size=shard_size,
        workers=workers,
        engine=engine,
    )
    if not done.hash_of:
        raise InputError(f"none of {len(paths)} images can be read; the reasons are in {out / 'skipped.json'}")
    report = {
        "store": str(out),
        "encoder": encoder.identity,
        "images": len(paths),
        "encoded": done.encoded,
        "reused": done.reused,
        "skipped": done.skipped,
        "seconds": done.seconds,
    }
    if as_json:
        print_json(report)
        return
    say(
        f"{out}: {done.encoded} images encoded, {done.reused} there already, {len(done.skipped)} skipped, "
        f"{done.seconds:.1f} s"
    )
    if done.skipped:
        say(f"skipped images and reasons: {out / 'skipped.json'}")
