"""Dynamic visual prompts beside other ways to show an image to a frozen language model, at equal steps.

    python benchmarks/dvp_tasks.py recipes/pocket/dvp-easy-vqa.yaml training.max_steps=600
    python benchmarks/dvp_tasks.py recipes/pocket/dvp-easy-vqa.yaml backbone=pocket-t5 training.max_steps=600 --name t5

Learning rates are compared as `trainings` says. What each way costs in FLOPs is in `dvp_cost.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from crossgraft.training.recipe import load_recipe
from trainings import compare

ADAPTERS = {  # the paper's
    "classifier": ("{name: adapter, reduction: 8, activation: relu}", 'also_train=["head.*", layer_norms]'),
    "causal": ("{name: adapter, bottleneck: 64, activation: silu}", "also_train=[layer_norms]"),
}
SIGHTS = {
    "dvp": "{name: dvp}",
    "all visual tokens": "{name: visual-tokens}",
    "one global token": "{name: visual-tokens, pool: mean}",
}


def methods(model: str) -> dict[str, list[str]]:
    """Each way to see, alone and with adapters. model: "classifier", whose head is trained always, or "causal"."""
    adapter, norms = ADAPTERS[model]
    made = {}
    for name, sight in SIGHTS.items():
        made[name] = [f"method=[{sight}]", "also_train=null"]
        made[f"{name}, adapters"] = [f"method=[{adapter}, {sight}]", norms]
    return made | {"text alone, adapters": [f"method=[{adapter}]", norms]}


if __name__ == "__main__":
    recipe = next((Path(word) for word in sys.argv[1:] if word.endswith(".yaml")), None)
    compare("dvp_tasks", methods(load_recipe(recipe).model if recipe else "classifier"), __doc__ or "")
