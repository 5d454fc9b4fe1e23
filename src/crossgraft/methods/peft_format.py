"""LoRA in the files of Hugging Face's peft: what `save_adapter` writes loads there, and what peft wrote loads here.

Only LoRA with one set of weights has this form. peft loads the copies of the backbone's parameters into its base model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from crossgraft.adapt import AdaptedModel, Site
from crossgraft.errors import InputError
from crossgraft.methods.base import SHARED, Method, key_of
from crossgraft.methods.lora import LoRA

PREFIX, MATRICES = "base_model.model.", ("lora_A", "lora_B")

READ = {"r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "init_lora_weights"}
"""What of peft's configuration means something here."""
HARMLESS = READ | {"peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "task_type"}
HARMLESS |= {"inference_mode", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "bias"}
HARMLESS |= {"megatron_core", "qalora_group_size"}
"""What may have any value, because the names of the tensors say the same or nothing depends on it."""
STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Starts of the matrices that leave the backbone's weights alone."""


def tensor_names(model: AdaptedModel, name: str, method: Method) -> dict[str, str]:
    """ "graft.X" or "backbone.X" (`adapter_state`) -> peft's name, for an adapter that peft can read; else nothing."""
    sites: dict[str, Site] = model.grafts[name].sites  # type: ignore[assignment]
    modules = {site.module: site_name for site_name, site in sites.items()}
    if not isinstance(method, LoRA) or method.sharing != "single" or len(modules) < len(sites):
        return {}
    names = {
        f"graft.layers.{key_of(site)}.{matrix}.{SHARED}.weight": f"{PREFIX}{module}.{matrix}.weight"
        for module, site in modules.items()
        for matrix in MATRICES
    }
    for parameter in model.tuned(name):
        owner, _, leaf = parameter.rpartition(".")
        inside = ".base_layer" if owner in modules else ""
        names[f"backbone.{parameter}"] = f"{PREFIX}{owner}{inside}{'.' if owner else ''}{leaf}"
    return names


def configuration(model: AdaptedModel, name: str, method: LoRA, backbone: str) -> dict[str, Any]:
    """The fields of peft's `LoraConfig` for an adapter."""
    sites: dict[str, Site] = model.grafts[name].sites  # type: ignore[assignment]
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": backbone,
        "inference_mode": True,
        "r": method.r,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "use_rslora": method.rank_stabilized,
        "target_modules": sorted(site.module for site in sites.values()),
        "bias": "none",
    }


def read(
    config: Mapping[str, Any], tensors: Iterable[str], model: AdaptedModel, where: str
) -> tuple[LoRA, tuple[str, ...]]:
    """A configuration that peft wrote, and the names of its tensors -> the method, and what else is trained.

    Raises:
        InputError: no LoRA; a feature of peft that is not here; a module that is no site of the model.
    """
    if config["peft_type"] != "LORA":
        raise InputError(f"{where}: peft_type is {config['peft_type']!r}; of peft's methods only LORA is read here")
    others = {key: value for key, value in config.items() if key not in HARMLESS and value}
    if config.get("init_lora_weights") not in STARTS:
        others["init_lora_weights"] = config["init_lora_weights"]
    if others:
        key, value = next(iter(others.items()))
        raise InputError(
            f"{where}: {key} is {value!r:.40}, a feature of peft that crossgraft does not have; load this adapter with "
            "peft and merge it into the backbone, or train it without"
        )
    sites: dict[str, str] = {}  # module -> the first site that is its output
    for site in model.sites.values():
        if not site.before:
            sites.setdefault(site.module, site.name)
    chosen, tuned = [], []
    for name in tensors:
        module, _, rest = name.removeprefix(PREFIX).rpartition(f".{MATRICES[0]}.")
        if rest == "weight":
            if module not in sites:
                raise InputError(f"{where}: {module} has a LoRA, and is no site of this model that could take one")
            chosen.append(sites[module])
        elif f".{MATRICES[1]}." not in name:
            tuned.append(name.removeprefix(PREFIX).replace(".base_layer.", "."))
    if not chosen:
        raise InputError(
            f"{where}: no tensor is called {PREFIX}<module>.lora_A.weight; expected a LoRA that peft saved"
        )
    options = {"r": config["r"], "alpha": config["lora_alpha"], "dropout": config.get("lora_dropout", 0.0)}
    try:
        method = LoRA(**options, sites=tuple(chosen), rank_stabilized=bool(config.get("use_rslora")))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return method, tuple(tuned)
