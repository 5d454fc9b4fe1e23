"""Small few-shot problems with texts, for the tests of the classifiers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Problem:
    """Support X (M, d + f), y (M,), queries Q (n, d + f), their labels, texts (N, d) and class names in their order."""

    X: np.ndarray
    y: np.ndarray
    Q: np.ndarray
    y_query: np.ndarray
    text: np.ndarray
    classes: list[str]

    @property
    def d(self) -> int:
        return self.text.shape[1]


def problem(
    counts: tuple[int, ...] = (3, 3, 3, 3),
    *,
    d: int = 6,
    f: int = 10,
    noise: float = 0.5,
    n_query: int = 24,
    seed: int = 0,
) -> Problem:
    """Gaussian classes around random centres; texts lie near the centres' first d dimensions; f = 0 drops the key."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(counts), d + f))
    rows, asked = np.repeat(np.arange(len(counts)), counts), np.arange(n_query) % len(counts)
    order = rng.permutation(len(rows))
    rows = rows[order]
    names = np.array([f"class {chr(ord('z') - i)}" for i in range(len(counts))])  # not in sorted order
    return Problem(
        X=centres[rows] + noise * rng.normal(size=(len(rows), d + f)),
        y=names[rows],
        Q=centres[asked] + noise * rng.normal(size=(n_query, d + f)),
        y_query=names[asked],
        text=centres[:, :d] + noise * rng.normal(size=(len(counts), d)),
        classes=names.tolist(),
    )


def normal(x: np.ndarray) -> np.ndarray:
    """Rows of x (n, d) at unit length."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)
