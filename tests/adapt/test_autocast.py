"""bfloat16 autocast, forward and backward: close to float32, and a new module still changes nothing to the bit."""

from __future__ import annotations

import pytest
import torch
from methods_list import METHODS, TASKS, TOKENS, adapted, fits, move
from tiny_models import backbone, inputs, output
from torch import Tensor, nn

from crossgraft.adapt import Route
from crossgraft.methods.attach import attach

FAMILIES = ("bert", "t5", "bart", "llama")
PAIRS = [(method, family) for method in METHODS for family in FAMILIES if fits(method, family)]
every_pair = pytest.mark.parametrize(("method", "family"), PAIRS)


def out(family: str, model: nn.Module, autocast: bool = True) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return output(family, model, inputs(family)).float()


def quiet(model: nn.Module) -> nn.Module:
    """Weights of an ordinary size, so that bfloat16 is close to float32."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.div_(4)
    return model


@every_pair
def test_close_to_float32_forward_and_backward(method: str, family: str) -> None:
    model = quiet(adapted(method, family))
    exact = out(family, model, autocast=False)
    found = out(family, model)
    assert (found - exact).norm() < 0.1 * exact.norm()
    found.square().mean().backward()
    grads = [value.grad for value in model.parameters() if value.grad is not None]
    assert grads
    assert all(bool(grad.isfinite().all()) for grad in grads)


@pytest.mark.parametrize(("method", "family"), [pair for pair in PAIRS if not pair[0].startswith(TOKENS)])
@torch.no_grad()
def test_a_new_module_changes_nothing_to_the_bit(method: str, family: str) -> None:
    assert torch.equal(out(family, adapted(method, family, moved=False)), out(family, backbone(family)))


@pytest.mark.parametrize("method", ["adapter", "compacter-paper", "hyperformer", "lora-multiple", "prompt", "bitfit"])
def test_rows(method: str) -> None:
    model = quiet(adapted(method, "bart"))
    attach(model, "other", METHODS[method], tasks=TASKS)  # type: ignore[arg-type]
    move(model, 1)  # type: ignore[arg-type]
    quiet(model.grafts)  # type: ignore[arg-type]
    model.set_rows([Route(("new",), "a"), Route(("other",), "b"), Route(("other",), "a")])  # type: ignore[operator]
    exact, found = out("bart", model, autocast=False), out("bart", model)
    assert (found - exact).norm() < 0.1 * exact.norm()
    found.square().mean().backward()


@pytest.mark.parametrize("method", METHODS)
def test_a_bfloat16_backbone(method: str) -> None:
    family = "bart" if fits(method, "bart") else "bert"
    model = quiet(adapted(method, family)).bfloat16()
    found = output(family, model, inputs(family))
    assert found.dtype == torch.bfloat16
    found.square().mean().backward()
    assert {value.grad.dtype for value in model.parameters() if value.grad is not None} == {torch.bfloat16}
