"""Several adapters of one model: which is active, in which order, and what else holds on to them."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from methods_list import METHODS, TASKS, adapted, move
from tiny_models import backbone, inputs, output
from torch import Tensor, nn

from crossgraft.adapt import AdaptedModel, Graft, Route, Site
from crossgraft.errors import InputError
from crossgraft.methods.adapter import Adapter
from crossgraft.methods.attach import attach, parameter_counts
from crossgraft.methods.lora import LoRA
from crossgraft.methods.parameters_only import BitFit, FullFineTuning, ProjectionOnly

FAMILY = "bart"
BATCH = inputs(FAMILY)


def three(family: str = FAMILY) -> AdaptedModel:
    """An adapter with layer norms, a LoRA, and all biases."""
    model = AdaptedModel(backbone(family))
    torch.manual_seed(0)
    for seed, (name, method, also) in enumerate(
        [("norms", METHODS["adapter"], ("layer_norms",)), ("lora", METHODS["lora"], ()), ("biases", BitFit(), ())]
    ):
        attach(model, name, method, also_train=also)
        move(model, seed)
    return model.eval()


@torch.no_grad()
def out(model: nn.Module) -> Tensor:
    return output(FAMILY, model, BATCH)


def alone(name: str) -> Tensor:
    model = three()
    model.set_active(name)
    return out(model)


def test_each_is_what_it_is_alone_whatever_was_active_before() -> None:
    model, plain = three(), out(backbone(FAMILY))
    expected = {name: alone(name) for name in model.grafts}
    assert len({float(value.sum()) for value in [plain, *expected.values()]}) == 4
    for order in itertools.permutations(expected):
        for name in order:
            model.set_active(name)
            assert torch.equal(out(model), expected[name])
            model.disable()
            assert torch.equal(out(model), plain)
            model.enable()
            assert torch.equal(out(model), expected[name])


def test_deleting_in_any_order_leaves_the_others_as_they_were() -> None:
    expected = {name: alone(name) for name in three().grafts}
    for order in itertools.permutations(expected):
        model = three()
        for row, name in enumerate(order):
            model.delete(name)
            for other in order[row + 1 :]:
                model.set_active(other)
                assert torch.equal(out(model), expected[other])
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.backbone.modules())
        assert torch.equal(out(model), out(backbone(FAMILY)))


def test_deleting_another_leaves_what_is_active_and_what_enable_goes_back_to() -> None:
    model = three()
    model.set_active("lora", "biases")
    both = out(model)
    model.delete("norms")
    assert model.active == ("lora", "biases")
    assert torch.equal(out(model), both)
    model.disable()
    model.delete("biases")
    model.enable()
    assert model.active == ("lora",)
    assert torch.equal(out(model), alone("lora"))


def test_rows_survive_disabling_and_deleting() -> None:
    model = three()
    model.set_rows(["norms", None, "lora"])
    before = out(model)
    with model.disabled():
        assert torch.equal(out(model), out(backbone(FAMILY)))
    assert torch.equal(out(model), before)
    model.disable()
    model.enable()
    assert torch.equal(out(model), before)
    model.delete("biases")
    assert torch.equal(out(model), before)
    model.delete("norms")
    torch.testing.assert_close(out(model)[:2], out(backbone(FAMILY))[:2])
    torch.testing.assert_close(out(model)[2], before[2])


def test_order_matters_and_is_kept() -> None:
    model = AdaptedModel(backbone(FAMILY))
    for seed, name in enumerate("ab"):
        attach(model, name, Adapter(reduction=4))
        move(model, seed)
    model.eval().set_active("a", "b")
    forward = out(model)
    model.set_active("b", "a")
    assert not torch.equal(out(model), forward)


def test_what_is_active_is_what_counts_as_trained() -> None:
    model = three()
    backbone_alone = sum(value.numel() for value in model.backbone.parameters())
    for name in model.grafts:
        model.set_active(name)
        tuned = sum(value.numel() for value in model.tuned(name).values())
        added = sum(value.numel() for value in model.grafts[name].parameters())
        counts = parameter_counts(model)
        assert (counts["trainable"], counts["total"]) == (added + tuned, backbone_alone + added)
        model.disable()
        assert parameter_counts(model)["trainable"] == 0
        assert parameter_counts(model, name) == counts


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("lorra",), "did you mean 'lora'"),
        (("lora", "lora"), "named twice"),
        (("norms", "biases"), "'norms' and 'biases' both train .*bias"),
    ],
)
def test_what_cannot_be_active_is_refused_and_changes_nothing(names: tuple[str, ...], message: str) -> None:
    model = three()
    model.set_active("norms")
    before = out(model)
    for refused in (lambda: model.set_active(*names), lambda: model.set_rows([Route(names), None, None])):
        with pytest.raises(InputError, match=message):
            refused()
        assert model.active == ("norms",)
        assert torch.equal(out(model), before)


def test_names_and_tasks_that_cannot_be() -> None:
    model = adapted("adapter-multiple", FAMILY)
    before = out(model)
    for name, message in [("new", "already"), ("", "some text"), ("a.b", "without dots"), ("keys", "ModuleDict")]:
        with pytest.raises(InputError, match=message):
            attach(model, name, METHODS["adapter"])
    with pytest.raises(InputError, match="matches nothing"):
        attach(model, "other", METHODS["adapter"], also_train=("layer_norm",))
    with pytest.raises(InputError, match="without other adapters"):
        attach(model, "other", FullFineTuning())
    for wrong in (
        lambda: model.set_task("c"),
        lambda: model.set_active("new", task="c"),
        lambda: model.set_rows(["new"]),
    ):
        with pytest.raises(InputError, match=r"task .*a, b"):
            wrong()
    with pytest.raises(InputError, match="no routes"):
        model.set_rows([])
    assert list(model.grafts) == ["new"]
    assert torch.equal(out(model), before)
    model.set_rows([Route(("new",), "a")] * 2)
    with pytest.raises(InputError, match=r"3 rows .* set for 2"):
        out(model)
    with pytest.raises(InputError, match="set_active first"):
        model.set_task("a")


def test_rows_of_a_module_that_cannot_compute_some_of_them_are_refused() -> None:
    model = AdaptedModel(backbone("clip-vision"))
    attach(model, "new", ProjectionOnly(), also_train=("*class_embedding",))
    model.set_rows(["new", None, None])
    with pytest.raises(InputError, match=r"CLIPVisionEmbeddings .* one after the other"):
        output("clip-vision", model, inputs("clip-vision"))


def test_a_deep_copy_is_another_model() -> None:
    model = three()
    model.set_active("norms")
    twin = copy.deepcopy(model)
    assert torch.equal(out(twin), out(model))
    before = out(model)
    move(twin, 9)
    assert not torch.equal(out(twin), before)
    assert torch.equal(out(model), before)
    for name in ("lora", "biases", "norms"):  # switching one leaves the other
        twin.set_active(name)
        assert model.active == ("norms",)
        assert torch.equal(out(model), before)
    model.disable()
    assert not torch.equal(out(twin), out(model))
    assert torch.equal(out(twin.detach()), out(model))


def test_a_deep_copy_with_rows_and_prompts() -> None:
    model = adapted("prompt", FAMILY)
    attach(model, "norms", METHODS["adapter"], also_train=("layer_norms",))
    move(model, 3)
    model.set_rows([Route(("new", "norms")), Route(("new",)), Route(("new", "norms"))])
    twin = copy.deepcopy(model)
    assert torch.equal(out(twin), out(model))
    assert not {id(value) for value in twin.parameters()} & {id(value) for value in model.parameters()}


def test_moves_reach_originals_copies_in_place_and_idle_copies() -> None:
    model = three()
    expected = {name: alone(name) for name in model.grafts}
    model.set_active("biases")
    optimised = [value for value in model.parameters() if value.requires_grad]
    model.double()
    assert [id(value) for value in model.parameters() if value.requires_grad] == [id(value) for value in optimised]
    for name in expected:
        model.set_active(name)
        assert {value.dtype for value in model.parameters()} == {torch.float64}
        torch.testing.assert_close(out(model).float(), expected[name], rtol=1e-3, atol=1e-3)
    model.to(torch.float32)
    for name in expected:
        model.set_active(name)
        assert torch.equal(out(model), expected[name])  # float32 through float64 and back is exact
    assert torch.equal(out(model.detach()), out(backbone(FAMILY)))


def test_gradients_move_with_their_parameters() -> None:
    model = three()
    model.set_active("norms")
    output(FAMILY, model, BATCH).square().mean().backward()
    model.set_active("lora")
    model.double()
    grads = [value.grad for value in model.tuned("norms").values() if value.grad is not None]
    assert grads
    assert {grad.dtype for grad in grads} == {torch.float64}


def test_to_the_meta_device_and_back_to_empty() -> None:
    model = three()
    model.set_active("norms")
    model.to("meta")
    for name in model.grafts:
        model.set_active(name)
        assert {value.device.type for value in model.parameters()} == {"meta"}
    model.set_active("norms")
    model.to_empty(device="cpu")
    assert {value.device.type for value in [*model.parameters(), *model.tuned("biases").values()]} == {"cpu"}
    assert model.tuned("norms").keys() <= {name for name, _ in model.backbone.named_parameters()}


@pytest.mark.parametrize("family", ["bert", "t5", "bart", "llama", "clip-vision"])
@torch.no_grad()
def test_recorded_hidden_states_include_the_change(family: str) -> None:
    """transformers records by hooks too, and ours come first, whichever were registered first."""
    model = AdaptedModel(backbone(family))
    output(family, model, inputs(family) | {"output_hidden_states": True})  # its hooks are there now
    stack = next(iter(model.stacks.values()))
    model.add("more", Shift({name: site for name, site in model.sites.items() if name == f"{stack.name}.0.output"}))
    key = "encoder_hidden_states" if len(model.stacks) > 1 else "hidden_states"
    recorded = []
    for active in ((), ("more",)):
        model.set_active(*active)
        batch = inputs(family) | {"output_hidden_states": True}
        if len(model.stacks) > 1:
            batch["decoder_input_ids"] = batch["input_ids"]
        recorded.append(model(**batch)[key][1])  # type: ignore[index]
    torch.testing.assert_close(recorded[1], recorded[0] + 1)


class Shift(Graft):
    """Adds one."""

    def change(self, site: Site, hidden: Tensor, given: Tensor, task: str | None) -> Tensor:
        return hidden + 1


@torch.no_grad()
def test_a_new_adapter_trains_or_not_as_the_backbone_does() -> None:
    model = AdaptedModel(backbone(FAMILY))  # in eval mode
    attach(model, "lora", LoRA(r=3, dropout=0.5))
    move(model, 0)
    assert not model.training
    assert torch.equal(out(model), out(model))  # no dropout
    attach(model.train(), "other", LoRA(r=3, dropout=0.5))
    assert model.grafts["other"].training


def test_a_graft_for_a_site_of_another_model_is_refused() -> None:
    model, other = AdaptedModel(backbone("bert")), AdaptedModel(backbone("t5"))
    with pytest.raises(InputError, match=r"decoder\.0\.input"):
        model.add("more", Shift({name: site for name, site in other.sites.items() if site.stack == "decoder"}))
    assert not model.grafts


def test_attributes_and_methods_of_the_backbone_are_reached() -> None:
    model: Any = three()
    assert model.config is model.backbone.config
    assert model.get_encoder() is model.backbone.get_encoder()
    with pytest.raises(AttributeError, match="no_such_thing"):
        model.no_such_thing  # noqa: B018


def test_full_training_says_what_it_costs() -> None:
    model = adapted("full", FAMILY)
    for verb, refused in [("disabled", model.disable), ("deleted", lambda: model.delete("new"))]:
        with pytest.raises(InputError, match=f"cannot be {verb}: load the backbone again"):
            refused()
    trained = out(model)
    model.merge("new")  # it stays as it is, frozen
    assert torch.equal(out(model), trained)
    assert not any(value.requires_grad for value in model.parameters())
    attach(model, "more", METHODS["adapter-multiple"], tasks=TASKS)
