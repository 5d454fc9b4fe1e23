"""Encode the shards of a feature store's plan on Ray Data: actors on this machine or on a cluster's.

A row of the dataset is one shard: its hashes and the files that hold them. An actor encodes it by the same code, in
the same batches and with as many torch threads as the local engine, so the shard has the same bytes. It sends them back
and the driver alone commits them: it holds the store's lock, so no actor that outlives a killed run can write to it.

Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", OSDI 2018 (arXiv 1712.05889).
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from crossgraft.encoders.base import Encoder
from crossgraft.encoders.encode_shards import ShardJob, encoded_shards, planned_encoder
from crossgraft.encoders.store import shard_bytes, shard_path
from crossgraft.errors import CrossgraftError, InputError
from crossgraft.files import write_bytes

RESTARTS = 3  # of the actors after one has died, in a row, with no shard finished in between


class _ShardEncoder:
    """A Ray Data actor: holds an encoder, turns a row (a shard's plan) into a row (the bytes of the shard's file)."""

    def __init__(self, job: ShardJob, factory: Callable[[], Encoder], torch_threads: int) -> None:
        torch.set_num_threads(torch_threads)
        self.job = job
        self.encoder: Encoder | None = None
        self.error = ""
        try:
            self.encoder = planned_encoder(factory, job.plan)
        except InputError as error:  # told by the first row: an error in a constructor would be tried again
            self.error = str(error)

    def __call__(self, rows: Any) -> Any:
        import pyarrow as pa

        columns = {
            "number": pa.int64(),
            "data": pa.large_binary(),  # a shard may exceed 2 GiB
            "lost": pa.list_(pa.string()),
            "error": pa.string(),
        }
        return pa.Table.from_pylist([self._encode(row) for row in rows.to_pylist()], pa.schema(list(columns.items())))

    def _encode(self, row: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {"number": row["number"], "data": b"", "lost": [], "error": self.error}
        if self.encoder is None:
            return result
        sources = {
            h: [Path(os.fsdecode(path)) for path in paths] for h, paths in zip(row["hashes"], row["paths"], strict=True)
        }
        job = replace(self.job, plan=replace(self.job.plan, shards=[row["hashes"]]), shards=[0], sources=sources)
        try:
            (shard,) = encoded_shards(job, self.encoder)
            if not shard.lost:
                result["data"] = shard_bytes(job.plan, shard.tensors, shard.hashes, shard.skipped)
        except InputError as error:
            return result | {"error": str(error)}
        return result | {"lost": sorted(shard.lost)}


def encode_on_ray(
    job: ShardJob, workers: int, factory: Callable[[], Encoder], device: torch.device, report: Callable[[int], None]
) -> set[str]:
    """`encode_shards` in so many actors of Ray, each with its own encoder from `factory`.

    They run on the cluster at RAY_ADDRESS, on the one that this process has joined (`ray.init`), or on this machine.
    Actors read the image files themselves, by absolute path, so the images have to be there under the same path on
    every node. An actor on a CUDA device asks for a GPU of its own.

    Raises:
        InputError: Ray is not installed, the cluster at RAY_ADDRESS cannot be reached, an image that gives NaN.
        CrossgraftError: an actor died, and died again when it was restarted; the shards that were finished stay.
    """
    ray = _import_ray()
    # As the local engine has it: all that this process uses for one worker, a share of the cores for several.
    torch_threads = torch.get_num_threads() if workers == 1 else max(1, job.threads // workers)
    share = replace(
        job, plan=replace(job.plan, shards=[]), shards=[], sources={}, threads=max(1, job.threads // workers)
    )
    vanished: set[str] = set()
    left = dict.fromkeys(job.shards)  # an ordered set
    restarts = 0
    with _cluster(ray, cpus=torch_threads * workers):
        while left:
            # Restarting is done here: Ray would do it for ever, without a shard to show for it.
            shards = ray.data.from_items([_row(job, number) for number in left], override_num_blocks=len(left))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
                shards = shards.map_batches(
                    _ShardEncoder,
                    fn_constructor_args=(share, factory, torch_threads),
                    batch_size=1,
                    batch_format="pyarrow",
                    compute=ray.data.ActorPoolStrategy(size=min(workers, len(left))),
                    num_cpus=torch_threads,
                    num_gpus=1 if device.type == "cuda" else 0,
                    max_restarts=0,
                )
            try:
                for row in shards.iter_rows():
                    if row["error"]:
                        raise InputError(row["error"])
                    if row["lost"]:
                        vanished.update(row["lost"])
                    else:
                        write_bytes(shard_path(job.folder, row["number"]), row["data"])
                    del left[row["number"]]
                    restarts = 0
                    report(len(job.plan.shards[row["number"]]))
            except ray.exceptions.RayError as error:
                restarts += 1
                if restarts > RESTARTS:
                    raise CrossgraftError(
                        f"a Ray worker failed ({_last_line(error)}); finished shards are kept: run again, "
                        "with fewer workers or a smaller batch if memory ran out"
                    ) from error
    return vanished


def _row(job: ShardJob, number: int) -> dict[str, Any]:
    hashes = job.plan.shards[number]
    # Paths as bytes, because a file name need not be text.
    paths = [[os.fsencode(path.absolute()) for path in job.sources[h]] for h in hashes]
    return {"number": number, "hashes": hashes, "paths": paths}


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported: report to nobody
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(f"engine ray needs Ray Data ({error}): pip install crossgraft[ray]") from None
    return ray


@contextmanager
def _cluster(ray: Any, cpus: int) -> Iterator[None]:
    """Join the cluster at RAY_ADDRESS, or start one of so many CPUs here, and leave it; one already joined is kept."""
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    joined = ray.is_initialized()
    try:
        if not joined:
            address = os.environ.get("RAY_ADDRESS") or "local"
            check_address(address)
            # The size of a cluster may not be given when joining one.
            here = {"include_dashboard": False, "num_cpus": cpus} if address == "local" else {}
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **here)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise InputError(_unreachable(address, error)) from error
        yield
    finally:
        if not joined:
            ray.shutdown()
        logger.setLevel(level)
        context.enable_progress_bars = bars


def check_address(address: str) -> None:
    """Raise InputError if nothing answers at RAY_ADDRESS (host:port, ray://host:port): Ray would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, ValueError, OverflowError) as error:
            raise InputError(_unreachable(address, error)) from error


def _unreachable(address: str, error: Exception) -> str:
    return (
        f"no Ray cluster can be joined at RAY_ADDRESS={address} ({_last_line(error)}); "
        "start one with `ray start --head`, or unset RAY_ADDRESS to run on this machine"
    )


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
