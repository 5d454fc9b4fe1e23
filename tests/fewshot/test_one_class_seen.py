"""Photos of one class only; the others are known by their texts."""

from __future__ import annotations

import pytest
import torch
from few_shot_problems import problem

from crossgraft.errors import InputError
from crossgraft.fewshot import METHODS, get_method

torch.set_num_threads(1)

PROBLEM = problem((4, 4, 4), d=5, f=8, n_query=6)
ONE = PROBLEM.y == PROBLEM.y[0]


@pytest.mark.parametrize("method", [name for name in METHODS if name != "linear-probe"])
def test_every_method_that_reads_texts_learns_from_one_class(method: str) -> None:
    classifier = get_method(method)(text=PROBLEM.text, classes=PROBLEM.classes)
    if "epochs" in classifier.get_params():
        classifier.set_params(epochs=5)
    classifier.fit(PROBLEM.X[ONE], PROBLEM.y[ONE]).tune(PROBLEM.X[ONE], PROBLEM.y[ONE]).calibrate()
    assert torch.isfinite(torch.from_numpy(classifier.predict_proba(PROBLEM.Q))).all()


def test_a_linear_probe_has_nothing_to_tell_apart() -> None:
    with pytest.raises(InputError, match="one class only"):
        get_method("linear-probe")(text=PROBLEM.text, classes=PROBLEM.classes).fit(PROBLEM.X[ONE], PROBLEM.y[ONE])
