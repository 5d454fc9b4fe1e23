"""Two processes on CPUs: DDP and FSDP2 give the gradients, steps and files of one process with the whole batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_two_processes_do_as_one(tmp_path: Path) -> None:
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    logs = [(tmp_path / f"{rank}.log").open("w") for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "distributed_checks.py"), str(tmp_path)],
            env=os.environ | common | {"RANK": str(rank)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        for rank, log in enumerate(logs)
    ]
    try:
        codes = [process.wait(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
        for log in logs:
            log.close()
    assert codes == [0, 0], "\n".join((tmp_path / f"{rank}.log").read_text()[-3000:] for rank in range(2))
    for rank in range(2):
        results = json.loads((tmp_path / f"{rank}.json").read_text())
        assert results
        assert not [name for name, passed in results.items() if not passed]
