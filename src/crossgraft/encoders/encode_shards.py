"""Encode the shards of a feature store's plan: decoding threads feed the encoder, in this process or in several.

A batch never spans shards and depends on the plan alone, so a shard comes out the same to the byte however often the
run was killed, and whichever process encoded it. (torch sums in another order with another number of threads, so the
last bits may differ between runs with different numbers of workers.)
"""

from __future__ import annotations

import ctypes
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import Tensor

from crossgraft.encoders.base import Encoder
from crossgraft.encoders.images import UnreadableImage
from crossgraft.encoders.preprocess import Preprocess
from crossgraft.encoders.store import StorePlan, write_shard
from crossgraft.errors import CrossgraftError, InputError


@dataclass(frozen=True)
class ShardJob:
    """Shards to encode: `shards` are numbers in `plan`, `sources` maps a content hash to the files that hold it."""

    folder: Path
    plan: StorePlan
    shards: list[int]
    sources: dict[str, list[Path]]
    batch_size: int
    threads: int


@dataclass(frozen=True)
class EncodedShard:
    """One shard as `write_shard` takes it. `lost` are the hashes that no file holds any more (changed or removed since
    they were planned); a shard that lost one is not to be written, and its `tensors` are empty."""

    number: int
    tensors: dict[str, Tensor]
    hashes: list[str]
    skipped: dict[str, str]
    lost: set[str]


def default_batch_size(device: torch.device) -> int:
    """Images a forward pass: 4 on a CPU, where larger batches only fill caches and memory, 64 on an accelerator."""
    return 4 if device.type == "cpu" else 64


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks for this process instead of unmapping them; elsewhere do nothing.

    A CPU encoder's activations lie over malloc's mmap threshold, so each batch maps, faults in and unmaps all of them:
    a quarter of the time of EfficientNet-Lite0 at batch 4, and 40 % at batch 16.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library without mallopt
            libc = ctypes.CDLL(None)
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def encode_shards(job: ShardJob, encoder: Encoder, report: Callable[[int], None]) -> set[str]:
    """Encode and commit each shard of a job; `report` is told how many images were just dealt with.

    Returns the hashes that no file holds any more; their shards are not written. Raises InputError, naming the image,
    if the encoder gives NaN or infinity.
    """
    vanished: set[str] = set()
    with closing(encoded_shards(job, encoder, report)) as shards:
        for shard in shards:
            if shard.lost:
                vanished |= shard.lost
            else:
                write_shard(job.folder, job.plan, shard.number, shard.tensors, shard.hashes, shard.skipped)
    return vanished


def encoded_shards(
    job: ShardJob, encoder: Encoder, report: Callable[[int], None] = lambda count: None
) -> Generator[EncodedShard, None, None]:
    """What `encode_shards` commits, shard by shard."""
    if encoder.device.type == "cpu":
        keep_freed_memory()
    with closing(_decoded(job, encoder.preprocess)) as stream:
        for number in job.shards:
            yield _encode_shard(job, number, encoder, stream, report)


def _encode_shard(
    job: ShardJob,
    number: int,
    encoder: Encoder,
    stream: Iterator[Tensor | str | None],
    report: Callable[[int], None],
) -> EncodedShard:
    """Encode the next shard of the stream of decoded images."""
    planned = job.plan.shards[number]
    encoded: list[dict[str, Tensor]] = []
    hashes: list[str] = []
    skipped: dict[str, str] = {}
    lost: set[str] = set()
    for start in range(0, len(planned), job.batch_size):
        chunk = planned[start : start + job.batch_size]
        pixels: dict[str, Tensor] = {}
        for h in chunk:
            outcome = next(stream)
            if outcome is None:
                lost.add(h)
            elif isinstance(outcome, str):
                skipped[h] = outcome
            else:
                pixels[h] = outcome
        if pixels:
            encoded.append(_encode(encoder, pixels, job))
            hashes.extend(pixels)
        report(len(chunk))
    if lost:
        return EncodedShard(number, {}, [], {}, lost)
    tensors = {
        name: torch.cat([rows[name] for rows in encoded]) if encoded else torch.zeros(shape)
        for name, shape in job.plan.shapes(len(hashes)).items()
    }
    return EncodedShard(number, tensors, hashes, skipped, lost)


def _decoded(job: ShardJob, preprocess: Preprocess) -> Generator[Tensor | str | None, None, None]:
    """Decode the images of all shards in order, a bounded number ahead, so that the encoder seldom waits."""
    ahead = 2 * job.batch_size + job.threads
    with ThreadPoolExecutor(job.threads) as pool:
        waiting: deque[Future[Tensor | str | None]] = deque()
        try:
            for number in job.shards:
                for h in job.plan.shards[number]:
                    waiting.append(pool.submit(_decode, h, job.sources[h], preprocess, job.plan.views))
                    if len(waiting) > ahead:
                        yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _decode(h: str, paths: list[Path], preprocess: Preprocess, views: int) -> Tensor | str | None:
    """The image and its augmented views (1 + V, 3, H, W); or why to skip it; or None if no file has its content."""
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if hashlib.sha256(data).hexdigest() != h:
            continue
        try:
            return torch.stack([preprocess(data), *(preprocess.augmented(data, view_seed(h, v)) for v in range(views))])
        except UnreadableImage as error:
            return error.reason
    return None


