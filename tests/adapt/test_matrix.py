"""Every method in every family: what an attached module may and may not do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import BACKBONES, GENERATORS, backbone, inputs, output
from torch import nn

from crossgraft.adapt import AdaptedModel, Route
from crossgraft.errors import InputError
from crossgraft.methods.adapter import Adapter
from crossgraft.methods.attach import attach, load_adapter, save_adapter
from crossgraft.methods.base import Method
from crossgraft.methods.compacter import Compacter
from crossgraft.methods.hyperformer import Hyperformer
from crossgraft.methods.lora import LoRA
from crossgraft.methods.parameters_only import BitFit, FullFineTuning
from crossgraft.methods.prompt_tuning import Prompt

METHODS: dict[str, Method] = {
    "adapter": Adapter(reduction=4),
    "adapter-multiple": Adapter(reduction=4, sharing="multiple"),
    "adapter-half": Adapter(reduction=4, sharing="half_up"),
    "compacter": Compacter(reduction=4),
    "compacter-paper": Compacter(reduction=4, rank=1, shared_rule=True, sharing="multiple"),
    "hyperformer": Hyperformer(embedding=6, hidden=5, code=4, reduction=4),
    "lora": LoRA(r=3, dropout=0.0),
    "lora-multiple": LoRA(r=3, dropout=0.0, sharing="multiple"),
    "prompt": Prompt(length=3, hidden=8),
    "prompt-multiple": Prompt(length=2, hidden=0, sharing="multiple"),
    "bitfit": BitFit(),
    "full": FullFineTuning(),
}
TASKS = ("a", "b")
"""Families without what a method needs."""
NOT_FOR = {("prompt", "clip-text"), ("prompt", "clip-vision"), ("prompt-multiple", "clip-text")}
NOT_FOR |= {("prompt-multiple", "clip-vision"), ("bitfit", "t5"), ("bitfit", "llama"), ("bitfit", "mistral")}
PAIRS = [(method, family) for method in METHODS for family in BACKBONES if (method, family) not in NOT_FOR]
every_pair = pytest.mark.parametrize(("method", "family"), PAIRS)


def adapted(method: str, family: str, *, moved: bool = True, seed: int = 0) -> AdaptedModel:
    """A backbone with one adapter whose weights, if `moved`, are not those of the start."""
    model = AdaptedModel(backbone(family))
    torch.manual_seed(seed)
    also = ("layer_norms",) if method in ("adapter", "lora") else ()
    attach(model, "new", METHODS[method], tasks=TASKS, also_train=also)
    model.set_task("a")
    if moved:
        move(model, seed)
    return model.eval()


def move(model: AdaptedModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@every_pair
@torch.no_grad()  # attention chooses its kernel by what requires gradients
def test_a_new_module_changes_nothing_to_the_bit(method: str, family: str) -> None:
    if METHODS[method].name == "prompt":
        pytest.skip("tokens before a text change what is attended to")
    plain = output(family, backbone(family), inputs(family))
    model = adapted(method, family, moved=False)
    assert torch.equal(output(family, model, inputs(family)), plain)


@every_pair
def test_only_its_parameters_are_trained_and_all_of_them_are(method: str, family: str) -> None:
    model = adapted(method, family)
    frozen = {name: value for name, value in model.named_parameters() if not value.requires_grad}
    for task in TASKS:
        model.set_task(task)
        output(family, model.train(), inputs(family)).square().sum().backward()
    assert all(value.grad is None for value in frozen.values())
    grafts = {name for name, value in model.grafts.named_parameters() if value.grad is None}
    assert not grafts
    touched = [value.grad is not None and value.grad.abs().sum() > 0 for value in model.tuned("new").values()]
    # Boxes are all zero, so what multiplies them learns nothing; and not all of a backbone is used.
    assert all(touched) or (any(touched) and (method == "full" or family.startswith("sighted")))


@every_pair
@torch.no_grad()
def test_detaching_restores_the_backbone_bit_for_bit(method: str, family: str) -> None:
    original = backbone(family)
    before, keys = snapshot(original), list(original.state_dict())
    trainable = [value.requires_grad for value in original.parameters()]
    model = adapted(method, family)
    assert list(model.backbone.state_dict()) == keys
    if method == "full":
        with pytest.raises(InputError, match="load the backbone again"):
            model.detach()
        return
    changed = output(family, model, inputs(family))
    with model.disabled():
        assert torch.equal(output(family, model, inputs(family)), output(family, original, inputs(family)))
    assert torch.equal(output(family, model, inputs(family)), changed)
    assert not torch.equal(changed, output(family, original, inputs(family)))
    restored = model.detach()
    assert same(snapshot(restored), before)
    assert [value.requires_grad for value in restored.parameters()] == trainable
    assert torch.equal(output(family, restored, inputs(family)), output(family, original, inputs(family)))


@every_pair
@torch.no_grad()
def test_saving_and_loading_is_exact(method: str, family: str, tmp_path: Any) -> None:
    model = adapted(method, family)
    expected = [output(family, _task(model, task), inputs(family)) for task in TASKS]
    save_adapter(model, "new", tmp_path)
    fresh = AdaptedModel(backbone(family))
    load_adapter(fresh, tmp_path, name="again")
    for task, value in zip(TASKS, expected, strict=True):
        assert torch.equal(output(family, _task(fresh.eval(), task), inputs(family)), value)


def _double(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def _task(model: AdaptedModel, task: str) -> AdaptedModel:
    model.set_task(task)
    return model


@every_pair
def test_checkpointing_gives_the_same_gradients(method: str, family: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = adapted(method, family).double()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            for name in ("dropout", "activation_dropout", "attention_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        result = output(family, model, _double(inputs(family))).square().mean()
        model.set_task("b")  # what comes next must not change what is computed again
        result.backward()
        gradients.append([value.grad for value in model.parameters() if value.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-5)


@every_pair
@torch.no_grad()
def test_rows_with_different_adapters_equal_one_by_one(method: str, family: str) -> None:
    if method == "full":
        with pytest.raises(InputError, match="in place"):
            adapted(method, family).set_rows(["new"])
        return
    model = adapted(method, family)
    attach(model, "other", METHODS[method], tasks=TASKS)
    move(model, seed=5)
    prompt = METHODS[method].name == "prompt"  # rows of one batch are equally long
    routes = [Route(("new",), "a"), Route(("other",), "b"), Route(("other",), "a") if prompt else None]
    batch = inputs(family)
    single = []
    for row, route in enumerate(routes):
        model.set_active(*(route.adapters if route else ()), task=route.task if route else None)
        single.append(output(family, model, {name: value[row : row + 1] for name, value in batch.items()}))
    model.set_rows(routes)
    together = output(family, model, batch)
    torch.testing.assert_close(together, torch.cat(single), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", GENERATORS)
def test_generation_with_cache_and_beams_equals_generation_without_cache(method: str, family: str) -> None:
    if (method, family) in NOT_FOR:
        pytest.skip("not for this family")
    model = adapted(method, family)
    for beams in (1, 3):
        options = {"max_new_tokens": 6, "num_beams": beams, "do_sample": False}
        cached = model.generate(**inputs(family), **options, use_cache=True)
        plain = model.generate(**inputs(family), **options, use_cache=False)
        assert torch.equal(cached, plain)
    if method != "full":
        model.set_rows([Route(("new",), "a"), Route(("new",), "b"), Route(("new",), "a")])
        cached = model.generate(**inputs(family), **options, use_cache=True)
        assert torch.equal(cached, model.generate(**inputs(family), **options, use_cache=False))
