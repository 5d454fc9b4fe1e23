"""Options that cannot be: the error names the option, what was expected, and what was found."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_models import backbone

from crossgraft.adapt import AdaptedModel
from crossgraft.config import from_mapping
from crossgraft.errors import InputError
from crossgraft.methods import METHODS, get_method
from crossgraft.methods.adapter import Adapter
from crossgraft.methods.attach import attach
from crossgraft.methods.base import Method
from crossgraft.methods.compacter import Compacter
from crossgraft.methods.hyperformer import Hyperformer
from crossgraft.methods.lora import LoRA
from crossgraft.methods.parameters_only import BitFit
from crossgraft.methods.prompt_tuning import Prompt

WHOLE = r"{} is .*, expected a whole number of at least {}"


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        *((method, {"reduction": bad}, WHOLE.format("reduction", 1))
          for method in ("adapter", "compacter", "hyperformer") for bad in (0, -8, 2.0, True, "8")),
        ("adapter", {"bottleneck": 0}, WHOLE.format("bottleneck", 1)),
        ("adapter", {"std": -1.0}, r"std is -1.0, expected a number of at least 0"),
        ("adapter", {"std": float("nan")}, r"std is nan"),
        ("adapter", {"activation": "gelu_nwe"}, r"activation is 'gelu_nwe'; did you mean 'gelu_new'\? known: "),
        ("adapter", {"sharing": "half"}, r"sharing is 'half'; did you mean 'half_up'"),
        ("adapter", {"init": "zero"}, r"init is 'zero'; did you mean 'zero_up'"),
        ("compacter", {"k": 0}, WHOLE.format("k", 1)),
        ("compacter", {"rank": 0}, WHOLE.format("rank", 1)),
        *(("hyperformer", {name: 0}, WHOLE.format(name, 1)) for name in ("embedding", "hidden", "code")),
        ("lora", {"r": 0}, WHOLE.format("r", 1)),
        ("lora", {"alpha": -1}, WHOLE.format("alpha", 1)),
        *(("lora", {"dropout": bad}, r"dropout is .*, expected a number of at least 0 and below 1")
          for bad in (1, 1.5, -0.1, "0.1")),
        *((method, {"sharing": "half_up"}, r"sharing is 'half_up', expected single or multiple")
          for method in ("lora", "prompt")),
        ("prompt", {"length": 0}, WHOLE.format("length", 1)),
        ("prompt", {"hidden": -1}, WHOLE.format("hidden", 0)),
    ],
)  # fmt: skip
def test_values(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        get_method(method)(**options)


@pytest.mark.parametrize(
    ("family", "method", "arguments", "message"),
    [
        ("t5", Adapter(reduction=64), {}, r"reduction is 64, expected at most 16: no bottleneck is left of 16 hidden"),
        ("t5", Hyperformer(reduction=64), {}, r"reduction is 64, expected at most 16"),
        ("t5", Compacter(k=3), {}, r"k is 3, expected a divisor of both widths, 16 and 2"),
        ("t5", Compacter(k=4, reduction=8), {}, r"k is 4"),
        ("t5", Adapter(sites=("*.self_atention",)), {}, r"sites: '\*\.self_atention' .*did you mean .*self_attention"),
        ("bert", Adapter(sites=("*.cross_attention",)), {}, r"sites: '\*\.cross_attention' matches nothing"),
        ("t5", Adapter(sites="*.feed_forward"), {}, r"sites: expected a list .* write \['\*\.feed_forward'\]"),  # type: ignore[arg-type]
        ("llama", Hyperformer(reduction=4, sites=("*.self_attention.k",)), {}, r"sites: .* is 8 wide"),
        ("t5", LoRA(sites=("*.input",)), {}, r"sites: LoRA is for linear layers, and encoder\.0\.input is none"),
        ("t5", BitFit(), {}, r"layers of this T5ForConditionalGeneration have none; choose another method"),
        ("clip-vision", Prompt(), {}, r"this one has vision"),
        *(("t5", method, {}, r"sharing is 'multiple', which tells tasks apart, and none were named")
          for method in (Adapter(sharing="multiple"), LoRA(sharing="multiple"), Prompt(sharing="multiple"))),
        ("t5", Adapter(), {"tasks": ("vqa", "gqa", "vqa")}, r"tasks: 'vqa' is named twice"),
        ("t5", Adapter(), {"tasks": "vqa"}, r"tasks: expected a list .* write \['vqa'\]"),
        ("t5", Adapter(sharing="multiple"), {"tasks": ("a.b",)}, r"'a\.b' cannot be a task's name"),
        ("t5", Adapter(sharing="multiple"), {"tasks": ("keys",)}, r"'keys' cannot be a task's name"),
        ("t5", Adapter(), {"also_train": "layer_norms"}, r"also_train: expected a list"),
        ("t5", Adapter(), {"also_train": ("layernorms",)}, r"did you mean 'layer_norms'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_model(family: str, method: Method, arguments: dict[str, Any], message: str) -> None:
    model = AdaptedModel(backbone(family))
    with pytest.raises(InputError, match=message):
        attach(model, "new", method, **arguments)
    assert not model.grafts
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.backbone.modules())


def test_biases_beside_the_layers_are_no_reason_for_bitfit() -> None:
    with pytest.raises(InputError, match=r"layers of this VisionSeq2Seq have none"):
        attach(AdaptedModel(backbone("sighted-t5")), "new", BitFit())


def test_a_recipe_names_the_key_as_well() -> None:
    with pytest.raises(InputError, match=r"recipe.yaml: method: reduction is 0"):
        from_mapping(Adapter, {"reduction": 0}, "recipe.yaml: method")
    with pytest.raises(InputError, match=r"method\.dropout: expected a number, found 'much'"):
        from_mapping(LoRA, {"dropout": "much"}, "method")


def test_an_unknown_method() -> None:
    with pytest.raises(InputError, match=r"unknown method 'adaptor'; did you mean 'adapter'\? known: adapter, "):
        get_method("adaptor")
    assert list(METHODS)[:7] == ["adapter", "hyperformer", "compacter", "lora", "prompt", "bitfit", "full"]
