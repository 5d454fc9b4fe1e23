"""The model card of an adapter: README.md of its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card(title: str, paper: str, config: Mapping[str, Any], tuned: int) -> str:
    """Markdown.

    Args:
        title: name of the folder.
        paper: the method's source.
        config: what `adapter_config.json` holds.
        tuned: how many tensors of the backbone the adapter trained.
    """
    options = "\n".join(f"| {key} | {value} |" for key, value in config["options"].items())
    counts, backbone = config["parameters"], config["backbone"]
    return f"""---
library_name: crossgraft
tags: [vision-language, {config["method"]}]
---

# {title}

An adapter for a frozen language model: `{config["method"]}`.

- **Method:** {paper}.
- **Backbone:** {backbone["name"] or backbone["class"]}, frozen part `{backbone["fingerprint"]}`.
- **Tasks:** {", ".join(config["tasks"]) or "not told apart"}.
- **Trained parameters:** {counts["trainable"]:,} of {counts["total"]:,} ({counts["percent"]:.3f} %), {tuned} tensors
  of the backbone among them.

| option | value |
|---|---|
{options}

## Load

```python
from crossgraft.adapt import AdaptedModel
from crossgraft.methods.attach import load_adapter

model = AdaptedModel(backbone)
load_adapter(model, "path/to/this/folder")
```

Written by crossgraft {config["crossgraft_version"]}. `adapter_config.json` says the same to programs.
"""
