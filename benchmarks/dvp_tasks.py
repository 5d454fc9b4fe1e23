"""Dynamic visual prompts beside other ways to show an image to a frozen language model, at equal steps.

    python benchmarks/dvp_tasks.py recipes/pocket/dvp-easy-vqa.yaml training.max_steps=600
    python benchmarks/dvp_tasks.py recipes/pocket/dvp-easy-vqa.yaml backbone=pocket-t5 training.max_steps=600 --name t5

Learning rates are compared as `trainings` says. What each way costs in FLOPs is in `dvp_cost.py`.
"""

from __future__ import annotations

from trainings import compare

NORMS = 'also_train=["head.*", layer_norms]'
HEAD = 'also_train=["head.*"]'
ADAPTER = "{name: adapter, reduction: 8, activation: relu}"
METHODS = {
    "dvp": ["method=[{name: dvp}]", HEAD],
    "dvp, adapters": [f"method=[{ADAPTER}, {{name: dvp}}]", NORMS],
    "all visual tokens": ["method=[{name: visual-tokens}]", HEAD],
    "all visual tokens, adapters": [f"method=[{ADAPTER}, {{name: visual-tokens}}]", NORMS],
    "one global token": ["method=[{name: visual-tokens, pool: mean}]", HEAD],
    "one global token, adapters": [f"method=[{ADAPTER}, {{name: visual-tokens, pool: mean}}]", NORMS],
    "text alone, adapters": [f"method=[{ADAPTER}]", NORMS],
}

if __name__ == "__main__":
    compare("dvp_tasks", METHODS, __doc__ or "")
