"""Methods whose weights are made of others: Hyperformer writes them, Compacter sums Kronecker products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import backbone, inputs, output

from crossgraft.adapt import AdaptedModel
from crossgraft.methods.attach import attach, parameter_counts
from crossgraft.methods.compacter import Compacter, HypercomplexLinear
from crossgraft.methods.hyperformer import Hyperformer

SMALL = Hyperformer(embedding=6, hidden=5, code=4, reduction=4, init="normal")


def hyperformer(family: str = "t5") -> AdaptedModel:
    model = AdaptedModel(backbone(family))
    torch.manual_seed(0)
    attach(model, "new", SMALL, tasks=("a", "b"))
    return model.eval()


def test_weights_depend_on_task_layer_and_position() -> None:
    graft: Any = hyperformer().grafts["new"]
    network, tasks = graft.networks["decoder"], graft.task_embedding
    written = {
        (task, layer, part): network(tasks[task], layer, part)[0][0]
        for task in (0, 1) for layer in (0, 1) for part in ("self_attention", "cross_attention", "feed_forward")
    }  # fmt: skip
    values = list(written.values())
    assert all(not torch.equal(one, other) for row, one in enumerate(values) for other in values[:row])


def test_stacks_have_networks_of_their_own_and_common_tasks() -> None:
    graft: Any = hyperformer().grafts["new"]
    assert list(graft.networks) == ["encoder", "decoder"]
    assert graft.task_embedding.shape == (2, 6)
    assert "cross_attention_up_weight" not in graft.networks["encoder"].heads


def test_the_change_is_the_written_bottleneck() -> None:
    model = hyperformer("bert")
    graft: Any = model.grafts["new"]
    site = model.sites["encoder.1.feed_forward"]
    hidden = torch.randn(2, 3, 16)
    (down, down_bias), (up, up_bias) = graft.networks["encoder"](graft.task_embedding[1], 1, "feed_forward")
    narrow = torch.nn.functional.gelu(hidden @ down.T + down_bias, approximate="tanh")
    torch.testing.assert_close(graft.change(site, hidden, hidden, "b"), hidden + narrow @ up.T + up_bias)


def test_all_tasks_learn_from_one_through_the_networks() -> None:
    model = hyperformer("bert")
    model.set_task("a")
    output("bert", model, inputs("bert")).square().mean().backward()
    graft: Any = model.grafts["new"]
    assert graft.task_embedding.grad[0].abs().sum() > 0
    assert graft.task_embedding.grad[1].abs().sum() == 0
    assert all(value.grad is not None for value in graft.networks.parameters())


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("rank", [None, 1, 2])
@pytest.mark.parametrize("shared", [False, True])
def test_a_compacter_weight_is_a_sum_of_kronecker_products(k: int, rank: int | None, shared: bool) -> None:
    layer = HypercomplexLinear(8, 12, Compacter(k=k, rank=rank, shared_rule=shared), zero=False)
    rule = torch.randn(k, k, k)
    if layer.rule is not None:
        rule = layer.rule.detach()
    factors = layer.full if rank is None else layer.left @ layer.right
    weight = sum(torch.kron(rule[i], factors[i]) for i in range(k))
    torch.testing.assert_close(layer.weight(rule), weight)
    x = torch.randn(5, 8)
    torch.testing.assert_close(layer(x, rule), x @ weight + layer.bias)


def test_compacter_parameters_are_counted_by_hand() -> None:
    """BERT of two layers, width 16, bottleneck 4: four bottlenecks of two projections."""
    k, width, narrow = 2, 16, 4
    biases = width + narrow
    full = 2 * k**3 + 2 * k * (width // k) * (narrow // k) + biases
    thin = 2 * k * (width // k + narrow // k) + biases  # rank 1; the rules are common
    for method, expected in [
        (Compacter(reduction=4), 4 * full),
        (Compacter(reduction=4, rank=1, shared_rule=True), 4 * thin + k**3),
    ]:
        model = AdaptedModel(backbone("bert"))
        attach(model, "new", method)
        assert parameter_counts(model)["trainable"] == expected
