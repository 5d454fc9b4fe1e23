"""Two processes train together: batches are shared out, one of them writes, and one alone answers as they do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import yaml
from safetensors.torch import load_file
from tiny_run import recipe, save_data, save_language_model

from crossgraft.training.run import evaluate


def run_two(file: Path, *flags: str) -> list[str]:
    """stdout of `crossgraft train` in each of two processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "crossgraft.cli.main", "train", str(file), "--device", "cpu", "--json", *flags]
    started = [
        subprocess.Popen(
            command,
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ends = []
    try:
        ends = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], ends[0][1] + ends[1][1]
    return [out for out, _ in ends]


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    model, data = save_language_model(tmp_path / "model"), save_data(tmp_path / "data")
    values = recipe(model, data, tmp_path / "run", training={"epochs": 2, "batch_size": 5})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    first, second = run_two(tmp_path / "recipe.yaml")
    assert second == ""
    document = json.loads(first)
    assert document["processes"] == 2
    batches = -(-48 // 5) + -(-24 // 5)  # of questions and captions
    assert document["steps"] == 2 * -(-batches // 2)
    assert {path.name for path in (tmp_path / "run" / "answers").iterdir()} == {
        f"{task}-{split}" for task in ("vqa", "caption") for split in ("val", "test")
    }
    assert load_file(tmp_path / "run" / "adapters" / "adapter" / "adapter_model.safetensors")
    alone = evaluate(tmp_path / "run", device="cpu")
    assert alone["metrics"]["vqa"]["accuracy"] == document["metrics"]["vqa/test"]["accuracy"]["mean"]
    assert alone["metrics"]["caption"]["CIDEr"] == document["metrics"]["caption/test"]["CIDEr"]["mean"]
