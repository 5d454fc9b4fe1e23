"""Visual features standardised by channel, and as they are: the same training on both.

python benchmarks/standardise.py recipes/pocket/easy-vqa.yaml visual.encoder=pocket-clip visual.side=4
"""

from __future__ import annotations

from trainings import compare

METHODS = {"standardised": ["visual.standardise=true"], "as they are": ["visual.standardise=false"]}

if __name__ == "__main__":
    compare("standardise", METHODS, __doc__ or "")
