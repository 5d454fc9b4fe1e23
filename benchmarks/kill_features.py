"""Kill `crossgraft features` 100 times at random moments; the store it ends with must equal an uninterrupted one.

    python benchmarks/kill_features.py DATA --model pocket-lite

Each run is killed (SIGKILL) after a random delay and started again on the same store. One delay in five counts from the
start of the process (imports, loading the model, hashing, planning); the others count from the moment its encoding
begins. A run that ends before its kill completes a store; it is compared, and the kills go on with a fresh one.
Compared are, byte by byte, store.json, skipped.json, and all shards; and no shard that was there at a kill may be
written again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "kill_features.json"


def command(data: str, model: str, out: Path, shard_size: int, workers: int) -> list[str]:
    program = [sys.executable, "-m", "crossgraft.cli.main", "features", data, "--model", model, "--out", str(out)]
    return [*program, "--shard-size", str(shard_size), "--workers", str(workers)]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a run to end by itself; stop the benchmark if it failed."""
    _, err = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"a run that was not killed failed with code {process.returncode}:\n{err.decode()}")


def contents(store: Path) -> dict[str, bytes]:
    files = [store / "store.json", store / "skipped.json", *sorted((store / "shards").glob("*.safetensors"))]
    return {file.name: file.read_bytes() for file in files}


def finished_shards(store: Path) -> dict[str, tuple[int, int]]:
    """Name -> (inode, modification time) of each committed shard: both change if it is written again."""
    stats = {file.name: file.stat() for file in (store / "shards").glob("*.safetensors")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in stats.items()}


def moment(store: Path) -> str:
    """What a killed run left. (A kill in the start of a resumed run finds the store as the run before left it.)"""
    if not (store / "store.json").exists():
        return "no plan yet"
    if any((store / "shards").glob(".*.tmp")):
        return "a shard half written"
    return "a plan, no shard" if not finished_shards(store) else "some shards whole"


def wait_for_encoding(process: subprocess.Popen[bytes], store: Path) -> None:
    """Wait until a run has hashed its files (it then writes files.json), or has ended."""

    def written() -> int:
        return (store / "files.json").stat().st_mtime_ns if (store / "files.json").exists() else 0

    before = written()
    while process.poll() is None and written() == before:
        time.sleep(0.005)


def timed_run(arguments: list[str], store: Path) -> tuple[float, float]:
    """Run to the end without a kill -> seconds until the first shard, seconds in all."""
    began = time.monotonic()
    process = start(arguments)
    first = 0.0
    while process.poll() is None:
        if not first and any((store / "shards").glob("*.safetensors")):
            first = time.monotonic() - began
        time.sleep(0.02)
    total = time.monotonic() - began
    finish(process)
    return first or total, total


def processor() -> str:
    """The processor's name where Linux tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="what `crossgraft features` takes: an image folder, a split, or a CSV")
    parser.add_argument("--model", default="pocket-lite")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--shard-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    console = Console(stderr=True)
    rng = random.Random(options.seed)
    began = time.monotonic()

    with tempfile.TemporaryDirectory() as scratch:

        def arguments(store: Path) -> list[str]:
            return command(options.data, options.model, store, options.shard_size, options.workers)

        reference = Path(scratch) / "reference"
        startup, total = timed_run(arguments(reference), reference)
        expected = contents(reference)
        console.print(
            f"uninterrupted: {total:.1f} s, the first shard after {startup:.1f} s, {len(expected) - 2} shards"
        )

        moments: Counter[str] = Counter()
        kills = resumes = stores = rewritten = unequal = 0
        store = Path(scratch) / "killed"
        before: dict[str, tuple[int, int]] = {}
        while True:
            resumes += (store / "store.json").exists()
            process = start(arguments(store))
            if kills < options.kills:
                if rng.random() < 0.8:
                    wait_for_encoding(process, store)
                    delay = rng.uniform(0, 0.2) * (total - startup)
                else:
                    delay = rng.uniform(0, startup)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=delay)
                process.kill()  # does nothing if it has ended
            _, err = process.communicate()
            after = finished_shards(store)
            rewritten += sum(after.get(name) != state for name, state in before.items())
            before = after
            if process.returncode == -9:
                kills += 1
                moments[moment(store)] += 1
                console.print(f"kill {kills}: {len(after)} shards there, {moment(store)}")
                continue
            if process.returncode != 0:
                raise SystemExit(f"a run failed with code {process.returncode}:\n{err.decode()}")
            stores += 1
            unequal += contents(store) != expected
            if kills >= options.kills:
                break
            store, before = Path(scratch) / f"killed{stores}", {}

    result = {
        "data": Path(options.data).name,
        "model": options.model,
        "images": sum(map(len, json.loads(expected["store.json"])["shards"])),
        "shards": len(expected) - 2,
        "shard_size": options.shard_size,
        "workers": options.workers,
        "seed": options.seed,
        "kills": kills,
        "store_at_kill": dict(moments.most_common()),
        "resumes": resumes,
        "stores_completed": stores,
        "stores_unequal": unequal,
        "shards_written_again": rewritten,
        "equal": unequal == 0 and rewritten == 0,
        "seconds": round(time.monotonic() - began, 1),
        "seconds_uninterrupted": round(total, 1),
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "system": platform.system(),
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    table = Table("", "", title="crossgraft features under SIGKILL", show_header=False)
    for key, value in result.items():
        table.add_row(key, ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value))
    Console().print(table)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    raise SystemExit(0 if result["equal"] else 1)


if __name__ == "__main__":
    main()
