"""A method of a user's own: one class with a decorator, and all else is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tiny_models import backbone, inputs, output
from torch import Tensor, nn

from crossgraft.adapt import AdaptedModel, Graft, Site, select_sites
from crossgraft.methods import METHODS, Method, get_method, register_method
from crossgraft.methods.attach import attach, load_adapter, parameter_counts, save_adapter
from crossgraft.methods.base import key_of


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """The registry is everyone's."""
    known = dict(METHODS)

    @register_method("ia3")
    @dataclass(frozen=True)
    class IA3(Method):
        """Rescales keys and feed-forward outputs."""

        sites: tuple[str, ...] = ("*.*.self_attention.k", "*.feed_forward")
        start: float = 1.0

        paper: ClassVar[str] = "Liu et al., NeurIPS 2022"

        def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
            return Scale(select_sites(model.sites, self.sites), self.start)

    yield
    METHODS.clear()
    METHODS.update(known)


class Scale(Graft):
    """One factor for each hidden unit."""

    def __init__(self, sites: dict[str, Site], start: float) -> None:
        super().__init__(sites)
        self.factors = nn.ParameterDict(
            {key_of(name): nn.Parameter(torch.full((site.width,), start)) for name, site in sites.items()}
        )

    def change(self, site: Site, hidden: Tensor, given: Tensor, task: str | None) -> Tensor:
        return hidden * self.factors[key_of(site.name)]


@pytest.mark.parametrize("family", ["t5", "bart", "llama", "bert"])
def test_attach_train_save_load(family: str, tmp_path: Path) -> None:
    model = AdaptedModel(backbone(family))
    attach(model, "mine", get_method("ia3")(), also_train=("layer_norms",))
    with torch.no_grad():
        assert torch.equal(output(family, model, inputs(family)), output(family, backbone(family), inputs(family)))
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1e-3)
    output(family, model, inputs(family)).square().mean().backward()
    optimizer.step()
    expected = output(family, model, inputs(family))
    save_adapter(model, "mine", tmp_path / "mine")
    fresh = AdaptedModel(backbone(family))
    config = load_adapter(fresh, tmp_path / "mine")
    assert (config["method"], fresh.active) == ("ia3", ("mine",))
    assert torch.equal(output(family, fresh.eval(), inputs(family)), expected)
    assert parameter_counts(fresh) == parameter_counts(model)
    assert not torch.equal(expected, output(family, fresh.detach(), inputs(family)))


def test_replacing_a_method_warns() -> None:
    with pytest.warns(UserWarning, match=r"method 'lora': .*Mine replaces LoRA"):

        @register_method("lora")
        @dataclass(frozen=True)
        class Mine(Method):
            paper: ClassVar[str] = "none"

            def graft(self, model: AdaptedModel, tasks: tuple[str, ...]) -> Graft:
                return Graft()
