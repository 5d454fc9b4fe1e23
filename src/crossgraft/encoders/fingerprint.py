"""A fingerprint says that two encoders give the same features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# What changes features and is in no weight. Not the whole configuration: it holds the folder's name and transformers'
# version.
ARCHITECTURE = ("hidden_act", "num_attention_heads", "layer_norm_eps", "patch_size", "eos_token_id")


def architecture(config: Any) -> dict[str, Any]:
    """What of a tower's configuration its weights do not show."""
    return {key: getattr(config, key, None) for key in ARCHITECTURE}


def fingerprint(weights: Mapping[str, Tensor], settings: Any) -> str:
    """SHA-256 (hex) over weights (name, shape, bytes, as loaded in float32) and JSON settings such as preprocessing."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
