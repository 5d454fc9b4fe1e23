"""Put a method into a model, save what it trained, and load it again.

An adapter folder is PEFT-shaped: `adapter_config.json`, `adapter_model.safetensors` and a model card, `README.md`. The
tensors are the graft's own (`graft.`) and its copies of the backbone's parameters (`backbone.`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crossgraft import __version__
from crossgraft.adapt import AdaptedModel
from crossgraft.config import from_mapping
from crossgraft.encoders.fingerprint import fingerprint
from crossgraft.errors import InputError
from crossgraft.files import read_json, write_json
from crossgraft.folders import replacing
from crossgraft.methods.base import Method, get_method

SCHEMA_VERSION = 1
CONFIG_FILE, TENSOR_FILE, CARD_FILE = FILES = ("adapter_config.json", "adapter_model.safetensors", "README.md")


@dataclass(frozen=True)
class Origin:
    """What an adapter was made of; kept with its graft."""

    method: Method
    tasks: tuple[str, ...]
    also_train: tuple[str, ...]


def attach(
    model: AdaptedModel,
    name: str,
    method: Method,
    *,
    tasks: Sequence[str] = (),
    also_train: Sequence[str] = (),
) -> None:
    """Put a method into a model as an adapter called `name`, and make it the active one.

    Args:
        model: a frozen backbone.
        name: what to call the adapter.
        method: the method with its options.
        tasks: all tasks it will be trained on, for methods that tell them apart.
        also_train: roles or patterns of the backbone's parameters to train with it, such as "layer_norms".

    Raises:
        InputError: the method does not fit the model or the tasks; a pattern matches nothing; the name is taken.
    """
    origin = Origin(method, tuple(tasks), tuple(also_train))
    graft = method.graft(model, origin.tasks)
    graft.origin = origin  # type: ignore[assignment]
    model.add(name, graft, tune=(*method.tunes, *origin.also_train), in_place=method.in_place)


def parameter_counts(model: AdaptedModel) -> dict[str, Any]:
    """{"trainable", "total", "percent"}: of the active adapters, and of the backbone with all that was added."""
    parameters = list(model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return {"trainable": trainable, "total": total, "percent": 100 * trainable / total}


def adapter_state(model: AdaptedModel, name: str) -> dict[str, Tensor]:
    """All that an adapter trained: "graft.<its name>" and "backbone.<its name>" -> tensor."""
    graft = {f"graft.{key}": value for key, value in model.grafts[name].state_dict().items()}
    return graft | {f"backbone.{key}": value.detach() for key, value in model.tuned(name).items()}


@torch.no_grad()
def load_adapter_state(model: AdaptedModel, name: str, state: Mapping[str, Tensor], where: str) -> None:
    """Give an adapter the values that `adapter_state` gave, in place.

    Raises:
        InputError: tensors are missing, left over, or of other shapes.
    """
    own = adapter_state(model, name)
    if own.keys() != state.keys():
        missing, others = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        raise InputError(f"{where}: tensors missing: {missing[:3] or 'none'}, not the adapter's: {others[:3] or 'none'}")
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise InputError(f"{where}: {key}: shape {tuple(state[key].shape)}, expected {tuple(value.shape)}")
        value.copy_(state[key])


def save_adapter(
    model: AdaptedModel, name: str, folder: str | Path, *, extra: Mapping[str, Any] | None = None
) -> Path:
    """Write an adapter to a folder, whole or not at all; an adapter that is there already is replaced.

    Args:
        extra: anything else to keep, JSON only.

    Raises:
        InputError: no such adapter; the folder holds something else.
    """
    folder = Path(folder)
    tuned = model.tuned(name)
    origin: Origin = model.grafts[name].origin  # type: ignore[assignment]
    config = {
        "schema_version": SCHEMA_VERSION,
        "crossgraft_version": __version__,
        "method": origin.method.name,
        "options": asdict(origin.method),
        "tasks": list(origin.tasks),
        "also_train": list(origin.also_train),
        "backbone": {
            "class": type(model.backbone).__name__,
            "name": getattr(getattr(model.backbone, "config", None), "_name_or_path", ""),
            "fingerprint": frozen_fingerprint(model.backbone, model, name),
        },
        "parameters": parameter_counts(model),
        "extra": dict(extra or {}),
    }
    # Cloned, because safetensors refuses tensors that share memory.
    state = {key: value.detach().cpu().clone() for key, value in adapter_state(model, name).items()}
    with replacing(folder, FILES, "adapter") as new:
        write_json(new / CONFIG_FILE, config)
        save_file(state, new / TENSOR_FILE)
        (new / CARD_FILE).write_text(_card(folder.name, origin, config, len(tuned)), encoding="utf-8")
    return folder


def load_adapter(model: AdaptedModel, folder: str | Path, *, name: str | None = None) -> dict[str, Any]:
    """Attach an adapter that `save_adapter` wrote, under its folder's name or another one -> its configuration.

    Raises:
        InputError: a file is missing or damaged; the adapter is of an unknown method or for another backbone.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG_FILE)
    where = str(folder / CONFIG_FILE)
    wanted = {"schema_version", "method", "options", "tasks", "also_train", "backbone"}
    if not isinstance(config, dict) or wanted - config.keys():
        lacking = sorted(wanted - config.keys()) if isinstance(config, dict) else "everything"
        raise InputError(f"{where}: no adapter of a language model; it lacks {lacking}")
    if config["schema_version"] != SCHEMA_VERSION:
        raise InputError(f"{where}: schema_version {config['schema_version']}; this version reads {SCHEMA_VERSION}")
    try:
        method = from_mapping(get_method(config["method"]), config["options"], "options")
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    have = type(model.backbone).__name__
    if config["backbone"]["class"] != have:
        raise InputError(f"{where}: the adapter is for a {config['backbone']['class']}, this backbone is a {have}")
    state = _tensors(folder / TENSOR_FILE)
    name = name or folder.name
    try:
        attach(model, name, method, tasks=config["tasks"], also_train=config["also_train"])
    except InputError as error:
        raise InputError(f"{where}: does not fit this backbone: {error}") from error
    try:
        load_adapter_state(model, name, state, str(folder / TENSOR_FILE))
        _check_backbone(model, name, config["backbone"], where)
    except InputError:
        if not method.in_place:
            model.delete(name)
        raise
    return config


