"""Tokens that enter a stack before a layer: what goes with the text has to fit, and nothing else may change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods_list import VISUAL, adapted, move
from tiny_models import CAUSAL, WORDS, backbone, inputs, output
from torch import Tensor, nn

from crossgraft.adapt import AdaptedModel, Memory
from crossgraft.errors import InputError
from crossgraft.methods.attach import attach
from crossgraft.methods.base import Method
from crossgraft.methods.dvp import DVP
from crossgraft.methods.visual_tokens import VisualTokens

FAMILIES = ("bert", "roberta", "t5", "llama", "qwen2", "mistral")
ENCODERS = ("bert", "roberta")
METHODS: dict[str, Method] = {
    "one at 0": DVP(layer=0, query="mean", feature_width=6, dropout=0.0),
    "three at 1": DVP(layer=1, tokens=3, feature_width=6, dropout=0.0),
    "learned": DVP(layer=1, tokens=2, query="learned", feature_width=6, dropout=0.0),
    "all at 0": VisualTokens(feature_width=6),
    "mean at 1": VisualTokens(layer=1, pool="mean", feature_width=6),
}
each = pytest.mark.parametrize(("family", "method"), [(family, name) for family in FAMILIES for name in METHODS])


def made(family: str, *methods: Method) -> AdaptedModel:
    model = AdaptedModel(backbone(family))
    torch.manual_seed(0)
    for number, method in enumerate(methods):
        attach(model, f"m{number}", method)
    model.set_active(*model.grafts)
    move(model, 0)
    return model.eval()


def real(family: str, logits: Tensor, batch: dict[str, Tensor], row: int) -> Tensor:
    """Of an output, what belongs to real tokens of the text; T5's output belongs to the decoder."""
    return logits[row] if family == "t5" else logits[row][batch["attention_mask"][row].bool()]


@each
@torch.no_grad()
def test_padding_and_other_rows_change_nothing(family: str, method: str) -> None:
    model, batch = made(family, METHODS[method]), inputs(family)
    model.set_memory(visual=VISUAL)
    together = output(family, model, batch)
    for row in range(3):
        keep = batch["attention_mask"][row].bool()
        model.set_memory(visual=VISUAL[row : row + 1])
        alone = output(family, model, {name: value[row : row + 1, keep] for name, value in batch.items()})
        torch.testing.assert_close(real(family, together, batch, row), alone[0], rtol=1e-3, atol=1e-3)


