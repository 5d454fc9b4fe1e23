"""Exact retrieval from a million image embeddings, beside faiss's IndexFlatIP.

    python benchmarks/retrieve.py

Random unit embeddings (N, d), random unit queries, one run: in every round each engine answers all queries once, in
turn, with the same number of threads; the ratio is the median over rounds of exact's time over faiss's in the same
round. Where other work shares the machine, one thread says more: threads then wait for each other, and faiss makes them
meet more often. "exact" is `ImageBank.search`; "mapped file" the same on a memory map of a file in the page cache;
"faiss" is the bare index, and not the library's `engine="faiss"`, which adds checks to it.

Of the first embeddings alone (--few): a search of a bank over a store in shards of 128, as `crossgraft features` writes
them, over one of the tensor, and the seconds of `without_near_duplicates`, where none are.

Memory (Linux) is measured for each engine in a process of its own: the growth of the process's peak while it searches,
above the embeddings and, for faiss, above the index, whose copy of them is given apart. Writes
benchmarks/results/retrieve.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from common import result_file
from crossgraft.encoders.retrieve import ImageBank
from crossgraft.encoders.store import FeatureStore, StoredEncoder, StorePlan, shard_bytes, shard_path
from crossgraft.reporting.results import versions
from scale import peak_growth, processor, status

ENGINES = ("exact", "faiss")
TARGET = 1.2  # of faiss's time


def problem(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Embeddings (N, d) and queries (Q, d), unit; made a part at a time, so that the peak is what is held."""
    generator = torch.Generator().manual_seed(0)
    X = torch.empty(arguments.images, arguments.width)
    for part in X.split(1 << 15):
        part.normal_(generator=generator)
        part /= part.norm(dim=1, keepdim=True)
    queries = torch.randn(arguments.queries, arguments.width, generator=generator)
    return X, torch.nn.functional.normalize(queries, dim=1)


def index_of(X: Tensor) -> Any:
    index = faiss.IndexFlatIP(X.shape[1])
    index.add(X.numpy())
    return index


def searches(X: Tensor, queries: Tensor, k: int, mapped: Path) -> dict[str, Callable[[], tuple[Any, Any]]]:
    """Name -> what finds scores and rows (Q, k)."""
    bank, index, asked = ImageBank(X), index_of(X), queries.numpy()
    X.numpy().tofile(mapped)
    file = ImageBank(np.memmap(mapped, dtype=np.float32, mode="r", shape=tuple(X.shape)))
    return {
        "faiss": lambda: index.search(asked, k),
        "exact": lambda: bank.search(queries, k),
        "mapped file": lambda: file.search(queries, k),
    }


