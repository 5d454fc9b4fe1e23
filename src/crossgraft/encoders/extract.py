"""Encode images once into a feature store, so that a run killed at any moment resumes with nothing lost or repeated."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crossgraft.encoders.base import Encoder
from crossgraft.encoders.encode_shards import ShardJob, default_batch_size, encode_in_processes, encode_shards
from crossgraft.encoders.meter import Meter
from crossgraft.encoders.store import HASH, FeatureStore, StoredEncoder, StorePlan, content_hash
from crossgraft.errors import InputError
from crossgraft.files import exclusive, read_json, write_bytes, write_json

MAX_FILE_BYTES = 1 << 29  # no photo: refused unread, so that a stray video or archive does not fill the memory
_SAVE_EVERY = 30.0  # seconds between writes of files.json while hashing
ENGINES = ("local", "ray")
_STRAY = re.compile(r"\..*\.tmp")  # what `write_bytes` was writing when the run was killed
_OWN_FILES = {"lock", "files.json", "shards"}  # what a run killed before its plan leaves


@dataclass(frozen=True)
class Extraction:
    """What `extract` did.

    `hash_of` maps each usable image to its content hash, the key of `store.gather`. `skipped` lists the others as
    {"path", "sha256" (None if the file could not be read), "reason"}. `encoded` and `reused` count distinct images:
    encoded by this run, and found in the store. `seconds` is wall time.
    """

    store: FeatureStore
    hash_of: dict[Path, str]
    skipped: list[dict[str, str | None]]
    encoded: int
    reused: int
    seconds: float


def extract(
    paths: Sequence[Path],
    encoder: Encoder,
    out: Path,
    *,
    views: int = 0,
    grid: bool = False,
    batch_size: int | None = None,
    shard_size: int = 128,
    workers: int = 1,
    engine: str = "local",
    progress: bool = True,
    wait: bool = False,
    encoder_factory: Callable[[], Encoder] | None = None,
) -> Extraction:
    """Encode images into the feature store in folder `out`; what is there already is not encoded again.

    Args:
        paths: image files. Those with the same content are encoded once; those that cannot be used are listed in
            `skipped` and in skipped.json.
        encoder: the frozen encoder.
        out: the store's folder: absent, empty, or a store of the same encoder, `views`, `grid` and dtype.
        views: how many augmented views to encode of each image, besides the image itself.
        grid: also store the token grid (large: T x g float32 an image).
        batch_size: images a forward pass; default 4 on a CPU, 64 on an accelerator.
        shard_size: images a shard. At most this much work is lost when a run is killed.
        workers: processes that encode, each with its own copy of the encoder and its share of the cores.
        engine: "local", processes of this machine, or "ray", actors of Ray Data here or on a cluster
            (`ray_engine.encode_on_ray`). The store comes out the same to the byte.
        progress: show progress on stderr if the work is likely to take over two seconds.
        wait: if another run is writing to `out`, wait until it is done; else that is an error.
        encoder_factory: a picklable function that makes the encoder in a worker process; default `encoder.loader`.

    Raises:
        InputError: bad arguments; engine "ray" without Ray or its cluster; `out` holds something else, a store with
            other settings, or damaged files; another run is writing to it; the encoder gives NaN.
        CrossgraftError: a worker process died.
    """
    started = time.monotonic()
    if not paths:
        raise InputError("no images to encode were given; expected at least one image file")
    for name, value, least in (("views", views, 0), ("shard_size", shard_size, 1), ("workers", workers, 1)):
        if value < least:
            raise InputError(f"{name} is {value}, expected at least {least}")
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is unknown: choose from {', '.join(ENGINES)}")
    if batch_size is None:
        batch_size = default_batch_size(encoder.device)
    elif batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, expected at least 1")

    with _sole_writer(out, wait), Meter(progress) as meter:
        store = _open_or_begin(out, encoder, views, grid)
        found = set(store.hashes)
        hashes, unusable = _hash_files(paths, out, meter)
        sources: dict[str, list[Path]] = {}
        for path, h in hashes.items():
            sources.setdefault(h, []).append(path)
        while True:
            store = _extend_plan(store, list(sources), shard_size)
            job = ShardJob(out, store.plan, store.pending, sources, batch_size, os.cpu_count() or 1)
            meter.start("encoding", sum(len(store.plan.shards[number]) for number in store.pending))
            if engine == "ray" and store.pending:
                from crossgraft.encoders.ray_engine import encode_on_ray  # Ray is an extra

                # An actor's GPU has the number 0, whichever it is.
                factory = encoder_factory or encoder.loader(encoder.device.type)
                vanished = encode_on_ray(job, workers, factory, encoder.device, meter.advance)
            elif workers > 1 and store.pending:
                factory = encoder_factory or encoder.loader(str(encoder.device))
                vanished = encode_in_processes(job, workers, factory, meter.advance)
            else:
                vanished = encode_shards(job, encoder, meter.advance)
            store = FeatureStore.open(out)
            for h in vanished:  # take them out of the plan, and encode the rest of their shards
                reason = "changed or vanished while the run was going; run again to encode what is there now"
                unusable.update((path, reason) for path in sources.pop(h))
            if not vanished:
                break
        _forget(out, unusable)

        hash_of: dict[Path, str] = {}
        skipped: list[dict[str, str | None]] = []
        for path in dict.fromkeys(paths):
            if path in unusable:
                skipped.append({"path": str(path), "sha256": None, "reason": unusable[path]})
            elif (sha256 := hashes[path]) in store.skipped:
                skipped.append({"path": str(path), "sha256": sha256, "reason": store.skipped[sha256]})
            else:
                hash_of[path] = sha256
        write_json(out / "skipped.json", skipped)
    usable = set(hash_of.values())
    reused = len(usable & found)
    return Extraction(store, hash_of, skipped, len(usable) - reused, reused, time.monotonic() - started)


@contextmanager
def _sole_writer(out: Path, wait: bool) -> Iterator[None]:
    """Create the folder, lock it against a second writer, and remove what a killed one was writing."""
    try:
        foreign = {entry.name for entry in out.iterdir()} - _OWN_FILES if out.exists() else set()
        if "store.json" not in foreign and not all(_STRAY.fullmatch(name) for name in foreign):
            raise InputError(f"{out}: holds other files ({min(foreign)}) and no feature store; give a new folder")
        (out / "shards").mkdir(parents=True, exist_ok=True)
        (out / "lock").touch()
    except OSError as error:
        raise InputError(f"{out}: cannot hold a feature store ({error.strerror}); give a folder to write to") from error
    with exclusive(out / "lock", wait=wait):
        for folder in (out, out / "shards"):
            for stray in filter(lambda file: _STRAY.fullmatch(file.name), folder.iterdir()):
                stray.unlink()
        yield


def _open_or_begin(out: Path, encoder: Encoder, views: int, grid: bool) -> FeatureStore:
    """The store in `out`, checked against the settings asked for, or an empty one that is not written yet."""
    asked = StorePlan(StoredEncoder.of(encoder), views, grid, [])
    if not (out / "store.json").exists():
        return FeatureStore(out, asked)
    store = FeatureStore.open(out)
    store.check_encoder(encoder)
    for name, here, there in (
        ("views", views, store.plan.views),
        ("grid", grid, store.plan.grid),
        ("dtype", asked.encoder.dtype, store.plan.encoder.dtype),
    ):
        if here != there:
            raise InputError(f"{out}: the store was made with {name}={there}, not {name}={here}; use another folder")
    return store


def _extend_plan(store: FeatureStore, hashes: list[str], shard_size: int) -> FeatureStore:
    """Plan new images into new shards, drop images no longer given from unwritten ones; write the plan if changed."""
    shards = list(store.plan.shards)
    given = set(hashes)
    for number in store.pending:
        shards[number] = [h for h in shards[number] if h in given]
    planned = {h for shard in shards for h in shard}
    new = [h for h in hashes if h not in planned]
    shards.extend(new[i : i + shard_size] for i in range(0, len(new), shard_size))
    if shards == store.plan.shards and (store.path / "store.json").exists():
        return store
    replace(store.plan, shards=shards).write(store.path)
    return FeatureStore.open(store.path)


def _hash_files(paths: Sequence[Path], out: Path, meter: Meter) -> tuple[dict[Path, str], dict[Path, str]]:
    """Content hash of each readable file, and the reason for each other; files.json spares reading unchanged ones."""
    cache = _known_files(out)
    hashes: dict[Path, str] = {}
    unusable: dict[Path, str] = {}
    meter.start("hashing", len(paths))
    saved = time.monotonic()
    waiting: deque[tuple[Path, Any]] = deque()

    def settle() -> None:
        path, future = waiting.popleft()
        record, reason = future.result()
        if record is None:
            unusable[path] = reason
            cache.pop(os.path.abspath(path), None)
        else:
            cache[os.path.abspath(path)] = record
            hashes[path] = record[2]
        meter.advance(1)

    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for path in dict.fromkeys(paths):
                waiting.append((path, pool.submit(_hash_file, path, cache.get(os.path.abspath(path)))))
                if len(waiting) > 64:
                    settle()
                if time.monotonic() - saved > _SAVE_EVERY:
                    _save_files(out, cache)
                    saved = time.monotonic()
            while waiting:
                settle()
    finally:
        _save_files(out, cache)
    return hashes, unusable


def _hash_file(path: Path, known: list[Any] | None) -> tuple[list[Any] | None, str]:
    """[size, mtime_ns, SHA-256] of a file, or None and the reason."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever
            return None, "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        if status.st_size > MAX_FILE_BYTES:
            return None, f"{status.st_size} bytes, over the limit of {MAX_FILE_BYTES} for an image file"
        if known is not None and known[:2] == [status.st_size, status.st_mtime_ns]:
            return known, ""
        return [status.st_size, status.st_mtime_ns, content_hash(path)], ""
    except OSError as error:
        return None, error.strerror or str(error)
    except ValueError as error:  # a null byte in the name
        return None, str(error)


def _known_files(out: Path) -> dict[str, list[Any]]:
    """files.json, or nothing if it is absent or damaged: it only saves time."""
    try:
        content = read_json(out / "files.json")
    except InputError:
        return {}
    return {
        path: record
        for path, record in (content.items() if isinstance(content, dict) else ())
        if isinstance(record, list) and list(map(type, record)) == [int, int, str] and HASH.fullmatch(record[2])
    }


def _save_files(out: Path, cache: dict[str, list[Any]]) -> None:
    write_bytes(out / "files.json", json.dumps(cache, sort_keys=True).encode())


def _forget(out: Path, paths: dict[Path, str]) -> None:
    """Drop files from files.json: what changed without its size or time changing must be read again."""
    cache = _known_files(out)
    dropped = set(map(os.path.abspath, paths))
    kept = {path: record for path, record in cache.items() if path not in dropped}
    if kept != cache:
        _save_files(out, kept)
