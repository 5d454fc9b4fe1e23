"""Put a method into a model, save what it trained, and load it again.

An adapter folder is PEFT-shaped: `adapter_config.json`, `adapter_model.safetensors` and a model card, `README.md`. The
tensors are the graft's own (`graft.`) and its copies of the backbone's parameters (`backbone.`); a LoRA with one set of
weights has peft's names for them, and peft's fields in its configuration (`peft_format`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from crossgraft import __version__
from crossgraft.adapt import AdaptedModel
from crossgraft.config import from_mapping
from crossgraft.encoders.fingerprint import fingerprint
from crossgraft.errors import InputError
from crossgraft.files import read_json, write_json
from crossgraft.folders import replacing
from crossgraft.methods import peft_format
from crossgraft.methods.base import Method, get_method
from crossgraft.methods.card import card
from crossgraft.methods.shards import class_name, fill, is_sharded, whole
from crossgraft.tensors import read_tensors

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
    for option, values in (("tasks", tasks), ("also_train", also_train)):
        if isinstance(values, str):
            raise InputError(f"{option}: expected a list of names, found the text {values!r}; write [{values!r}]")
    if repeated := [task for row, task in enumerate(tasks) if task in tasks[:row]]:
        raise InputError(f"tasks: {repeated[0]!r} is named twice; name each task once")
    origin = Origin(method, tuple(tasks), tuple(also_train))
    graft = method.graft(model, origin.tasks)
    graft.origin = origin  # type: ignore[assignment]
    model.add(name, graft, tune=(*method.tunes, *origin.also_train), in_place=method.in_place)


def parameter_counts(model: AdaptedModel, *names: str) -> dict[str, Any]:
    """What adapters train, by default the active ones, and the backbone with what they put in.

    Returns:
        {"trainable", "total", "percent"}.
    """
    names = names or model.active
    total = sum(value.numel() for value in model.backbone.parameters())
    trainable = sum(value.numel() for name in names for value in model.tuned(name).values())
    for name in names:
        added = list(model.grafts[name].parameters())
        total += sum(value.numel() for value in added)
        trainable += sum(value.numel() for value in added if value.requires_grad)
    return {"trainable": trainable, "total": total, "percent": 100 * trainable / total}


def adapter_state(model: AdaptedModel, name: str) -> dict[str, Tensor]:
    """All that an adapter trained: "graft.<its name>" and "backbone.<its name>" -> tensor."""
    tuned = model.tuned(name)
    graft = {f"graft.{key}": value for key, value in model.grafts[name].state_dict().items()}
    return graft | {f"backbone.{key}": value.detach() for key, value in tuned.items()}


@torch.no_grad()
def load_adapter_state(model: AdaptedModel, name: str, state: Mapping[str, Tensor], where: str) -> None:
    """Give an adapter the values that `adapter_state` gave, in place.

    Raises:
        InputError: tensors are missing, left over, or of other shapes; the adapter then keeps what it had.
    """
    own = adapter_state(model, name)
    if own.keys() != state.keys():
        missing, others = sorted(own.keys() - state.keys())[:3], sorted(state.keys() - own.keys())[:3]
        raise InputError(f"{where}: tensors missing: {missing or 'none'}, not the adapter's: {others or 'none'}")
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise InputError(f"{where}: {key}: shape {tuple(state[key].shape)}, expected {tuple(value.shape)}")
    for key, value in own.items():
        fill(value, state[key])


def save_adapter(model: AdaptedModel, name: str, folder: str | Path, *, extra: Mapping[str, Any] | None = None) -> Path:
    """Write an adapter to a folder, whole or not at all; an adapter that is there already is replaced.

    Of a model that FSDP has sharded every process has to call this; the first one writes.

    Args:
        extra: anything else to keep, JSON only.

    Raises:
        InputError: no such adapter; it was not made by `attach`; the folder holds something else.
    """
    folder = Path(folder)
    tuned = model.tuned(name)
    origin = getattr(model.grafts[name], "origin", None)
    if origin is None:
        raise InputError(f"{name!r} is a graft of no method, so it could not be loaded again; add it by `attach`")
    names = peft_format.tensor_names(model, name, origin.method)
    backbone = getattr(getattr(model.backbone, "config", None), "_name_or_path", "")
    config = (peft_format.configuration(model, name, origin.method, backbone) if names else {}) | {
        "schema_version": SCHEMA_VERSION,
        "crossgraft_version": __version__,
        "method": origin.method.name,
        "options": asdict(origin.method),
        "tasks": list(origin.tasks),
        "also_train": list(origin.also_train),
        "backbone": {
            "class": class_name(model.backbone),
            "name": backbone,
            "fingerprint": frozen_fingerprint(model.backbone, model, name),
        },
        "parameters": parameter_counts(model, name),
        "extra": dict(extra or {}),
    }
    # Cloned, because safetensors refuses tensors that share memory.
    state = {names.get(key, key): whole(value).cpu().clone() for key, value in adapter_state(model, name).items()}
    if is_sharded(model) and torch.distributed.get_rank():
        return folder
    with replacing(folder, FILES, "adapter") as new:
        write_json(new / CONFIG_FILE, config)
        save_file(state, new / TENSOR_FILE)
        (new / CARD_FILE).write_text(card(folder.name, origin.method.paper, config, len(tuned)), encoding="utf-8")
    return folder


def load_adapter(model: AdaptedModel, folder: str | Path, *, name: str | None = None) -> dict[str, Any]:
    """Attach an adapter that `save_adapter` wrote, or a LoRA that peft wrote, under its folder's name or another one.

    What peft wrote does not say which backbone it is for; here that is checked.

    Returns:
        What its `adapter_config.json` holds.

    Raises:
        InputError: a file is missing or damaged; the adapter is of an unknown method or for another backbone. The model
            is then as it was.
    """
    folder = Path(folder)
    where, tensors = str(folder / CONFIG_FILE), str(folder / TENSOR_FILE)
    config = read_json(folder / CONFIG_FILE)
    foreign = isinstance(config, dict) and "peft_type" in config and "method" not in config
    if not foreign:
        method, tasks = _read(config, where, model)
        also_train = config["also_train"]
    state = _tensors(folder / TENSOR_FILE)
    if foreign:
        method, also_train = peft_format.read(config, state, model, where)
        tasks = []
    name = name or folder.name
    with model.restoring_routes():
        try:
            attach(model, name, method, tasks=tasks, also_train=also_train)
        except InputError as error:
            raise InputError(f"{where}: does not fit this backbone: {error}") from error
        try:
            if not foreign:
                _check_backbone(model, name, config["backbone"], where)
            own = {theirs: ours for ours, theirs in peft_format.tensor_names(model, name, method).items()}
            load_adapter_state(model, name, {own.get(key, key): value for key, value in state.items()}, tensors)
        except InputError:
            if method.in_place:
                model.merge(name)  # nothing was written yet
            else:
                model.delete(name)
            raise
    model.set_active(name)
    return config


def frozen_fingerprint(backbone: nn.Module, model: AdaptedModel, name: str) -> str:
    """SHA-256 over what of the backbone an adapter leaves frozen."""
    tuned = model.tuned(name).keys()
    frozen = {key: value for key, value in backbone.named_parameters() if key not in tuned}
    return fingerprint({key: whole(value) for key, value in frozen.items()}, [])


def _read(config: Any, where: str, model: AdaptedModel) -> tuple[Method, list[str]]:
    """A configuration that `save_adapter` wrote -> the method and its tasks."""
    wanted = {"schema_version", "method", "options", "tasks", "also_train", "backbone"}
    if not isinstance(config, dict) or wanted - config.keys():
        lacking = ", ".join(sorted(wanted - config.keys())) if isinstance(config, dict) else "everything"
        raise InputError(f"{where}: not the adapter of a language model; it lacks {lacking}")
    if config["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"{where}: schema_version is {config['schema_version']!r}, and this version of crossgraft reads "
            f"{SCHEMA_VERSION}; install the version that wrote it ({config.get('crossgraft_version', 'not known')})"
        )
    for key in ("tasks", "also_train"):
        if not isinstance(config[key], list) or not all(isinstance(value, str) for value in config[key]):
            raise InputError(f"{where}: {key}: expected a list of names, found {config[key]!r:.60}")
    backbone = config["backbone"]
    if not isinstance(backbone, dict) or {"class", "name", "fingerprint"} - backbone.keys():
        raise InputError(f"{where}: backbone: expected class, name and fingerprint, found {backbone!r:.60}")
    try:
        method = from_mapping(get_method(config["method"]), config["options"], "options")
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if backbone["class"] != class_name(model.backbone):
        raise InputError(
            f"{where}: the adapter is for a {backbone['class']}, and this backbone is a {class_name(model.backbone)}; "
            f"load {backbone['name'] or 'the backbone it was trained on'}"
        )
    return method, config["tasks"]


def _check_backbone(model: AdaptedModel, name: str, recorded: Mapping[str, Any], where: str) -> None:
    have = frozen_fingerprint(model.backbone, model, name)
    if have != recorded["fingerprint"]:
        raise InputError(
            f"{where}: the adapter was trained on {recorded['name'] or 'a backbone'} ({recorded['fingerprint'][:12]}), "
            f"and this backbone has other weights ({have[:12]}); load the one it was trained on"
        )


def _tensors(path: Path) -> dict[str, Tensor]:
    state = read_tensors(path)
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"{path}: {key} holds values that are not finite; its training diverged, train it again")
    return state
