"""Exact search over the rows of an image bank: products a block at a time, and of each query the best so far.

Most blocks hold nothing better than the best k so far, which one pass over their products shows. What may be better is
computed again in float64, so that hits do not depend on blocks or threads, and equal rows have equal scores.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from crossgraft.encoders.bank_rows import Block, Rows

_PRODUCTS = 1 << 21  # numbers of a block of products: 8 MiB
_GROUP = 64  # rows of a block that one maximum rules out together
_EXACT = 1 << 21  # float64 numbers in one go: 16 MiB
_BELOW = -2.0  # less than any cosine, more than what is barred

Bar = Callable[[Block, Tensor], None]
"""Sets to -inf what may not be found, in a block's products (n, Q)."""


def block_size(rows: Rows, queries: int) -> int:
    """Rows a block: products of 8 MiB and copies of 64 MiB at most, except for very wide rows."""
    return max(256, min(1 << 15, _PRODUCTS // max(queries, 1), (1 << 24) // rows.dim))


@torch.no_grad()
def nearest(rows: Rows, queries: Tensor, k: int, size: int, bars: Sequence[Bar] = ()) -> tuple[Tensor, Tensor]:
    """The k rows of largest cosine for each of some unit queries (Q, d): scores (Q, k) float32 and rows (Q, k).

    Sorted by score, then by row; where fewer than k may be found, the last have the score -inf and the row -1.
    """
    count, size = len(queries), min(size, len(rows))
    slack = 2 * (rows.dim + 8) * torch.finfo(torch.float32).eps  # bounds how far products are from exact cosines
    best = queries.new_full((count, k), -torch.inf)
    where = torch.full((count, k), -1, device=queries.device)
    floor = queries.new_full((count,), _BELOW)  # no row with a product below is among the best
    group = max(1, min(_GROUP, size // (4 * k)))
    buffer = queries.new_empty(-(-size // group) * group, count)
    columns = queries.T.contiguous()
    with exact_products(queries.device):
        for block in rows.blocks(size):
            n = len(block.x)
            products = torch.mm(block.x, columns, out=buffer[:n])  # (n, Q)
            if block.scale is not None:
                products.mul_(block.scale[:, None])
            for bar in bars:
                bar(block, products)
            groups = -(-n // group)
            buffer[n : groups * group] = -torch.inf
            grouped = buffer[: groups * group].view(groups, group, count)
            maxima = grouped.amax(1)  # (G, Q)
            hopeful = maxima >= floor
            if groups >= k and int(hopeful.sum(0).amax()) > 4 * k:
                # Many: the k-th largest maximum of a query is a bound, too, since k rows reach it.
                floor = torch.maximum(floor, maxima.T.topk(k).values[:, -1] - slack)
                hopeful = maxima >= floor
            at, query = hopeful.nonzero(as_tuple=True)
            if not len(at):
                continue
            pair, offset = (grouped[at, :, query] >= floor[query, None]).nonzero(as_tuple=True)
            query, order = query[pair].sort(stable=True)  # by query, then by row
            row = (at[pair] * group + offset)[order]
            scores = _exact(block, row, queries, query)
            better, which, counts = query.unique_consecutive(return_inverse=True, return_counts=True)
            place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[which]
            more = best.new_full((len(better), int(counts.max())), -torch.inf)
            there = torch.full_like(more, -1, dtype=torch.int64)
            more[which, place], there[which, place] = scores, row + block.start
            # Stable, and what was found before stands first: of equal scores the lower row stays ahead.
            merged = torch.cat([best[better], more], 1).sort(dim=1, descending=True, stable=True)
            best[better] = merged.values[:, :k]
            where[better] = torch.cat([where[better], there], 1).gather(1, merged.indices[:, :k])
            floor[better] = torch.maximum(floor[better], best[better, -1] - slack)
    return best, where


def _exact(block: Block, rows: Tensor, queries: Tensor, which: Tensor) -> Tensor:
    """Cosines (m,) of unit rows of a block and the unit queries `which`, rounded once, from float64 to float32."""
    wide = torch.float32 if queries.device.type == "mps" else torch.float64  # which Apple's devices lack
    out = queries.new_empty(len(rows))
    for some in torch.arange(len(rows), device=rows.device).split(max(1, _EXACT // queries.shape[1])):
        cosines = (block.x[rows[some]].to(wide) * queries[which[some]].to(wide)).sum(1)
        out[some] = (cosines if block.scale is None else cosines * block.scale[rows[some]]).float()
    return out


@torch.no_grad()
def ranked(rows: Rows, queries: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Candidates (Q, m), rows of the bank or -1, by exact cosine, then by row: scores and rows (Q, m)."""
    candidates = candidates.sort(dim=1).values
    scores = queries.new_full(candidates.shape, -torch.inf)
    for query, ascending in enumerate(candidates):
        found = ascending >= 0
        block = Block(0, rows.take(ascending[found]), None)
        place = torch.arange(len(block.x), device=queries.device)
        scores[query, found] = _exact(block, place, queries, torch.full_like(place, query))
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return scores, candidates.gather(1, order)


def bar_rows(pairs: Sequence[tuple[int, int]], device: torch.device) -> Bar:
    """Bar pairs of a row and a query, ascending."""
    ascending = [row for row, _ in pairs]
    rows, queries = torch.tensor(pairs, dtype=torch.int64, device=device).view(-1, 2).unbind(1)

    def bar(block: Block, products: Tensor) -> None:
        here = slice(bisect_left(ascending, block.start), bisect_left(ascending, block.start + len(products)))
        products[rows[here] - block.start, queries[here]] = -torch.inf

    return bar


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Matrix products of float32 at full precision, whatever autocast or the settings for TF32 say."""
    if device.type != "cuda":
        with torch.autocast(device.type, enabled=False):
            yield
        return
    matmul = torch.backends.cuda.matmul
    name, full = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, full)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        setattr(matmul, name, before)
