"""scikit-learn's own conformance checks, for every registered method."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

from crossgraft.fewshot import METHODS, FewShotClassifier, XMAdapterPaper

torch.set_num_threads(1)


def quick(method: type[FewShotClassifier]) -> FewShotClassifier:
    """With few steps, where a method trains: what is checked does not depend on their number."""
    return method(**({"epochs": 3} if "epochs" in method().get_params() else {}))


ESTIMATORS = [
    *(quick(method) for method in METHODS.values()),
    XMAdapterPaper(train=False),
    XMAdapterPaper(ratio="entropy"),
]


@parametrize_with_checks(ESTIMATORS)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_checks(estimator: BaseEstimator, check: Callable[[BaseEstimator], None]) -> None:
    check(estimator)
