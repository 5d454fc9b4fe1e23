"""GLUE with a frozen language model beside one that is trained as a whole, at equal steps; one corpus a table.

    R="recipes/pocket/glue-rte.yaml data=DIR training.max_steps=1000 --seeds 0,1,2 --work runs/glue-rte --name rte"
    python benchmarks/glue.py $R --methods "adapters;adapters, X-adapter" --rates 3e-4,1e-3
    python benchmarks/glue.py $R --methods "full fine-tuning" --rates 2e-5,5e-5
    python benchmarks/glue.py $R --rates ''                                       # all of them in one table

Another corpus: 'tasks={sts-b: {task: glue, corpus: STS-B, folder: "{data}/glue/STS-B"}}', with a --work and a --name of
its own. Learning rates are compared as `trainings` says, on a part of train; scores are GLUE's, on the official dev.
"""

from __future__ import annotations

from trainings import compare

ADAPTER = "{name: adapter, reduction: 8, activation: gelu}"
KNOWLEDGE = "knowledge={encoder: pocket-lite, images: [demo/emoji, '{data}/flickr8k/images']}"
METHODS = {
    "adapters": [f"method={ADAPTER}"],
    "adapters, X-adapter": [f"method=[{ADAPTER}, {{name: xadapter, sites: ['encoder.3-5.output']}}]", KNOWLEDGE],
    "full fine-tuning": ["method={name: full}"],
}

if __name__ == "__main__":
    compare("glue", METHODS, __doc__ or "")
