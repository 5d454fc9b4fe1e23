"""What frozen layers give, kept for each sample, and computed in each step: the same training both ways.

    python benchmarks/frozen_prefix.py recipes/pocket/dvp-easy-vqa.yaml 'method=[{name: dvp}]' training.max_steps=500

Without adapters nothing is trained below the prompt, so that its layers need not run again.
"""

from __future__ import annotations

from trainings import compare

HEAD = "also_train=null"  # and no layer norms
METHODS = {"kept": [HEAD, "training.cache_frozen=true"], "computed": [HEAD, "training.cache_frozen=false"]}

if __name__ == "__main__":
    compare("frozen_prefix", METHODS, __doc__ or "")
