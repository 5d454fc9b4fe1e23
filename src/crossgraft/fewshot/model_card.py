"""The README.md of a saved classifier: what it is, what it was made with, how to load it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossgraft.fewshot.base import FewShotClassifier

SHOWN_CLASSES = 50


def model_card(method: type[FewShotClassifier], config: dict[str, Any], name: str) -> str:
    """Markdown for the configuration that `save_classifier` writes."""
    classes = [_plain(label) for label in config["classes"]]
    shown = ", ".join(classes[:SHOWN_CLASSES]) + (", ..." if len(classes) > SHOWN_CLASSES else "")
    encoder = config["encoder"]
    made_on = "not recorded"
    if encoder is not None:
        made_on = f"{_plain(encoder.get('name', 'unnamed'))}, fingerprint `{_plain(encoder['fingerprint'])}`"
    scaled = _calibrated(config.get("calibration"))
    params = "\n".join(f"| {key} | {_plain(value)} |" for key, value in config["params"].items())
    return f"""---
library_name: crossgraft
tags: [few-shot, image-classification, {config["method"]}]
---

# {_plain(name)}

A few-shot image classifier: `{config["method"]}` on {config["n_features"]} frozen features.

- **Method:** {method.paper}.
- **Encoder:** {made_on}.
- **Classes ({len(classes)}):** {shown}.
- **Trained parameters:** {config["n_parameters"]:,}.
- **Probabilities:** {scaled}.

| parameter | value |
|---|---|
{params}

## Load

```python
from crossgraft.fewshot import load_classifier

classifier = load_classifier("path/to/this/folder")
labels = classifier.predict(features)  # (n, {config["n_features"]}): image embedding, then image feature
```

Written by crossgraft {config["crossgraft_version"]}. `adapter_config.json` says the same to programs.
"""


def _calibrated(calibration: dict[str, Any] | None) -> str:
    if calibration is None:
        return "not calibrated"
    scale = f"calibrated on the support, temperature {calibration['temperature']:.4g}"
    if not calibration["samples"]:
        return f"{scale}; no reject threshold"
    return f"{scale}; reject threshold from {calibration['samples']} out-of-fold predictions"


def _plain(value: Any) -> str:
    """Text that cannot break out of its line or table cell."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("`", "'")
