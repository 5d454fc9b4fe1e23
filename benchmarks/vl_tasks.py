"""VL-Adapter's methods side by side: each trained on the same four tasks, in a process of its own.

    python benchmarks/vl_tasks.py recipes/pocket/four-tasks.yaml data=DATA training.epochs=2 visual.side=4

Learning rates are compared as `trainings` says; `--methods "single lora;full"` runs some of them.
"""

from __future__ import annotations

from trainings import compare

V = '["visual_embedding.*"]'
METHODS = {
    "full": ["method={name: full}"],
    "multiple adapters": ["method={name: adapter, sharing: multiple}"],
    "half-shared adapters": ["method={name: adapter, sharing: half_up}"],
    "single adapter": ["method={name: adapter}"],
    "hyperformer": ["method={name: hyperformer}"],
    "single compacter": ["method={name: compacter}"],
    "multiple compacter": ["method={name: compacter, sharing: multiple}"],
    "single lora": ["method={name: lora, r: 64, alpha: 64}"],
    "multiple lora": ["method={name: lora, r: 64, alpha: 64, sharing: multiple}"],
    "single prompt": ["method={name: prompt}", f"also_train={V}"],
    "multiple prompts": ["method={name: prompt, sharing: multiple}", f"also_train={V}"],
    "projection": ["method={name: projection}", f"also_train={V}"],
    "projection, layer norms": ["method={name: projection}"],
}

if __name__ == "__main__":
    compare("vl_tasks", METHODS, __doc__ or "")
