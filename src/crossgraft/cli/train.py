"""`crossgraft params`, `train` and `evaluate`: a recipe's size, its run, its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossgraft.cli.options import Device, Json, print_json, say

RecipeFile = Annotated[Path, typer.Argument(help="A recipe (YAML), see docs/training.md.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as training.epochs=3.")
]


def params(
    recipes: Annotated[
        list[str], typer.Argument(metavar="RECIPE.yaml... [KEY=VALUE]...", help="Recipes, and changes to all of them.")
    ],
    as_json: Json = False,
) -> None:
    """Count trainable and all parameters of recipes. Needs no weights."""
    from crossgraft.environment import check_environment, quiet_transformers
    from crossgraft.errors import InputError

    check_environment()
    quiet_transformers()
    from crossgraft.training.build import count_parameters
    from crossgraft.training.recipe import load_recipe

    files = [Path(text) for text in recipes if "=" not in text]
    changes = [text for text in recipes if "=" in text]
    if not files:
        raise InputError("no recipe was given; give a YAML file, such as recipes/pocket/easy-vqa.yaml")
    rows = []
    for file in files:
        recipe = load_recipe(file, changes)
        rows.append({"recipe": str(file), "name": recipe.name, **count_parameters(recipe)})
    if as_json:
        print_json(rows[0] if len(rows) == 1 else {"recipes": rows})
        return
    width = max(len(str(row["name"])) for row in rows)
    typer.echo(f"{'recipe':<{width}}{'trainable':>15}{'total':>15}{'percent':>10}")
    for row in rows:
        typer.echo(f"{row['name']:<{width}}{row['trainable']:>15,}{row['total']:>15,}{row['percent']:>10.3f}")


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train adapters by a recipe. Kill it whenever you like; --resume goes on."""
    from crossgraft.training.recipe import load_recipe

    chosen = load_recipe(recipe, overrides or [])
    from crossgraft.training import processes
    from crossgraft.training.run import train as run_recipe

    document = run_recipe(chosen, resume=resume, device=device, say=say)
    if not processes.is_first():
        return
    if as_json:
        print_json({key: document[key] for key in document if key != "history"})
        return
    _table(document["metrics"])
    typer.echo(f"{chosen.out_folder}: adapters, answers and results.json")


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A folder that `crossgraft train` wrote.")],
    task: Annotated[str | None, typer.Option(help="One task of the run.  [default: all]")] = None,
    split: Annotated[str, typer.Option(help="train, val, test; of glue also submission.")] = "test",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Answer and score a run's tasks; writes official result files."""
    from crossgraft.training.run import evaluate as evaluate_run

    found = evaluate_run(run, task=task, split=split, device=device, say=say)
    if as_json:
        print_json(found)
        return
    _table({f"{name}/{split}": values for name, values in found["metrics"].items()})
    for file in found["answers"].values():
        typer.echo(file)


def _table(metrics: dict[str, dict[str, object]]) -> None:
    for test, values in metrics.items():
        for name, value in values.items():
            number = value["mean"] if isinstance(value, dict) else value
            typer.echo(f"{test:<24}{name:<28}{number:>8.2f}")
