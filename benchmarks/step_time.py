"""Time and memory of a training step at BART-base's size (random weights): who trains, and what need not be computed.

    python benchmarks/step_time.py

Each variant runs in a process of its own, all of them in each round; a row's ratio is the median over rounds of its
step time over full fine-tuning's in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common import result_file

TEXT, IMAGE, ANSWER, WIDTH = 20, 36, 6, 2048
TOP = ["encoder.3-5.self_attention", "encoder.3-5.feed_forward", "decoder.3-5.*_attention", "decoder.3-5.feed_forward"]
ALSO = ["visual_embedding.*", "layer_norms"]
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {"method": {"name": "full"}, "also": []},
    "adapter": {"method": {"name": "adapter"}, "also": ALSO},
    "lora (peft)": {"method": {"name": "lora"}, "also": ["visual_embedding.*", "biases"]},
    "adapter, visual embedding frozen": {"method": {"name": "adapter"}, "also": []},
    "adapter in the top half, visual embedding frozen": {"method": {"name": "adapter", "sites": TOP}, "also": []},
    "the same, cached": {"method": {"name": "adapter", "sites": TOP}, "also": [], "cache": True},
    "lora in the top half, cached": {
        "method": {
            "name": "lora",
            "sites": ["encoder.3-5.*.q", "encoder.3-5.*.v", "decoder.3-5.*.q", "decoder.3-5.*.v"],
        },
        "also": [],
        "cache": True,
    },
}


def measure(name: str, batch_size: int, steps: int, device: str, dtype: str) -> dict[str, Any]:
    """{"seconds", "peak_mb", "trainable", "frozen_layers"} of one variant."""
    import torch

    from crossgraft.adapt import AdaptedModel
    from crossgraft.adapt.prefix import frozen_layers
    from crossgraft.config import from_mapping
    from crossgraft.methods import get_method
    from crossgraft.methods.attach import attach, parameter_counts
    from crossgraft.models.architecture import language_config
    from crossgraft.models.seq2seq import VisionSeq2Seq, VisionSeq2SeqConfig
    from crossgraft.reporting.results import peak_memory_mb
    from crossgraft.training.forms.seq2seq import weighted_loss
    from crossgraft.training.prefix_cache import PrefixCache

    torch.manual_seed(0)
    variant = VARIANTS[name]
    language = language_config("facebook/bart-base")
    language.vocab_size += 200
    model = AdaptedModel(VisionSeq2Seq(VisionSeq2SeqConfig(language, WIDTH, 2)).to(device))
    options = dict(variant["method"])
    method = from_mapping(get_method(options.pop("name")), options, name)
    attach(model, "new", method, also_train=variant["also"])
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-4)
    inputs = {
        "input_ids": torch.randint(3, 50000, (batch_size, TEXT), device=device),
        "attention_mask": torch.ones(batch_size, TEXT, dtype=torch.long, device=device),
        "visual": torch.randn(batch_size, 1, IMAGE, WIDTH, device=device),
    }
    labels = torch.randint(3, 50000, (batch_size, ANSWER), device=device)
    weights = torch.ones(batch_size, device=device)
    layers = frozen_layers(model)
    model.train()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        cache = PrefixCache(Path(folder))
        for _ in range(steps + 2):  # the first fills the cache, the second warms up
            started = time.perf_counter()
            given: dict[str, Any] = inputs
            if variant.get("cache"):
                given = {
                    "prefix": cache.prefix(model.backbone, layers, range(batch_size), inputs, torch.device(device))
                }
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = weighted_loss(model(**given, labels=labels).logits, labels, weights)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([v for group in optimizer.param_groups for v in group["params"]], 5.0)
            optimizer.step()
            optimizer.zero_grad()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device != "cpu" else peak_memory_mb()
    return {
        "seconds": statistics.median(seconds[2:]),
        "peak_mb": peak,
        "trainable": parameter_counts(model)["trainable"],
        "frozen_layers": layers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--name", default="bart-base")
    parser.add_argument("--machine", default=f"{platform.machine()}, {os.cpu_count()} cores")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(
            json.dumps(measure(arguments.one, arguments.batch_size, arguments.steps, arguments.device, arguments.dtype))
        )
        return
    rounds = []
    for _ in range(arguments.rounds):
        rounds.append({name: in_process(name, arguments) for name in VARIANTS})
    rows = []
    for name in VARIANTS:
        runs = [one[name] for one in rounds]
        ratios = [one[name]["seconds"] / one["full"]["seconds"] for one in rounds]
        rows.append(
            {
                "variant": name,
                "seconds": statistics.median(run["seconds"] for run in runs),
                "ratio": statistics.median(ratios),
                "ratios": ratios,
                "peak_mb": max(run["peak_mb"] for run in runs),
                "trainable": runs[0]["trainable"],
                "frozen_layers": runs[0]["frozen_layers"],
            }
        )
    settings = {key: getattr(arguments, key) for key in ("rounds", "steps", "batch_size", "device", "dtype", "machine")}
    tokens = {"text": TEXT, "visual": IMAGE, "answer": ANSWER}
    document = {"settings": settings, "tokens": tokens, "variants": rows}
    result_file("step_time", arguments.name).write_text(json.dumps(document, indent=1) + "\n")
    table = Table("variant", "trainable", "s/step", "of full", "peak MB", "frozen encoder layers")
    for row in rows:
        table.add_row(
            row["variant"],
            f"{row['trainable']:,}",
            f"{row['seconds']:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['peak_mb']:.0f}",
            str(row["frozen_layers"]),
        )
    Console().print(table)


def in_process(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    options = ["--batch-size", "--steps", "--device", "--dtype"]
    given = [arguments.batch_size, arguments.steps, arguments.device, arguments.dtype]
    pairs = [str(part) for pair in zip(options, given, strict=True) for part in pair]
    command = [sys.executable, __file__, "--one", name, *pairs]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


if __name__ == "__main__":
    main()
