"""The feature store: what a frozen encoder made of each image, on disk, keyed by the content of the image file.

A store is a folder:

    store.json                  the plan: the encoder, the settings, and which content hash goes to which shard
    shards/00000.safetensors    the features of one shard; the file appears whole or not at all, so its presence is the
                                record that the shard is done, and a killed run resumes at the first absent one
    files.json                  path -> [size, mtime_ns, SHA-256], so that resuming does not read every file again
    skipped.json                the images that the last run could not use: path, SHA-256 or null, reason

A content hash is the SHA-256 (hex) of an image file's bytes. The plan is written before anything is encoded; later
images extend it by new shards. `extract` writes stores, `FeatureStore` reads them and trusts nothing in them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from crossgraft.errors import InputError
from crossgraft.files import read_json, sha256_file, write_bytes, write_json
from crossgraft.home import home

if TYPE_CHECKING:
    from crossgraft.encoders.base import Encoder

SCHEMA_VERSION = 1
_METADATA = "crossgraft"  # one key: safetensors writes several in random order, and shards have to be repeatable
HASH = re.compile(r"[0-9a-f]{64}")
_UNREADABLE = (OSError, ValueError, RuntimeError, SafetensorError)  # RecursionError is a RuntimeError


def content_hash(path: Path) -> str:
    """The key of an image in a store: SHA-256 (hex) of the file's bytes. Raises OSError if it cannot be read."""
    return sha256_file(path)


def default_store(encoder: Encoder, grid: bool = False) -> Path:
    """Where an encoder's features are kept if nobody says otherwise: a folder of its own under $CROSSGRAFT_HOME, and
    another one with whole grids."""
    name = f"{Path(encoder.name).name}-{encoder.fingerprint[:12]}-{encoder.identity['dtype']}{'-grid' if grid else ''}"
    return home() / "features" / name


@dataclass(frozen=True)
class StoredEncoder:
    """The encoder that filled a store; the fields are those of `Encoder`, `dtype` as in "float32"."""

    name: str
    fingerprint: str
    embedding_dim: int
    feature_dim: int
    grid_shape: tuple[int, int]
    dtype: str

    @classmethod
    def of(cls, encoder: Encoder) -> StoredEncoder:
        tokens, width = encoder.grid_shape
        dims = (encoder.embedding_dim, encoder.feature_dim)
        return cls(encoder.name, encoder.fingerprint, *dims, (tokens, width), encoder.identity["dtype"])