def measure_time(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Threads -> engine -> what it took."""
    X, queries = problem(arguments)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        works = searches(X, queries, arguments.k, Path(folder) / "embeddings.bin")
        return {str(threads): in_turn(works, threads, arguments.rounds) for threads in arguments.threads}


def in_turn(works: dict[str, Callable[[], tuple[Any, Any]]], threads: int, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    found = {name: [np.asarray(part) for part in work()] for name, work in works.items()}  # and warms up
    wall: dict[str, list[float]] = {name: [] for name in works}
    processor_time: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started, used = time.perf_counter(), time.process_time()
            work()
            wall[name].append(time.perf_counter() - started)
            processor_time[name].append(time.process_time() - used)
    scores, rows = found["faiss"]
    result: dict[str, Any] = {}
    for name, taken in wall.items():
        ratios = [one / other for one, other in zip(taken, wall["faiss"], strict=True)]
        result[name] = {
            "seconds": statistics.median(taken),
            "best_seconds": min(taken),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "processor_seconds": statistics.median(processor_time[name]),
            "same_rows": float((found[name][1] == rows).mean()),
            "largest_score_difference": float(np.abs(found[name][0] - scores).max()),
        }
    return result


def store_of(X: Tensor, folder: Path) -> FeatureStore:
    """A store in shards of 128 of images that do not exist."""
    hashes = [hashlib.sha256(str(row).encode()).hexdigest() for row in range(len(X))]
    encoder = StoredEncoder("random", "0" * 64, X.shape[1], 1, (1, 1), "float32")
    plan = StorePlan(encoder, 0, False, [hashes[start : start + 128] for start in range(0, len(X), 128)])
    (folder / "shards").mkdir(parents=True)
    plan.write(folder)
    for number, (planned, part) in enumerate(zip(plan.shards, X.split(128), strict=True)):
        tensors = {"embedding": part, "feature": torch.zeros(len(part), 1)}
        shard_path(folder, number).write_bytes(shard_bytes(plan, tensors, planned, {}))
    return FeatureStore.open(folder)


def measure_few(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the library does besides, on the first embeddings, in one thread."""
    torch.set_num_threads(1)
    X, queries = problem(argparse.Namespace(**{**vars(arguments), "images": arguments.few}))
    bank, ratios = ImageBank(X), []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        stored = ImageBank.from_store(store_of(X, Path(folder) / "store"))
        stored.search(queries, arguments.k)
        for _ in range(arguments.rounds):
            taken = []
            for each in (stored, bank):
                started = time.process_time()
                each.search(queries, arguments.k)
                taken.append(time.process_time() - started)
            ratios.append(taken[0] / taken[1])
    started = time.process_time()
    kept = len(bank.without_near_duplicates(progress=False))
    thinning = time.process_time() - started
    return {
        "images": arguments.few,
        "threads": 1,
        "store_ratio": statistics.median(ratios),
        "thinning_processor_seconds": thinning,
        "kept": kept,
    }


def measure_memory(engine: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Of one engine, in this process."""
    torch.set_num_threads(max(arguments.threads))
    faiss.omp_set_num_threads(max(arguments.threads))
    X, queries = problem(arguments)
    before = status("VmRSS")
    index = index_of(X) if engine == "faiss" else None
    copy = (status("VmRSS") - before) / 2**20
    bank = ImageBank(X)
    few = queries[:1]
    if index is not None:
        index.search(few.numpy(), arguments.k)  # what a library keeps for ever is not counted
        return {"copy_mib": copy, "search_mib": peak_growth(lambda: index.search(queries.numpy(), arguments.k))}
    bank.search(few, arguments.k)
    return {"copy_mib": copy, "search_mib": peak_growth(lambda: bank.search(queries, arguments.k))}


def in_own_process(engine: str) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", engine]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--few", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, os.cpu_count() or 1]
    )
    parser.add_argument("--folder", help="for the mapped file: 4 N d bytes; default: that for temporary files")
    parser.add_argument("--memory-of", choices=ENGINES, help="what the benchmark asks of processes of its own")
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(json.dumps(measure_memory(arguments.memory_of, arguments)))
        return
    memory = {engine: in_own_process(engine) for engine in ENGINES}
    times, few = measure_time(arguments), measure_few(arguments)
    settings = {key: value for key, value in vars(arguments).items() if key not in ("folder", "memory_of")}
    document = {
        "settings": settings,
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load_after": os.getloadavg()[0]},
        "versions": {**versions(), "faiss": faiss.__version__},
        "target_ratio": TARGET,
        "time": times,
        "memory": memory,
        "few": few,
    }
    result_file("retrieve").write_text(json.dumps(document, indent=1) + "\n")
    console = Console()
    table = Table("search", "threads", "seconds", "best", "processor s", "of faiss's time", "same rows")
    for threads, engines in times.items():
        for name, one in engines.items():
            numbers = (one["seconds"], one["best_seconds"], one["processor_seconds"], one["ratio"])
            table.add_row(name, threads, *(f"{number:.2f}" for number in numbers), f"{one['same_rows']:.4f}")
    console.print(table)
    for engine, mib in memory.items():
        console.print(f"{engine}: {mib['copy_mib']:.0f} MiB of a copy, {mib['search_mib']:.0f} MiB while searching")
    console.print(
        f"{few['images']} images, 1 thread: a store in shards takes {few['store_ratio']:.2f} of a tensor's processor "
        f"time, removing near-duplicates {few['thinning_processor_seconds']:.1f} s of it"
    )


if __name__ == "__main__":
    main()
