"""The best class of a key-value cache without most of its votes: bounds on each class's, exact votes where they decide.

Let a class have keys k_i = m + r_i (i = 1..K) with mean m, and x_i = q . r_i for a unit query q. Its votes are
e^(beta (q.m - 1)) S with S = sum_i e^(beta x_i), where sum_i x_i = 0 and sum_i x_i^2 <= sigma^2, the largest eigenvalue
of sum_i r_i r_i^T. So

    K  <=  S  <=  e^(beta sigma sqrt((K - 1) / K)) + (K - 1) e^(-beta sigma / sqrt(K (K - 1)))

on the left by convexity (Jensen), on the right because a sum of a function with convex derivative, under these two
conditions, is largest where all x_i but the largest are equal (Cirtoaje, "The equal variable method", Journal of
Inequalities in Pure and Applied Mathematics 8(1), 2007). Both bounds cost one product with N means instead of M keys.
A class whose upper bound lies under the best lower bound cannot win; the exact votes of the others decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from crossgraft.fewshot.cache import affinity
from crossgraft.fewshot.features import blocks, class_means

_MANY = 1 / 8  # of the classes: for a query with more candidates, all votes cost no more than theirs
_PAIRS = 2**20  # of a query and a candidate, settled together
_EXPONENT = 80.0  # up to which float32 neither overflows nor loses a vote


@dataclass(frozen=True)
class BoundedVotes:
    """A cache whose samples are sorted by class, with bounds on the votes of each class.

    Attributes:
        beta: sharpness of the affinity.
        keys: (M, f) sorted by class; class c has the rows from starts[c] to starts[c + 1].
        means: (N, f) class means of the keys.
        weights: (N,) weight of each class's votes.
        lower, upper: (N,) the weighted bounds of S; zero for a class without a sample.
    """

    beta: float
    keys: Tensor
    starts: list[int]
    means: Tensor
    weights: Tensor
    lower: Tensor
    upper: Tensor

    @classmethod
    def of(cls, keys: Tensor, labels: Tensor, weights: Tensor, n_classes: int, beta: float) -> BoundedVotes:
        """The bounds of a cache of keys (M, f) with labels (M,) and weights (M,), the same for all of a class."""
        counts = torch.bincount(labels, minlength=n_classes)
        starts = [0, *counts.cumsum(0).tolist()]
        means = class_means(keys, labels, n_classes)
        order = labels.argsort(stable=True)
        ordered = keys[order]
        upper = torch.zeros(n_classes, dtype=torch.float64)
        for c, k in enumerate(counts.tolist()):
            if k:
                spread = ordered[starts[c] : starts[c + 1]] - means[c]
                scatter = spread @ spread.T if k <= keys.shape[1] else spread.T @ spread
                sigma = math.sqrt(max(torch.linalg.eigvalsh(scatter)[-1].item(), 0.0))
                largest = beta * sigma * math.sqrt((k - 1) / k)
                others = beta * sigma / math.sqrt(k * max(k - 1, 1))
                upper[c] = math.exp(largest) + (k - 1) * math.exp(-others) if largest < _EXPONENT else math.inf
        own = weights.new_zeros(n_classes).index_copy(0, labels, weights)
        return cls(beta, ordered, starts, means, own, own * counts, own * upper.to(own))

    @property
    def sound(self) -> bool:
        """Whether the bounds hold in floating point: no affinity and no bound overflows or vanishes."""
        exponent = self.beta * (1 + self.means.norm(dim=1).max())
        return bool(exponent < _EXPONENT and self.upper.isfinite().all())

    def best(
        self,
        key: Tensor,
        alpha: float,
        text: Callable[[slice], Tensor],
        dense: Callable[[Tensor], Tensor],
        scale: float,
    ) -> Tensor:
        """The row (n,) of the largest text logit + alpha * votes, of each unit query key (n, f).

        Args:
            alpha: weight of the votes, at least 0.
            text: a range of queries -> their text logits (b, N), at most `scale` in absolute value.
            dense: indices of queries (b,) -> the rows (b,) of their largest logits, by all of them. It is asked about
                queries with many candidates, and where logits are so close that rounding decides.
        """
        best = torch.empty(len(key), dtype=torch.int64, device=key.device)
        margin = 32 * torch.finfo(key.dtype).eps * (1 + self.beta)  # relative; of a sum's rounding errors
        hard: list[Tensor] = []
        pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # query, class, text logit
        for cut in blocks(len(key), len(self.means), in_cache=True):
            logits = text(cut)
            shared = affinity(key[cut] @ self.means.T, self.beta).mul_(alpha)
            least, best[cut] = torch.addcmul(logits, shared, self.lower).max(dim=1)
            bar = least - margin * (scale + least.abs())
            candidates = torch.addcmul(logits, shared, self.upper) >= bar[:, None]
            counts = candidates.sum(dim=1)
            many = counts > _MANY * len(self.means)
            hard.append(many.nonzero().flatten() + cut.start)
            few = ((counts > 1) & ~many).nonzero().flatten()
            row, column = candidates[few].nonzero().unbind(1)
            pairs.append((few[row] + cut.start, column, logits[few[row], column]))
            useless = many.sum() > len(many) / 2
            if useless:  # go on without bounds
                hard.append(torch.arange(cut.stop, len(key), device=key.device))
            if useless or cut.stop == len(key) or sum(len(query) for query, _, _ in pairs) > _PAIRS:
                query, column, logits = (torch.cat(part) for part in zip(*pairs, strict=True))
                self._add_votes(logits, key, alpha, query, column)
                top = logits.new_full((len(key),), -torch.inf).scatter_reduce(0, query, logits, "amax")[query]
                near = logits >= top - margin * (scale + top.abs())
                best[query[near]] = column[near]
                hard.append((torch.bincount(query[near], minlength=len(key)) > 1).nonzero().flatten())
                pairs = []
            if useless:
                break
        rows = torch.cat(hard)
        if len(rows):
            best[rows] = dense(rows)
        return best

    def _add_votes(self, logits: Tensor, key: Tensor, alpha: float, query: Tensor, column: Tensor) -> None:
        """Add alpha times the exact votes of queries (p,), rows of key (n, f), for classes `column` to logits (p,)."""
        start = 0
        by_class = column.argsort(stable=True)
        for c, count in enumerate(torch.bincount(column, minlength=len(self.means)).tolist()):
            if count:
                mine = by_class[start : start + count]
                similarity = key[query[mine]] @ self.keys[self.starts[c] : self.starts[c + 1]].T
                logits[mine] += alpha * self.weights[c] * affinity(similarity, self.beta).sum(dim=1)
                start += count
