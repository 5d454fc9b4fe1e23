"""`crossgraft search`: where a recipe's prompt, or any of its methods, goes best."""

from __future__ import annotations

from typing import Annotated

import typer

from crossgraft.cli.options import Device, Json, print_json, say
from crossgraft.cli.train import Overrides, RecipeFile


def search(
    recipe: RecipeFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a search that was interrupted.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Search where one of a recipe's methods goes best; then train it there."""
    from crossgraft.training.recipe import load_recipe

    chosen = load_recipe(recipe, overrides or [])
    from crossgraft.reporting.search_page import search_page
    from crossgraft.training.placement import PAGE, search

    document = search(chosen, resume=resume, device=device, say=say)
    path = chosen.out_folder / PAGE
    path.write_text(search_page(document), encoding="utf-8")
    if as_json:
        print_json(document)
        return
    chances, scores = document["bandit"]["chances"], document["exhaustive"]["scores"]
    typer.echo(f"{'placement':<24}{'chance':>10}{'held-out score':>16}")
    for name in document["placements"]:
        typer.echo(f"{name:<24}{100 * chances[name]:>9.1f}%{scores[name]:>16.2f}")
    agree = "agree" if document["agree"] else f"do not agree: scoring all chooses {document['exhaustive']['choice']}"
    typer.echo(f"chosen: {document['chosen']} ({document['rule']}; the two rules {agree})")
    typer.echo(f"{path}: the preferences' curves")
