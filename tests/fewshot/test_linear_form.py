"""The one matrix that a linear head is, told by what it does and not by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from few_shot_problems import normal, problem

from crossgraft.fewshot import XMAdapter, get_method
from crossgraft.fewshot.auto import CHALLENGERS
from crossgraft.fewshot.linear_form import linear_form, state_tensors

torch.set_num_threads(1)

P = problem((3, 3, 3, 3), d=8, f=12)
OWN_KEY = problem((3, 3, 3, 3), d=8, f=0)


def short(name: str) -> dict[str, Any]:
    return {"epochs": 2} if "epochs" in get_method(name)().get_params() else {}


@pytest.mark.parametrize("p", [P, OWN_KEY], ids=["key", "own key"])
@pytest.mark.parametrize("name", ["zero-shot", "nearest-mean", "taskres", "clap", *CHALLENGERS])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_linear_head_is_its_matrix(name: str, p: Any, dtype: type) -> None:
    head = get_method(name)(text=p.text, classes=p.classes, **short(name)).fit(p.X.astype(dtype), p.y)
    form = linear_form(head)
    assert form is not None
    weight, bias = (part.numpy() for part in form)
    assert weight.dtype == bias.dtype == np.float64
    assert weight.shape == (4, p.X.shape[1])
    x = normal(p.Q) if p.d == p.X.shape[1] else np.hstack([normal(p.Q[:, : p.d]), normal(p.Q[:, p.d :])])
    expected = head.logits(p.Q).double().numpy()
    np.testing.assert_allclose(x @ weight.T + bias, expected, atol=1e-9 if dtype == np.float64 else 1e-3)
    assert head.logits(p.Q).dtype == (torch.float64 if dtype == np.float64 else torch.float32)  # it is left as it was


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f", "proker", "xmadapter", "xmadapter-paper"])
def test_a_cache_is_not_linear(name: str) -> None:
    assert linear_form(get_method(name)(text=P.text, classes=P.classes, **short(name)).fit(P.X, P.y)) is None


def test_the_smallest_curve_is_noticed() -> None:
    """A text affinity of hardly any sharpness, alone, is almost a cosine."""
    curved = XMAdapter(text=P.text, classes=P.classes, ratio=0.0, beta_t=1e-3).fit(P.X, P.y)
    assert linear_form(curved) is None


def test_logits_that_are_not_numbers_are_not_linear() -> None:
    head = get_method("zero-shot")(text=P.text, classes=P.classes).fit(P.X, P.y)
    head.text_ = torch.full_like(head.text_, float("nan"))
    assert linear_form(head) is None


def test_the_state_is_named() -> None:
    head = get_method("gda")(text=P.text, classes=P.classes).fit(P.X, P.y)
    tensors = state_tensors(head)
    assert set(tensors) == {"text_", *head.state}
    assert all(tensors[name] is getattr(head, name) for name in tensors)
