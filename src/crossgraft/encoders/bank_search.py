"""Searches of an image bank: by faiss or exactly, without barred rows, without near-duplicates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossgraft.encoders.bank_rows import Block, Rows
from crossgraft.encoders.meter import Meter
from crossgraft.encoders.nearest import Bar, bar_rows, block_size, exact_products, nearest, ranked
from crossgraft.errors import InputError

QUERIES = 256
"""Queries in a pass over the bank."""
ROUNDING = 1e-5
"""Cosines this much below a threshold reach it: in float32 those of equal images may be a little under 1."""
_SPARE = 8  # further hits that faiss is asked for: its order of ties and near ties is its own
_MANY = 4096  # candidates that `distinct` looks at in one go, unless k is larger


@dataclass(frozen=True)
class Search:
    """Unit queries (Q, d) of one pass over a bank, with the rows that each may not get, ascending.

    `block` is None for the default; `first` is the number of the first query, for errors; `index` is faiss's index over
    the rows, if that is to find the hits.
    """

    rows: Rows
    queries: Tensor
    barred: Sequence[Sequence[int]]
    block: int | None = None
    first: int = 0
    index: Any = None

    def best(self, k: int) -> tuple[Tensor, Tensor]:
        """The k best of each query, scores and rows (Q, k); where there are fewer, -inf and -1."""
        if self.index is None:
            return self._scan(k, range(len(self.queries)), [[] for _ in self.queries])
        wanted = min(len(self.rows), k + max(map(len, self.barred)) + _SPARE)
        _, found = self.index.search(np.ascontiguousarray(self.queries.cpu().numpy()), wanted)
        for candidates, barred in zip(found, self.barred, strict=True):
            candidates[np.isin(candidates, barred)] = -1
        scores, rows = ranked(self.rows, self.queries, torch.from_numpy(found).to(self.queries.device))
        return scores[:, :k], rows[:, :k]

    def distinct(self, k: int, threshold: float) -> tuple[Tensor, Tensor]:
        """The k best of each query that are not near a better hit of it, scores and rows (Q, k).

        The best candidates show most of them. A query that they do not fill goes through the bank again, where its hits
        and all that is near them are barred.

        Raises:
            InputError: a query has fewer than k.
        """
        many = min(len(self.rows), max(k, min(4 * k + 16, _MANY)))
        hits: list[list[int]] = [[] for _ in self.queries]
        cosines: list[list[float]] = [[] for _ in self.queries]
        waiting, (scores, rows) = list(range(len(self.queries))), self.best(many)
        while waiting:
            for query, some_scores, some_rows in zip(waiting, scores, rows, strict=True):
                candidates = some_rows[some_rows >= 0]
                chosen = apart(self._vectors(candidates), threshold, k - len(hits[query]))
                hits[query] += candidates[chosen].tolist()
                cosines[query] += some_scores[chosen].tolist()
                if len(hits[query]) < k and len(candidates) < many:
                    raise InputError(
                        f"query number {self.first + query + 1} has only {len(hits[query])} hits of cosines below "
                        f"{threshold} with each other, expected k={k}; ask for fewer, or raise `distinct`"
                    )
            waiting = [query for query in waiting if len(hits[query]) < k]
            if waiting:
                taken = [hits[query] for query in waiting]
                near = bar_near(
                    [self._vectors(torch.tensor(rows, device=self.rows.device)) for rows in taken], threshold
                )
                scores, rows = self._scan(many, waiting, taken, [near])
        device = self.queries.device
        return torch.tensor(cosines, device=device), torch.tensor(hits, dtype=torch.int64, device=device)

    def _scan(
        self, k: int, which: Sequence[int], taken: Sequence[Sequence[int]], bars: Sequence[Bar] = ()
    ) -> tuple[Tensor, Tensor]:
        """The best of some queries by exact search, without what is barred of them or `taken`."""
        queries = self.queries[list(which)]
        pairs = [(row, i) for i, query in enumerate(which) for row in (*self.barred[query], *taken[i])]
        if pairs:
            bars = [*bars, bar_rows(sorted(pairs), queries.device)]
        return nearest(self.rows, queries, k, self.block or block_size(self.rows, len(queries)), bars)

    def _vectors(self, rows: Tensor) -> Tensor:
        """Unit vectors of rows in any order."""
        ascending, order = rows.sort()
        return self.rows.take(ascending)[order.argsort()]


def exclusions(size: int, queries: int, k: int, exclude: Sequence[Collection[int] | None] | None) -> list[list[int]]:
    """The rows of a bank of that size that each query may not get, ascending.

    Raises:
        InputError: there are no such rows, or fewer than k others.
    """
    if type(k) is not int or not 1 <= k <= size:
        raise InputError(f"k is {k!r}, expected a whole number from 1 to {size}, the size of the bank")
    if exclude is None:
        return [[] for _ in range(queries)]
    if len(exclude) != queries:
        raise InputError(f"exclude: {len(exclude)} collections for {queries} queries; expected one, or None, for each")
    barred = [[] if rows is None else sorted({int(row) for row in rows}) for rows in exclude]
    for number, rows in enumerate(barred, start=1):
        if rows and not 0 <= rows[0] <= rows[-1] < size:
            row = rows[0] if rows[0] < 0 else rows[-1]
            raise InputError(f"exclude: row {row} for query number {number}; the bank has rows 0 to {size - 1}")
        if size - len(rows) < k:
            raise InputError(
                f"k is {k}, but query number {number} may get {size - len(rows)} of {size} images only; ask for fewer "
                "or exclude less"
            )
    return barred


def bar_near(taken: Sequence[Tensor], threshold: float) -> Bar:
    """Bar of each query the rows whose cosine with one of its unit vectors (t, d) is at least the threshold."""

    def bar(block: Block, products: Tensor) -> None:
        for query, vectors in enumerate(taken):
            cosines = (block.x @ vectors.T).amax(1)
            near = (cosines if block.scale is None else cosines * block.scale) >= threshold - ROUNDING
            products[near, query] = -torch.inf

    return bar


def apart(vectors: Tensor, threshold: float, most: int) -> Tensor:
    """Of unit vectors (m, d) the first, and each that is near none chosen before it: at most so many positions."""
    alive = torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
    chosen: list[int] = []
    with exact_products(vectors.device):
        while len(chosen) < most and bool(alive.any()):
            first = int(alive.int().argmax())
            chosen.append(first)
            alive &= vectors @ vectors[first] < threshold - ROUNDING
            alive[first] = False
    return torch.tensor(chosen, dtype=torch.int64, device=vectors.device)


@torch.no_grad()
def first_of_each(rows: Rows, threshold: float, size: int, meter: Meter) -> Tensor:
    """Keep each row, in order, whose cosines with all that were kept before are below the threshold: rows (m,)."""
    kept = torch.empty(0, dtype=torch.int64, device=rows.device)
    limit = threshold - ROUNDING
    with exact_products(rows.device):
        for block in rows.blocks(size):
            x = block.take(torch.arange(len(block.x), device=rows.device))
            alive = torch.ones(len(x), dtype=torch.bool, device=rows.device)
            for before in rows.select(kept).blocks(8 * size) if len(kept) else ():
                cosines = before.x @ x.T
                if before.scale is not None:
                    cosines.mul_(before.scale[:, None])
                alive &= cosines.amax(0) < limit
            near = (x @ x.T >= limit).triu(1)
            for first in near.any(1).nonzero()[:, 0].tolist():
                if alive[first]:
                    alive &= ~near[first]
            kept = torch.cat([kept, alive.nonzero()[:, 0] + block.start])
            meter.advance(len(x))
    return kept