@dataclass(frozen=True)
class StorePlan:
    """What store.json holds: settings, and the content hashes of each shard in the order of its rows."""

    encoder: StoredEncoder
    views: int
    grid: bool
    shards: list[list[str]]

    def shapes(self, rows: int) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the float32 tensors that a shard of so many images holds."""
        d, f = self.encoder.embedding_dim, self.encoder.feature_dim
        shapes: dict[str, tuple[int, ...]] = {"embedding": (rows, d), "feature": (rows, f)}
        if self.grid:
            shapes["grid"] = (rows, *self.encoder.grid_shape)
        if self.views:
            shapes["embedding_views"] = (rows, self.views, d)
            shapes["feature_views"] = (rows, self.views, f)
        return shapes

    def write(self, folder: Path) -> None:
        content = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        write_json(folder / "store.json", content)

    @classmethod
    def read(cls, folder: Path) -> StorePlan:
        """Read store.json. Raises InputError if it is absent, or not what `write` writes."""
        path = folder / "store.json"
        if not path.is_file():
            raise InputError(f"{folder}: no feature store here (no store.json); make one with `crossgraft features`")
        content = read_json(path)

        def field(holder: Any, key: str, kind: type, least: int = 0) -> Any:
            value: Any = holder.get(key) if isinstance(holder, dict) else None
            # type() is, not isinstance: true is no number here
            if type(value) is not kind or (isinstance(value, int) and not least <= value < 2**31):
                found = value if isinstance(value, int) else type(value).__name__
                raise InputError(f"{path}: key {key!r} should hold a sound {kind.__name__}, found {found}")
            return value

        version = field(content, "schema_version", int)
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{path}: schema_version is {version}, this crossgraft reads {SCHEMA_VERSION}; encode again elsewhere"
            )
        stored = field(content, "encoder", dict)
        grid_shape = field(stored, "grid_shape", list)
        if len(grid_shape) != 2 or any(type(n) is not int or not 1 <= n < 2**31 for n in grid_shape):
            raise InputError(f"{path}: key 'grid_shape' should hold [tokens, width]")
        encoder = StoredEncoder(
            name=field(stored, "name", str),
            fingerprint=field(stored, "fingerprint", str),
            embedding_dim=field(stored, "embedding_dim", int, 1),
            feature_dim=field(stored, "feature_dim", int, 1),
            grid_shape=(grid_shape[0], grid_shape[1]),
            dtype=field(stored, "dtype", str),
        )
        shards = field(content, "shards", list)
        seen: set[str] = set()
        for number, shard in enumerate(shards):
            if not isinstance(shard, list) or not all(isinstance(h, str) and HASH.fullmatch(h) for h in shard):
                raise InputError(f"{path}: shard {number} should be a list of SHA-256 hashes (64 hex digits)")
            seen.update(shard)
        if len(seen) != sum(map(len, shards)):
            raise InputError(f"{path}: a content hash is planned twice; the file was changed by hand, encode again")
        return cls(encoder, field(content, "views", int), field(content, "grid", bool), shards)


def shard_path(folder: Path, number: int) -> Path:
    return folder / "shards" / f"{number:05d}.safetensors"


def write_shard(
    folder: Path, plan: StorePlan, number: int, tensors: dict[str, Tensor], hashes: list[str], skipped: dict[str, str]
) -> None:
    """Commit one shard: `tensors` as `plan.shapes(len(hashes))` says, `skipped` = {hash: reason} for the others."""
    write_bytes(shard_path(folder, number), shard_bytes(plan, tensors, hashes, skipped))


def shard_bytes(plan: StorePlan, tensors: dict[str, Tensor], hashes: list[str], skipped: dict[str, str]) -> bytes:
    """The content of the file that `write_shard` writes."""
    shapes = plan.shapes(len(hashes))
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != shapes:
        raise InputError(f"encoder {plan.encoder.name} gave {found}; by its own dimensions expected {shapes}")
    record = {"fingerprint": plan.encoder.fingerprint, "hashes": hashes, "skipped": skipped}
    return save(
        {name: tensor.float().contiguous() for name, tensor in tensors.items()}, {_METADATA: json.dumps(record)}
    )


def _check_shard(path: Path, file: Any, plan: StorePlan, planned: list[str]) -> tuple[list[str], dict[str, str]]:
    """Compare an opened shard with the plan; return its hashes in row order and its skipped ones with reasons."""
    advice = "delete this file and run `crossgraft features` again to encode its images anew"
    record = json.loads((file.metadata() or {}).get(_METADATA, "null"))
    hashes = record.get("hashes") if isinstance(record, dict) else None
    skipped = record.get("skipped") if isinstance(record, dict) else None
    if not isinstance(hashes, list) or not isinstance(skipped, dict):
        raise InputError(f"{path}: not a shard of a feature store (no list of hashes in its metadata); {advice}")
    if record.get("fingerprint") != plan.encoder.fingerprint:
        raise InputError(
            f"{path}: made by the encoder with fingerprint {str(record.get('fingerprint'))[:80]}, store.json says "
            f"{plan.encoder.name} ({plan.encoder.fingerprint}); {advice}"
        )
    if not all(isinstance(reason, str) for reason in skipped.values()):
        raise InputError(f"{path}: the reasons of skipped images should be text; {advice}")
    if hashes != [h for h in planned if h not in skipped] or not skipped.keys() <= set(planned):
        raise InputError(f"{path}: holds other images than store.json plans for it; {advice}")
    shapes = plan.shapes(len(hashes))
    slices = {name: file.get_slice(name) for name in file.offset_keys()}
    found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    if found != {name: (shape, "F32") for name, shape in shapes.items()}:
        raise InputError(f"{path}: expected float32 tensors {shapes}, found {found}; {advice}")
    return hashes, skipped


class FeatureStore:
    """A feature store opened for reading. Build one with `FeatureStore.open`.

    Attributes:
        path: the store's folder.
        plan: what store.json says.
        hashes: content hashes of the encoded images, in the order of the plan.
        skipped: content hash -> reason, for images that could not be decoded.
        pending: numbers of planned shards that are not written yet; empty once a run is complete.
    """

    def __init__(self, path: Path, plan: StorePlan) -> None:
        self.path = path
        self.plan = plan
        self.skipped: dict[str, str] = {}
        self.pending: list[int] = []
        self._place: dict[str, tuple[int, int]] = {}  # hash -> shard, row
        for number, planned in enumerate(plan.shards):
            file = shard_path(path, number)
            if not file.exists():
                if planned:
                    self.pending.append(number)
                continue
            with _opened(file) as tensors:
                hashes, skipped = _check_shard(file, tensors, plan, planned)
            self._place.update((h, (number, row)) for row, h in enumerate(hashes))
            self.skipped.update(skipped)
        self.hashes: list[str] = list(self._place)

    @classmethod
    def open(cls, path: Path | str) -> FeatureStore:
        """Open and check a store: store.json and the header of every shard; the features stay on disk.

        Raises InputError, naming the file, if the folder is no store, or a file of it is damaged or belongs elsewhere.
        """
        folder = Path(path)
        return cls(folder, StorePlan.read(folder))

    def check_encoder(self, encoder: Encoder) -> None:
        """Raise InputError unless the store was made by this encoder (by fingerprint; the name may differ)."""
        stored = self.plan.encoder
        if encoder.fingerprint != stored.fingerprint:
            raise InputError(
                f"{self.path}: made by encoder {_described(stored)}, but this encoder is {_described(encoder)}; use "
                "the same encoder, or another folder"
            )

    def gather(self, hashes: Sequence[str], name: str = "embedding") -> Tensor:
        """Copy the rows of `hashes`, in that order, into a float32 tensor (n, ...); only they are read from disk.

        `name`: "embedding" (n, d) or "feature" (n, f); if the store was made with them also "grid" (n, T, g),
        "embedding_views" (n, V, d) and "feature_views" (n, V, f).
        Raises InputError for images that the store lacks, and for a shard that was damaged or removed since `open`.
        """
        shapes = self.plan.shapes(len(hashes))
        if name not in shapes:
            raise InputError(f"{self.path}: holds no {name!r}, only {', '.join(shapes)}; encode again with it")
        absent = [h for h in hashes if h not in self._place]
        if absent:
            raise InputError(
                f"{self.path}: {len(absent)} of {len(hashes)} images are not in the store (first: {absent[0]}, "
                f"{self.skipped.get(absent[0], 'never encoded')}); run `crossgraft features` on them"
            )
        wanted: dict[int, list[tuple[int, int]]] = {}  # shard -> (position in the output, row)
        for position, h in enumerate(hashes):
            number, row = self._place[h]
            wanted.setdefault(number, []).append((position, row))
        out = torch.empty(shapes[name])
        for number, pairs in wanted.items():
            file = shard_path(self.path, number)
            positions, rows = (torch.tensor(part) for part in zip(*pairs, strict=True))
            with _opened(file) as tensors:
                _check_shard(file, tensors, self.plan, self.plan.shards[number])
                out[positions] = tensors.get_tensor(name)[rows]  # get_tensor maps the file, indexing copies
            if not out[positions].isfinite().all():
                raise InputError(
                    f"{file}: {name!r} holds NaN or infinity; the file is damaged, delete it and encode again"
                )
        return out


def _described(encoder: Encoder | StoredEncoder) -> str:
    tokens, width = encoder.grid_shape  # all that a user sees of a pooled grid
    return f"{encoder.name} (fingerprint {encoder.fingerprint}, grid {tokens} x {width})"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """`safe_open` whose failures, and those of reading from it, are InputErrors with the file's name."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{path}: damaged ({error}); delete it and run `crossgraft features` again") from error
