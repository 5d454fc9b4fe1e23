"""Merging writes an adapter into the backbone's weights; what it gives stays the same."""

from __future__ import annotations

import pytest
import torch
from methods_list import METHODS, TASKS, adapted, move
from tiny_models import backbone, inputs, output
from torch import Tensor, nn

from crossgraft.adapt import AdaptedModel
from crossgraft.errors import InputError
from crossgraft.methods.attach import attach
from crossgraft.methods.lora import LoRA
from crossgraft.methods.parameters_only import BitFit, ProjectionOnly

FAMILIES = ("bert", "t5", "bart", "llama", "clip-text", "sighted-t5")


@torch.no_grad()
def out(family: str, model: nn.Module) -> Tensor:
    return output(family, model, inputs(family))


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_and_layer_norms(family: str) -> None:
    model = adapted("lora", family)
    expected, keys = out(family, model), list(backbone(family).state_dict())
    model.merge("new")
    assert not model.grafts
    close(out(family, model), expected)
    merged = model.detach()
    assert list(merged.state_dict()) == keys
    close(out(family, merged), expected)
    plain = backbone(family)
    plain.load_state_dict(merged.state_dict())  # it is a model like any other
    close(out(family, plain), expected)


@pytest.mark.parametrize("task", TASKS)
def test_one_task_of_several(task: str) -> None:
    model = adapted("lora-multiple", "t5")
    model.set_task(task)
    expected = out("t5", model)
    with pytest.raises(InputError, match="a task has to be set"):
        model.merge("new")
    model.merge("new", task)
    close(out("t5", model), expected)


@pytest.mark.parametrize("family", ["bert", "bart"])
def test_biases_to_the_bit(family: str) -> None:
    model = adapted("bitfit", family)
    expected = out(family, model)
    model.merge("new")
    assert torch.equal(out(family, model), expected)


def test_a_projection_that_has_a_copy_and_a_lora() -> None:
    model = AdaptedModel(backbone("llama"))
    attach(model, "new", LoRA(r=3, dropout=0.0), also_train=("*.q_proj.weight", "model.embed_tokens.weight"))
    move(model, 1)
    model.eval()
    expected = out("llama", model)
    model.merge("new")
    close(out("llama", model), expected)


def test_a_tied_embedding_stays_tied() -> None:
    model = AdaptedModel(backbone("t5"))
    attach(model, "new", ProjectionOnly(), also_train=("shared.weight",))
    move(model, 1)
    model.eval()
    expected = out("t5", model)
    model.merge("new")
    assert torch.equal(out("t5", model), expected)
    embeddings = model.backbone.get_input_embeddings().weight  # type: ignore[operator]
    assert model.backbone.encoder.embed_tokens.weight is embeddings  # type: ignore[union-attr]


def test_the_others_stay_active() -> None:
    model = adapted("lora", "bart")
    attach(model, "biases", BitFit())
    attach(model, "more", METHODS["adapter"])
    move(model, 2)
    model.set_active("new", "more")
    expected = out("bart", model)
    model.merge("new")
    assert model.active == ("more",)
    close(out("bart", model), expected)


def test_an_idle_one_can_be_merged() -> None:
    model = adapted("lora", "bert")
    expected = out("bert", model)
    model.disable()
    model.merge("new")
    close(out("bert", model), expected)


@pytest.mark.parametrize("method", ["adapter", "compacter", "hyperformer", "prompt"])
def test_what_no_change_of_weights_equals_is_refused(method: str) -> None:
    model = adapted(method, "bart")
    expected = out("bart", model)
    with pytest.raises(InputError, match=r"cannot be merged|no change of weights"):
        model.merge("new")
    assert model.active == ("new",)
    assert torch.equal(out("bart", model), expected)