def frozen_fingerprint(backbone: nn.Module, model: AdaptedModel, name: str) -> str:
    """SHA-256 over what of the backbone an adapter leaves frozen."""
    tuned = model.tuned(name).keys()
    return fingerprint({key: value for key, value in backbone.named_parameters() if key not in tuned}, [])


def _check_backbone(model: AdaptedModel, name: str, recorded: Mapping[str, Any], where: str) -> None:
    have = frozen_fingerprint(model.backbone, model, name)
    if have != recorded["fingerprint"]:
        raise InputError(
            f"{where}: the adapter was trained on {recorded['name'] or 'a backbone'} ({recorded['fingerprint'][:12]}), "
            f"and this backbone has other weights ({have[:12]}); load the one it was trained on"
        )


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); expected an adapter folder") from error
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); save the adapter again") from error


def _card(title: str, origin: Origin, config: Mapping[str, Any], tuned: int) -> str:
    options = "\n".join(f"| {key} | {value} |" for key, value in config["options"].items())
    counts = config["parameters"]
    return f"""---
library_name: crossgraft
tags: [vision-language, {config["method"]}]
---

# {title}

An adapter for a frozen language model: `{config["method"]}`.

- **Method:** {origin.method.paper}.
- **Backbone:** {config["backbone"]["name"] or config["backbone"]["class"]}, frozen part `{config["backbone"]["fingerprint"]}`.
- **Tasks:** {", ".join(origin.tasks) or "not told apart"}.
- **Trained parameters:** {counts["trainable"]:,} of {counts["total"]:,} ({counts["percent"]:.3f} %), {tuned} tensors of the
  backbone among them.

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