def view_seed(h: str, view: int) -> int:
    """The seed of an augmented view: from content and view alone, so that neither order nor resuming changes it."""
    return int.from_bytes(hashlib.sha256(f"{h} view {view}".encode()).digest()[:6], "big")


@torch.inference_mode()
def _encode(encoder: Encoder, pixels: dict[str, Tensor], job: ShardJob) -> dict[str, Tensor]:
    """Encode one batch: {hash: (1 + V, 3, H, W)} -> the store's tensors for these images, checked."""
    stacked = torch.stack(list(pixels.values()), dim=1).to(encoder.device)  # (1 + V, B, 3, H, W)
    features = encoder.encode_images(stacked[0], grid=job.plan.grid)
    rows = {"embedding": features.embedding, "feature": features.feature}
    if job.plan.grid and features.grid is not None:
        rows["grid"] = features.grid
    if job.plan.views:
        views = [encoder.encode_images(view) for view in stacked[1:]]
        rows["embedding_views"] = torch.stack([view.embedding for view in views], dim=1)  # (B, V, d)
        rows["feature_views"] = torch.stack([view.feature for view in views], dim=1)  # (B, V, f)
    rows = {name: tensor.float().cpu() for name, tensor in rows.items()}
    for name, tensor in rows.items():
        finite = tensor.isfinite().flatten(1).all(dim=1)
        if not finite.all():
            worst = list(pixels)[int(finite.int().argmin())]
            raise InputError(
                f"{job.sources[worst][0]}: encoder {encoder.name} gave NaN or infinity for this image ({name}); "
                f"its weights are damaged, or {encoder.dtype} is too narrow for it: try another encoder or dtype"
            )
    return rows


def planned_encoder(factory: Callable[[], Encoder], plan: StorePlan) -> Encoder:
    """The encoder that a worker makes for itself. Raises InputError if it is not the one of the plan."""
    encoder = factory()
    if encoder.fingerprint != plan.encoder.fingerprint:
        raise InputError(f"{encoder.name}: the encoder changed on disk while the run was starting; run again")
    return encoder


def encode_in_processes(
    job: ShardJob, workers: int, factory: Callable[[], Encoder], report: Callable[[int], None]
) -> set[str]:
    """`encode_shards` in at most so many new processes, each with its own encoder from `factory` and every workers-th
    shard. A process has its share of the cores however few shards are left: torch sums in another order with another
    number of threads, and a resumed store has the bytes of an uninterrupted one.

    Raises CrossgraftError if a process dies (killed for memory, say); the shards that were finished stay.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an undefined state
    crew: list[tuple[connection.Connection, BaseProcess]] = []
    vanished: set[str] = set()
    try:
        for i in range(min(workers, len(job.shards))):
            mine = job.shards[i::workers]
            sources = {h: job.sources[h] for number in mine for h in job.plan.shards[number]}
            receiver, sender = context.Pipe(duplex=False)
            share = replace(job, shards=mine, sources=sources, threads=max(1, job.threads // workers))
            process: BaseProcess = context.Process(target=_work, args=(share, factory, sender), daemon=True)
            process.start()
            sender.close()  # the worker has its own copy: when it dies the receiver sees the end
            crew.append((receiver, process))
        while crew:
            report(0)
            connection.wait([receiver for receiver, _ in crew], timeout=0.2)
            for receiver, process in list(crew):
                if not receiver.poll():
                    continue
                try:
                    kind, value = receiver.recv()
                except (EOFError, OSError):
                    process.join()
                    raise CrossgraftError(_obituary(process.exitcode)) from None
                if kind == "encoded":
                    report(value)
                elif kind == "done":
                    vanished |= value
                    crew.remove((receiver, process))
                    process.join()
                else:
                    raise (InputError if kind == "input" else CrossgraftError)(value)
    finally:
        for _, left in crew:
            left.terminate()
            left.join()
    return vanished


def _obituary(exitcode: int | None) -> str:
    how = f"ended with code {exitcode}"
    if exitcode is not None and exitcode < 0:
        how = f"was killed by {signal.Signals(-exitcode).name}"
        if exitcode == -signal.SIGKILL:
            how += " (often the system, out of memory)"
    return f"a worker process {how}; finished shards are kept: run again, with fewer workers or a smaller batch"


def _work(job: ShardJob, factory: Callable[[], Encoder], sender: connection.Connection) -> None:
    """A worker's life: encode its shards, tell the parent how far it is, end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(job.threads)
    try:
        encoder = planned_encoder(factory, job.plan)
        sender.send(("done", encode_shards(job, encoder, lambda count: sender.send(("encoded", count)))))
    except InputError as error:
        sender.send(("input", str(error)))
    except Exception as error:
        sender.send(("failed", f"a worker process failed: {type(error).__name__}: {error}"))