@each
@torch.no_grad()
def test_a_row_without_an_image_is_text_alone(family: str, method: str) -> None:
    model, batch = made(family, METHODS[method]), inputs(family)
    seen = torch.ones(3, 4)
    seen[1] = 0
    seen[2, 3] = 0
    model.set_memory(visual=Memory(VISUAL, seen))
    some = output(family, model, batch)
    plain = output(family, backbone(family), batch)
    torch.testing.assert_close(real(family, some, batch, 1), real(family, plain, batch, 1), rtol=1e-3, atol=1e-3)
    for row, tokens in ((0, VISUAL[:1]), (2, VISUAL[2:, :3])):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        model.set_memory(visual=tokens)
        alone = output(family, model, one)
        torch.testing.assert_close(real(family, some, batch, row), real(family, alone, one, 0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["t5", *CAUSAL])
@pytest.mark.parametrize("method", list(METHODS))
@torch.no_grad()
def test_cached_steps_equal_a_pass_over_everything(family: str, method: str) -> None:
    model, batch = made(family, METHODS[method]), inputs(family)
    seen = torch.ones(3, 4)
    seen[1] = 0
    model.set_memory(visual=Memory(VISUAL, seen))
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "output_logits": True}
    options["return_dict_in_generate"] = True
    cached = model.generate(**batch, **options, use_cache=True)
    plain = model.generate(**batch, **options, use_cache=False)
    assert torch.equal(cached.sequences, plain.sequences)
    for one, other in zip(cached.logits, plain.logits, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("query", ["last", "mean"])
@torch.no_grad()
def test_nothing_is_made_of_the_answer(family: str, query: Any) -> None:
    model, batch = made(family, DVP(layer=1, query=query, feature_width=6)), inputs(family)
    question = torch.ones(3, 4, dtype=torch.bool)  # of seven tokens
    other = batch | {"input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, 4:] = (other["input_ids"][:, 4:] + 1) % WORDS
    logits = []
    for given in (batch, other):
        model.set_memory(visual=VISUAL, question=question)
        logits.append(output(family, model, given)[:, :4])
    torch.testing.assert_close(logits[0][:2], logits[1][:2], rtol=0, atol=1e-5)
    labels = torch.where(torch.arange(7) < 4, -100, batch["input_ids"])
    model.set_memory(visual=VISUAL)
    assert torch.allclose(model(**batch, labels=labels).logits[:, :4], logits[0], atol=1e-5)  # said by the labels
    assert not torch.allclose(output(family, model, batch)[:2, :4], output(family, model, other)[:2, :4], atol=1e-3)
    with pytest.raises(InputError, match="a row has no token that asks"):
        model(**batch, labels=batch["input_ids"])


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_what_the_caller_gave_is_not_written_to(family: str) -> None:
    model, batch = made(family, METHODS["three at 1"]), inputs(family)
    before = {name: value.clone() for name, value in batch.items()}
    model.set_memory(visual=VISUAL)
    first = output(family, model, batch)
    assert all(torch.equal(before[name], value) for name, value in batch.items())
    assert torch.equal(output(family, model, batch), first)  # and nothing is left from one pass to the next


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_several_enter_one_behind_the_other(family: str) -> None:
    methods = (METHODS["three at 1"], METHODS["all at 0"], METHODS["mean at 1"])
    model, batch = made(family, *methods), inputs(family)
    model.set_memory(visual=VISUAL)
    together = output(family, model, batch)
    assert together.shape == output(family, backbone(family), batch).shape
    for name in ("m0", "m1", "m2"):
        model.set_active(*(other for other in model.grafts if other != name))
        assert not torch.allclose(output(family, model, batch), together, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
@torch.no_grad()
def test_rows_with_and_without_share_a_batch(family: str) -> None:
    model, batch = made(family, METHODS["three at 1"]), inputs(family)
    model.set_memory(visual=VISUAL)
    with_prompt, without = output(family, model, batch), output(family, backbone(family), batch)
    model.set_rows(["m0", None, "m0"])
    mixed = output(family, model, batch)
    for row, expected in enumerate((with_prompt, without, with_prompt)):
        torch.testing.assert_close(
            real(family, mixed, batch, row), real(family, expected, batch, row), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
@torch.no_grad()
def test_attention_that_adds_its_masks(family: str) -> None:
    logits = []
    for kind in ("sdpa", "eager"):
        model, batch = made(family, METHODS["three at 1"], METHODS["all at 0"]), inputs(family)
        model.backbone.set_attn_implementation(kind)  # type: ignore[operator]
        seen = torch.ones(3, 4)
        seen[1] = 0
        model.set_memory(visual=Memory(VISUAL, seen))
        logits.append(output(family, model, batch))
    for row in range(3):
        one, other = (real(family, value, batch, row) for value in logits)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_the_first_token_at_layer_0_is_blind_and_says_so() -> None:
    with pytest.warns(UserWarning, match=r"first token entering layer 0 is the same for every text"):
        attach(AdaptedModel(backbone("bert")), "v", DVP(layer=0, feature_width=6))


@pytest.mark.parametrize(
    ("family", "method", "message"),
    [
        (
            "bert",
            DVP(layer=2, feature_width=6),
            r"enter layer 2 of 'encoder'; .* encoder with layers 0 to 1",
        ),
        ("bert", DVP(layer=1), r"feature_width is needed"),
        ("bert", DVP(layer=1, stack="decoder", feature_width=6), r"stack is 'decoder', and this model has encoder"),
        ("bert", DVP(layer=1, width=10, heads=4, feature_width=6), r"width is 10 and heads 4"),
        ("bart", DVP(layer=1, feature_width=6), r"cannot enter this decoder, which counts positions by its cache"),
        ("clip-vision", DVP(layer=1, feature_width=6), r"this model has vision"),
    ],
)
def test_what_does_not_fit(family: str, method: Method, message: str) -> None:
    model = AdaptedModel(backbone(family))
    with pytest.raises(InputError, match=message):
        attach(model, "v", method)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.backbone.modules())


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (torch.ones(3, 4), r"expected tokens \(batch, tokens, width\)"),
        (torch.ones(3, 4, 6, dtype=torch.long), r"of floating point"),
        (Memory(torch.ones(3, 4, 6), torch.ones(3, 5)), r"a mask of \(3, 5\) for tokens of \(3, 4, 6\)"),
    ],
)
def test_a_memory_has_a_shape(memory: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        adapted("dvp", "bert").set_memory(visual=memory)


def test_a_memory_of_another_batch_is_refused() -> None:
    model = adapted("dvp", "bert")
    model.set_memory(visual=VISUAL[:2])
    with pytest.raises(InputError, match=r"memory 'visual' is of 2 rows, and a batch of 3 came"):
        output("bert", model, inputs("bert"))


def test_dropout_is_of_training_alone_and_gradients_reach_the_image() -> None:
    model, batch = made("bert", DVP(layer=1, feature_width=6, dropout=0.5)), inputs("bert")
    visual = VISUAL.clone().requires_grad_()
    model.set_memory(visual=visual)
    assert torch.equal(output("bert", model, batch), output("bert", model, batch))
    model.train()
    for module in model.backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    first = output("bert", model, batch)
    assert not torch.equal(first, output("bert", model, batch))
    first.square().sum().backward()
    assert visual.grad is not None
    assert visual.grad.abs().sum() > 0
