"""X-adapter's experts: what they attend to, when keys and values are made, and how many numbers they train."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods_list import memories, move
from tiny_models import backbone, inputs, output

from crossgraft.adapt import AdaptedModel, Memory
from crossgraft.errors import InputError
from crossgraft.methods.attach import attach, parameter_counts
from crossgraft.methods.xadapter import Expert, XAdapter

WIDTHS = {"visual_width": 6, "text_width": 5}


def experts(family: str = "bert", *, moved: bool = True, **options: Any) -> AdaptedModel:
    model = AdaptedModel(backbone(family))
    torch.manual_seed(0)
    attach(model, "new", XAdapter(width=4, **(WIDTHS | options)))
    if moved:
        move(model, 0)
    return model.eval()


@pytest.mark.parametrize("fusion", ["sum", "sequence", "gate"])
@pytest.mark.parametrize("chosen", [("visual",), ("text",), ("visual", "text")])
def test_it_trains_as_many_numbers_as_its_docs_say(chosen: tuple[str, ...], fusion: str) -> None:
    model = experts(experts=chosen, fusion=fusion)
    d, r, layers = model.stacks["encoder"].width, 4, model.stacks["encoder"].n_layers
    one = sum(2 * d + 2 * d * r + d + 2 * WIDTHS[f"{name}_width"] * r for name in chosen)
    gates = (d + 1) * len(chosen) if fusion == "gate" else 0
    assert parameter_counts(model)["trainable"] == layers * (one + gates)


@torch.no_grad()
def test_each_expert_looks_at_its_own_memory_and_fusions_differ() -> None:
    batch, found = inputs("bert"), {}
    for fusion in ("sum", "sequence", "gate"):
        model = experts(fusion=fusion)
        for names in ((), ("retrieved",), ("text",), ("retrieved", "text")):
            model.set_memory(**{name: memory for name, memory in memories().items() if name in names})
            found[fusion, names] = output("bert", model, batch)
    assert torch.equal(found["sum", ()], output("bert", backbone("bert"), batch))
    assert len({value.sum().item() for value in found.values()}) == 1 + 3 + 2 + 2  # one expert alone: sum is sequence


@torch.no_grad()
def test_a_row_whose_memory_is_empty_is_read_as_by_the_backbone_and_padding_is_not_seen() -> None:
    model, batch = experts(experts=("text",)), inputs("bert")
    tokens, mask = torch.randn(3, 4, 5), torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]])
    model.set_memory(text=Memory(tokens, mask))
    shown = output("bert", model, batch)
    assert torch.equal(shown[1], output("bert", backbone("bert"), batch)[1])
    model.set_memory(text=Memory(torch.where(mask[..., None] == 0, torch.tensor(9.0), tokens), mask))
    torch.testing.assert_close(output("bert", model, batch), shown)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Expert]:
    """The experts that made keys and values, in order."""
    made: list[Expert] = []
    project = Expert._project
    monkeypatch.setattr(Expert, "_project", lambda self, tokens: made.append(self) or project(self, tokens))
    return made


def test_keys_and_values_are_made_once_a_memory_and_again_after_training(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    model = experts("llama")
    model.set_memory(**memories())
    model.generate(**inputs("llama"), max_new_tokens=4, num_beams=2, do_sample=False)
    once = 2 * model.stacks["decoder"].n_layers
    assert len(made) == len(set(made)) == once  # for every expert, however many steps and beams
    with torch.no_grad():
        before = output("llama", model, inputs("llama"))
        assert len(made) == once
        for expert in set(made):
            expert.v.weight.add_(1)
        assert not torch.allclose(output("llama", model, inputs("llama")), before)
        assert len(made) == 2 * once
    for _ in range(2):  # each has a graph of its own
        output("llama", model, inputs("llama")).square().sum().backward()
    assert len(made) == 4 * once


@torch.inference_mode()
def test_memories_made_in_inference_mode_are_kept_too() -> None:
    model = experts()
    model.set_memory(**{name: memory.tokens.clone() for name, memory in memories().items() if name != "visual"})
    assert torch.equal(output("bert", model, inputs("bert")), output("bert", model, inputs("bert")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": ()}, r"experts is \[\], expected one or both of visual, text, each once"),
        ({"experts": ("visual", "visual")}, "each once"),
        ({"experts": ("audio",)}, r"experts is \['audio'\]"),
        ({"width": 0}, "width is 0, expected a whole number of at least 1"),
        ({"width": 6, "heads": 4}, "width is 6 and heads 4"),
        ({"fusion": "gated"}, "fusion is 'gated'; did you mean 'gate'"),
        ({"scale": -1.0}, "scale is -1.0"),
        ({"visual_width": 0}, "visual_width is 0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        XAdapter(**options)


def test_it_has_to_know_how_wide_its_memories_are() -> None:
    with pytest.raises(InputError, match="text_width is needed: how wide the memory 'text' is"):
        experts(text_width=None)
