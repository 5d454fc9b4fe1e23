"""A bank of image embeddings, and the images in it that are nearest to a text: what gives a language model its sight.

X-adapter ("Towards Versatile and Efficient Visual Knowledge Integration into Pre-trained Language Models with
Cross-Modal Adapters", arXiv 2305.07358) retrieves images for every text; how is a reconstruction: by inner product of
unit embeddings, exactly.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossgraft.encoders.bank_rows import Rows, as_tensor, mapped_parts, unit
from crossgraft.encoders.bank_search import QUERIES, Search, exclusions, first_of_each
from crossgraft.encoders.base import Encoder
from crossgraft.encoders.meter import Meter
from crossgraft.encoders.store import HASH, FeatureStore
from crossgraft.errors import CrossgraftError, InputError
from crossgraft.files import read_json

ENGINES = ("exact", "faiss")


class Hits(NamedTuple):
    """The k best rows of a bank for each of Q queries, best first, on the bank's device.

    `scores` (Q, k) float32 are cosines, `rows` (Q, k) int64; of equal scores the lower row comes first.
    """

    scores: Tensor
    rows: Tensor


class ImageBank:
    """Image embeddings to search, and whose images they are.

    Args:
        embeddings: (N, d) of any floating dtype, a tensor on any device, an array, or a memory map. It is read once to
            check it, never copied or written to; rows that are not unit count as if they were.
        hashes: the content hash (SHA-256, hex) of each image, if known.
        fingerprint: of the encoder that made the embeddings, if known.
        store: where the other features of these images lie; see `from_store`.

    Raises:
        InputError: no rows, another shape or dtype, NaN, infinity, a row of length 0; hashes that do not fit.
    """

    def __init__(
        self,
        embeddings: Tensor | np.ndarray | Rows,
        hashes: Sequence[str] | None = None,
        fingerprint: str | None = None,
        store: FeatureStore | None = None,
    ) -> None:
        if not isinstance(embeddings, Rows):
            embeddings = Rows.of([("embeddings", as_tensor(embeddings, "embeddings"))])
        self._rows = embeddings
        self.hashes = None if hashes is None else list(hashes)
        self.fingerprint = fingerprint
        self.store = store
        if self.hashes is not None:
            if len(self.hashes) != len(self):
                raise InputError(f"hashes: {len(self.hashes)} for {len(self)} embeddings; expected one an image")
            if odd := [h for h in self.hashes if not (isinstance(h, str) and HASH.fullmatch(h))]:
                raise InputError(f"hashes: {str(odd[0])[:80]!r} is no SHA-256 (64 hex digits); use `content_hash`")

    @classmethod
    def from_store(cls, store: FeatureStore, encoder: Encoder | None = None) -> ImageBank:
        """All images that a store holds, in its order; their embeddings stay on disk, mapped into memory.

        Raises:
            InputError: the store is of another encoder than `encoder`, empty, or damaged.
        """
        if encoder is not None:
            store.check_encoder(encoder)
        try:
            return cls(Rows.of(mapped_parts(store)), store.hashes, store.plan.encoder.fingerprint, store)
        except InputError as error:
            raise InputError(f"{store.path}: no bank can be made of this store: {error}") from error

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"ImageBank({len(self)} x {self.dim} on {self.device})"

    @property
    def dim(self) -> int:
        """Width d of the embeddings."""
        return self._rows.dim

    @property
    def device(self) -> torch.device:
        return self._rows.device

    def to(self, device: torch.device | str) -> ImageBank:
        """The same bank with all its embeddings on a device, as float32: 4 N d bytes."""
        return ImageBank(self._rows.to(device), self.hashes, self.fingerprint, self.store)

    def check_encoder(self, encoder: Encoder) -> None:
        """Raise InputError unless this encoder made the bank; a bank that does not know its encoder takes any."""
        if self.store is not None:
            self.store.check_encoder(encoder)
        elif self.fingerprint is not None and self.fingerprint != encoder.fingerprint:
            raise InputError(
                f"the bank was made by the encoder with fingerprint {self.fingerprint[:80]}, but this encoder is "
                f"{encoder.name} ({encoder.fingerprint}); use the same encoder for images and texts"
            )

    def row_of(self, sha256: str) -> int | None:
        """The row of the image with this content hash, None if the bank does not hold it."""
        return self._row_of.get(sha256)

    def paths(self, rows: Tensor) -> list[list[Path | None]]:
        """Files with the images of rows (Q, k), as far as the store's files.json names them; they may be gone."""
        return [[self._path(row) for row in some] for some in self._checked_rows(rows).tolist()]

    def search(
        self,
        queries: Tensor | np.ndarray,
        k: int,
        *,
        exclude: Sequence[Collection[int] | None] | None = None,
        distinct: float | None = None,
        block: int | None = None,
        engine: str = "exact",
        progress: bool = False,
    ) -> Hits:
        """The k images of largest cosine for each query.

        Args:
            queries: (Q, d); their lengths do not matter.
            k: how many; each query gets exactly so many.
            exclude: for each query rows that it may not get, such as the image that a caption describes, or None.
            distinct: leave out a hit whose cosine with a better hit of the same query is at least this.
            block: rows a matrix product; the default keeps what it needs under about 100 MiB.
            engine: "exact", or "faiss": faiss's IndexFlatIP, which keeps a copy of the embeddings. Its hits are the
                same but for cosines that differ by rounding alone at the k-th place.
            progress: show progress on stderr if the work is likely to take over two seconds.

        Raises:
            InputError: queries of another width, with NaN or of length 0; more asked for than there is.
            CrossgraftError: engine "faiss" without faiss.
        """
        if engine not in ENGINES:
            raise InputError(f"engine {engine!r} is unknown: choose from {', '.join(ENGINES)}")
        if block is not None and block < 1:
            raise InputError(f"block is {block}, expected at least 1 row")
        if distinct is not None:
            _check_threshold("distinct", distinct)
        vectors = self._checked_queries(queries)
        barred = exclusions(len(self), len(vectors), k, exclude)
        index = self._faiss if engine == "faiss" else None
        found = [(vectors.new_empty(0, k), torch.empty(0, k, dtype=torch.int64, device=self.device))]
        with Meter(progress, "queries") as meter:
            meter.start("retrieving", len(vectors))
            for start in range(0, len(vectors), QUERIES):
                some = slice(start, start + QUERIES)
                work = Search(self._rows, vectors[some], barred[some], block, start, index)
                found.append(work.best(k) if distinct is None else work.distinct(k, distinct))
                meter.advance(len(work.queries))
        scores, rows = zip(*found, strict=True)
        return Hits(torch.cat(scores), torch.cat(rows))

    def without_near_duplicates(
        self, threshold: float = 0.98, *, block: int = 1024, progress: bool = True
    ) -> ImageBank:
        """A view of the bank with each image left out whose cosine with an earlier one that stays is >= threshold.

        Every image is compared with all that stay: N^2 d operations at most, in bounded memory.

        Raises:
            InputError: a threshold outside (0, 1], or a block below 1.
        """
        _check_threshold("threshold", threshold)
        if block < 1:
            raise InputError(f"block is {block}, expected at least 1 row")
        with Meter(progress) as meter:
            meter.start("comparing", len(self))
            kept = first_of_each(self._rows, threshold, block, meter)
        hashes = None if self.hashes is None else [self.hashes[row] for row in kept.tolist()]
        return ImageBank(self._rows.select(kept), hashes, self.fingerprint, self.store)

    def features(self, rows: Tensor, name: str = "embedding") -> Tensor:
        """Features of rows (Q, k), float32 on the device of `rows`; each different image is read once.

        `name`: "embedding" (Q, k, d), unit vectors; with a store also what `FeatureStore.gather` knows, such as
        "feature" (Q, k, f) and "grid" (Q, k, T, g).

        Raises:
            InputError: rows that the bank does not have, features that it does not know.
        """
        distinct, place = self._checked_rows(rows).unique(return_inverse=True)
        if name == "embedding":
            found = self._rows.take(distinct)
        elif self.store is None or self.hashes is None:
            raise InputError(f"the bank was made of embeddings alone and has no {name!r}: use ImageBank.from_store")
        else:
            found = self.store.gather([self.hashes[row] for row in distinct.tolist()], name)
        return found.to(rows.device)[place.to(rows.device)]

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {h: row for row, h in reversed(list(enumerate(self.hashes or [])))}  # the first of equal hashes

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        """Content hash -> files that had it; files.json only saves time, so that nothing is known if it is damaged."""
        try:
            content = {} if self.store is None else read_json(self.store.path / "files.json")
        except InputError:
            return {}
        files: dict[str, list[str]] = {}
        for path, record in sorted(content.items()) if isinstance(content, dict) else ():
            if isinstance(record, list) and len(record) == 3 and isinstance(record[2], str):
                files.setdefault(record[2], []).append(path)
        return files

    def _path(self, row: int) -> Path | None:
        paths = [Path(path) for path in self._files.get(self.hashes[row], [])] if self.hashes is not None else []
        return next((path for path in paths if path.is_file()), paths[0] if paths else None)

    @cached_property
    def _faiss(self) -> Any:
        """faiss's index over a copy of the rows."""
        if importlib.util.find_spec("faiss") is None:
            raise CrossgraftError(
                "engine 'faiss' needs faiss, which is not installed: pip install 'crossgraft[search]'"
            )
        import faiss

        index = faiss.IndexFlatIP(self.dim)
        for part in self._rows.blocks(1 << 15):
            x = part.x if part.scale is None else part.x * part.scale[:, None]
            index.add(np.ascontiguousarray(x.cpu().numpy()))
        return index

    def _checked_queries(self, queries: Tensor | np.ndarray) -> Tensor:
        """Unit queries (Q, d), float32 on the bank's device."""
        vectors = as_tensor(queries, "queries").detach()
        if vectors.ndim != 2 or not vectors.is_floating_point() or vectors.shape[1] != self.dim:
            found = f"{tuple(vectors.shape)} of {str(vectors.dtype).removeprefix('torch.')}"
            raise InputError(
                f"queries: expected (Q, {self.dim}) floating-point numbers, the width of the bank, found {found}; "
                "encode them with the bank's encoder"
            )
        vectors = vectors.to(self.device, torch.float32)
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        unsound = (~lengths.isfinite() | (lengths == 0)).nonzero()[:, 0]
        if len(unsound):
            what = "is zero" if lengths[unsound[0]] == 0 else "holds NaN, infinity or numbers too large to square"
            raise InputError(f"queries: number {int(unsound[0]) + 1} of {len(vectors)} {what}; expected a direction")
        return unit(vectors)

    def _checked_rows(self, rows: Tensor) -> Tensor:
        if rows.ndim != 2 or rows.dtype != torch.int64:
            raise InputError(
                f"rows: expected (Q, k) int64, as search gives them, found {tuple(rows.shape)} {rows.dtype}"
            )
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise InputError(
                f"rows: from {int(rows.min())} to {int(rows.max())}, but the bank has 0 to {len(self) - 1}"
            )
        return rows.to(self.device)


def retrieve(
    bank: ImageBank,
    encoder: Encoder,
    texts: Sequence[str],
    k: int,
    *,
    exclude: Sequence[Collection[int] | None] | None = None,
    distinct: float | None = None,
    engine: str = "exact",
    progress: bool = True,
) -> Hits:
    """The k images of a bank that are nearest to each text by the encoder that made the bank; see `ImageBank.search`.

    Raises:
        InputError: the bank was made by another encoder; no texts, or an empty one; what `search` refuses.
    """
    bank.check_encoder(encoder)
    queries = encoder.encode_texts(texts)
    return bank.search(queries, k, exclude=exclude, distinct=distinct, engine=engine, progress=progress)


def _check_threshold(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise InputError(f"{name} is {value}, expected a cosine above 0 and at most 1, such as 0.98")
