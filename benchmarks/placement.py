"""A search for a prompt's layer beside a sweep that trains every layer: both curves, and what each costs.

    python benchmarks/placement.py recipes/pocket/dvp-easy-vqa.yaml training.max_steps=600 search.epochs=1 --seeds 0,1

The cost of one search is a share of the processor time of one sweep (a mean over seeds of both).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from common import result_file
from crossgraft.training.recipe import load_recipe
from trainings import SPENT, compare, spend

LAYERS = range(6)  # of pocket-bert


def methods() -> dict[str, list[str]]:
    """The prompt before each layer, wherever the recipe lists it."""
    file = next((word for word in sys.argv[1:] if word.endswith(".yaml")), None)
    if file is None:
        return {}
    recipe = load_recipe(Path(file), [word for word in sys.argv[1:] if "=" in word and not word.startswith("--")])
    at = list(recipe.methods()).index("dvp")
    return {f"layer {layer}": [f"method.{at}.layer={layer}"] for layer in LAYERS}


def main() -> None:
    arguments = compare("placement", methods(), __doc__ or "")
    path = result_file("placement", arguments.name)
    document = json.loads(path.read_text())
    document["searches"] = [search(arguments, seed) for seed in arguments.seeds]
    document["summary"] = summary(document)
    path.write_text(json.dumps(document, indent=1) + "\n")
    show(document)


def search(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """`crossgraft search`, unless it is done -> its curves and its cost."""
    out = arguments.work / f"search-{seed}"
    if not (out / "search.json").is_file():
        changes = [*arguments.changes, f"training.seed={seed}", f"out={out}"]
        command = [sys.executable, "-m", "crossgraft.cli.main", "search", str(arguments.recipe), *changes]
        spend(out, [*command, "--device", arguments.device])
    found = json.loads((out / "search.json").read_text())
    kept = {key: found[key] for key in ("bandit", "exhaustive", "agree", "steps", "seconds")}
    cost = json.loads((out / SPENT).read_text())
    return {"seed": seed, "cpu_seconds": cost, **kept, "settings": found["settings"]["search"]}


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """The best layer of the sweep, how far each search's choice is below it, and the share of its cost."""
    test = {row["method"]: row["mean_score"]["test"] for row in document["methods"]}
    sweep = sum(row["cpu_seconds"] for row in document["methods"])
    best = max(test, key=test.__getitem__)
    choices = {rule: [one[rule]["choice"] for one in document["searches"]] for rule in ("bandit", "exhaustive")}
    return {
        "best": best,
        "choices": choices,
        "below_best": {rule: [test[best] - test[choice] for choice in chosen] for rule, chosen in choices.items()},
        "sweep_cpu_seconds": sweep,
        "search_share": fmean(one["cpu_seconds"] for one in document["searches"]) / sweep,
    }


def show(document: dict[str, Any]) -> None:
    table = Table(
        "layer", "trained: test", *(f"search {one['seed']}: chance, held out" for one in document["searches"])
    )
    for row in document["methods"]:
        name = row["method"]
        cells = (
            f"{100 * one['bandit']['chances'][name]:.1f} %, {one['exhaustive']['scores'][name]:.1f}"
            for one in document["searches"]
        )
        table.add_row(name, f"{row['mean_score']['test']:.1f} ± {row['std']['test']:.1f}", *cells)
    Console().print(table)
    found = document["summary"]
    Console().print(f"best {found['best']}; chosen {found['choices']}; {found['below_best']} points below the best")
    Console().print(f"the search costs {100 * found['search_share']:.1f} % of the sweep's processor time")


if __name__ == "__main__":
    main()
