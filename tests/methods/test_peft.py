"""LoRA is peft's: the same numbers as a model that peft itself changed, and files that each reads of the other."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from methods_list import move
from tiny_models import backbone, inputs, output
from torch import Tensor, nn

from crossgraft.adapt import AdaptedModel
from crossgraft.errors import InputError
from crossgraft.methods.attach import attach, load_adapter, save_adapter
from crossgraft.methods.lora import LoRA

FAMILIES = {"bert": ["query", "value"], "t5": ["q", "v"], "bart": ["q_proj", "v_proj"], "llama": ["q_proj", "v_proj"]}
every_family = pytest.mark.parametrize("family", FAMILIES)


@torch.no_grad()
def out(family: str, model: nn.Module) -> Tensor:
    return output(family, model.eval(), inputs(family))


def peft_model(family: str, **options: Any) -> Any:
    """peft's own model with weights that are not those of the start."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=3, lora_alpha=7, init_lora_weights=False, target_modules=FAMILIES[family], **options)
    return peft.get_peft_model(backbone(family), config)


def adapted(family: str, *also: str, **options: Any) -> AdaptedModel:
    model = AdaptedModel(backbone(family))
    torch.manual_seed(1)
    attach(model, "new", LoRA(r=3, alpha=7, **options), also_train=also)
    move(model, 1)
    return model


def from_peft(folder: Path, family: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of our fields beside peft's
        return peft.PeftModel.from_pretrained(backbone(family), folder)


@every_family
@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_the_same_weights_give_the_same_outputs_and_merge_to_the_same(family: str, rank_stabilized: bool) -> None:
    theirs, ours = peft_model(family, use_rslora=rank_stabilized), adapted(family, rank_stabilized=rank_stabilized)
    matrices = {name: value for name, value in theirs.named_parameters() if "lora_" in name}
    sites = {site.module: name for name, site in ours.sites.items()}
    with torch.no_grad():
        for name, value in ours.grafts["new"].named_parameters():
            _, key, matrix, _, _ = name.split(".")
            module = next(module for module, site in sites.items() if site.replace(".", "_") == key)
            value.copy_(matrices.pop(f"base_model.model.{module}.{matrix}.default.weight"))
    assert not matrices
    assert torch.equal(out(family, ours), out(family, theirs))
    ours.merge("new")
    merged = theirs.merge_and_unload()
    for (name, one), (_, other) in zip(ours.backbone.named_parameters(), merged.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name)
    torch.testing.assert_close(out(family, ours), out(family, merged), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "also"),
    [(family, also) for family in FAMILIES for also in ((), ("layer_norms",))]
    + [(family, ("biases",)) for family in ("bert", "bart")],
)
def test_peft_loads_what_is_saved_here(family: str, also: tuple[str, ...], tmp_path: Path) -> None:
    """With the copies of the backbone's parameters, even of biases inside layers that peft wraps."""
    ours = adapted(family, *also)
    save_adapter(ours, "new", tmp_path / "new")
    assert torch.equal(out(family, from_peft(tmp_path / "new", family)), out(family, ours))


@pytest.mark.parametrize(
    ("family", "options"),
    [(family, options) for family in FAMILIES for options in ({}, {"use_rslora": True})]
    + [(family, {"modules_to_save": ["layer_norm", "LayerNorm"]}) for family in ("bert", "t5")],
)
def test_what_peft_saved_loads_here(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    theirs = peft_model(family, **options)
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "modules_to_save" in name:
                value.mul_(1.5)
    theirs.save_pretrained(tmp_path)
    ours = AdaptedModel(backbone(family))
    config = load_adapter(ours, tmp_path, name="theirs")
    assert config["peft_type"] == "LORA"
    assert torch.equal(out(family, ours), out(family, theirs))
    save_adapter(ours, "theirs", tmp_path / "again")
    again = AdaptedModel(backbone(family))
    load_adapter(again, tmp_path / "again")
    assert torch.equal(out(family, again), out(family, theirs))


def test_what_peft_says_of_biases_loads_here(tmp_path: Path) -> None:
    theirs = peft_model("bart", bias="all")
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if name.endswith("bias"):
                value.add_(0.1)
    theirs.save_pretrained(tmp_path)
    ours = AdaptedModel(backbone("bart"))
    load_adapter(ours, tmp_path, name="theirs")
    assert torch.equal(out("bart", ours), out("bart", theirs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, r"use_dora is True, a feature of peft that crossgraft does not have"),
        ({"rank_pattern": {"encoder": 2}}, r"rank_pattern is"),
        ({"lora_bias": True}, r"lora_bias is True"),
    ],
)
def test_features_of_peft_that_are_not_here_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    peft_model("t5", **options).save_pretrained(tmp_path)
    model = AdaptedModel(backbone("t5"))
    with pytest.raises(InputError, match=message):
        load_adapter(model, tmp_path)
    assert not model.grafts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_lora_weights": "pissa"}, r"init_lora_weights is 'pissa'"),
        ({"peft_type": "IA3"}, r"peft_type is 'IA3'; of peft's methods only LORA"),
        ({"r": 0}, r"adapter_config.json: r is 0, expected"),
        ({"r": 4}, r"shape \(3, 16\), expected \(4, 16\)"),
        ({"lora_alpha": None}, r"alpha is None, expected"),
    ],
)
def test_configurations_of_peft_that_cannot_be(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    peft_model("t5").save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    model = AdaptedModel(backbone("t5"))
    with pytest.raises(InputError, match=message):
        load_adapter(model, tmp_path)
    assert not model.grafts


def test_a_module_that_is_no_site_is_named(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=3, target_modules=["q", "wo"])
    peft.get_peft_model(backbone("t5"), config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"DenseReluDense\.wo has a LoRA, and is no site"):
        load_adapter(AdaptedModel(backbone("t5")), tmp_path)
