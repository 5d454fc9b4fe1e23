"""Every method in every family: what an attached module may and may not do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods_list import LOOKING, METHODS, TASKS, TOKENS, adapted, fits, memories, move
from tiny_models import GENERATORS, backbone, inputs, output
from torch import nn

from crossgraft.adapt import AdaptedModel, Route
from crossgraft.errors import InputError
from crossgraft.methods.attach import attach, load_adapter, save_adapter

# Every method in one family of each layout; the others differ in names alone, so they take turns with the methods.
MAIN = ("bert", "t5", "bart", "llama", "clip-vision", "sighted-t5")
OTHERS = ("sighted-bart", "roberta", "marian", "qwen2", "mistral", "clip-text")
PAIRS = [(method, family) for method in METHODS for family in MAIN if fits(method, family)]
PAIRS += [
    (method, family)
    for row, family in enumerate(OTHERS)
    for method in (list(METHODS) * 2)[row * 2 : row * 2 + 4]
    if fits(method, family)
]
every_pair = pytest.mark.parametrize(("method", "family"), PAIRS)
generating = pytest.mark.parametrize(("method", "family"), [pair for pair in PAIRS if pair[1] in GENERATORS])


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Tokens before a text change what is attended to.
@pytest.mark.parametrize(("method", "family"), [pair for pair in PAIRS if not pair[0].startswith(TOKENS)])
@torch.no_grad()  # attention chooses its kernel by what requires gradients
def test_a_new_module_changes_nothing_to_the_bit(method: str, family: str) -> None:
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


@pytest.mark.parametrize(("method", "family"), [pair for pair in PAIRS if pair[0] in LOOKING])
@torch.no_grad()
def test_without_a_memory_the_text_is_read_as_by_the_backbone_to_the_bit(method: str, family: str) -> None:
    model, plain = adapted(method, family), output(family, backbone(family), inputs(family))
    assert not torch.equal(output(family, model, inputs(family)), plain)
    model.set_memory()
    assert torch.equal(output(family, model, inputs(family)), plain)


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
    fresh.set_memory(**memories())
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
        model.set_memory(**memories(slice(row, row + 1)))
        single.append(output(family, model, {name: value[row : row + 1] for name, value in batch.items()}))
    model.set_rows(routes)
    model.set_memory(**memories())
    together = output(family, model, batch)
    torch.testing.assert_close(together, torch.cat(single), rtol=1e-4, atol=1e-4)


@generating
def test_generation_with_cache_and_beams_equals_generation_without_cache(method: str, family: str) -> None:
    model = adapted(method, family)
    options = {"max_new_tokens": 3, "do_sample": False, "num_beams": 2}
    plain = model.generate(**inputs(family), **options, use_cache=False)
    assert torch.equal(model.generate(**inputs(family), **options, use_cache=True), plain)
    if method != "full":
        model.set_rows([Route(("new",), "a"), Route(("new",), "b"), Route(("new",), "a")])
        cached = model.generate(**inputs(family), **options, use_cache=True)
        assert torch.equal(cached, model.generate(**inputs(family), **options, use_cache=False))
