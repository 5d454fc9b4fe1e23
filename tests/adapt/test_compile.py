"""torch.compile: one graph, the same outputs and gradients, and another graph for another task."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from methods_list import adapted
from tiny_models import inputs, output

from crossgraft.adapt import Route


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


CASES = [(method, "bert") for method in ("compacter-paper", "prompt", "bitfit")]
CASES += [("adapter", "t5"), ("hyperformer", "llama")]


@pytest.mark.parametrize(("method", "family"), CASES)
def test_a_whole_forward_pass_is_one_graph_and_gives_the_same(method: str, family: str) -> None:
    model = adapted(method, family)
    expected = output(family, model, inputs(family))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    found = output(family, compiled, inputs(family))
    torch.testing.assert_close(found, expected)
    found.square().mean().backward()
    assert any(value.grad is not None for value in model.parameters() if value.requires_grad)


def test_gradients_through_aot_autograd() -> None:
    gradients = []
    for compiling in (False, True):
        model = adapted("lora", "bert")
        run = torch.compile(model, backend="aot_eager") if compiling else model
        output("bert", run, inputs("bert")).square().mean().backward()
        gradients.append([value.grad for value in model.parameters() if value.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_switching_is_seen() -> None:
    """A task, another adapter, none, rows: each compiles anew, and none gives what was compiled before."""
    model = adapted("adapter-multiple", "bert")
    compiled = torch.compile(model, backend="eager")
    seen = []
    for switch in (
        lambda: model.set_task("a"),
        lambda: model.set_task("b"),
        lambda: model.set_active(),
        lambda: model.set_rows([Route(("new",), "a"), None, Route(("new",), "b")]),
        lambda: model.set_active("new", task="a"),
    ):
        switch()
        expected = output("bert", model, inputs("bert"))
        torch.testing.assert_close(output("bert", compiled, inputs("bert")), expected)
        seen.append(expected)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[4])


@torch.no_grad()
def test_copies_that_come_and_go_are_seen() -> None:
    model = adapted("bitfit", "bert")
    compiled = torch.compile(model, backend="eager")
    trained = output("bert", compiled, inputs("bert"))
    with model.disabled():
        plain = output("bert", compiled, inputs("bert"))
        torch.testing.assert_close(plain, output("bert", model, inputs("bert")))
    assert not torch.equal(plain, trained)
    torch.testing.assert_close(output("bert", compiled, inputs("bert")), trained)
