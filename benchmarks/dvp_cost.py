"""What an image costs a language model: FLOPs and milliseconds of a dynamic visual prompt and of all visual tokens.

    python benchmarks/dvp_cost.py

FLOPs are counted by torch.utils.flop_counter on the model alone (image encoder excluded), for one sample. Milliseconds
are for a batch, in evaluation, random weights; every variant in each round, and a ratio is the median over rounds of a
variant's time over that of all visual tokens in the same round. The 7-billion-parameter LLaMA is counted, not run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from common import result_file
from crossgraft.adapt import AdaptedModel
from crossgraft.methods.attach import attach
from crossgraft.methods.base import Method
from crossgraft.methods.dvp import DVP
from crossgraft.methods.visual_tokens import VisualTokens
from crossgraft.models.architecture import language_config
from crossgraft.models.classifier import VisionClassifier, VisionClassifierConfig

WIDTH, CLASSES = 768, 3129
POCKET_LLAMA = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}


@dataclass(frozen=True)
class Shape:
    """A language model: how it is made, its layers, and whether it is small enough to be run here."""

    config: PreTrainedConfig
    layers: int
    runs: bool = True

    def model(self) -> nn.Module:
        if self.config.model_type == "llama":
            return AutoModelForCausalLM.from_config(self.config).eval()
        return VisionClassifier(VisionClassifierConfig(self.config, CLASSES)).eval()


def shapes() -> dict[str, Shape]:
    pocket = AutoConfig.for_model("llama", vocab_size=49152, num_key_value_heads=3, **POCKET_LLAMA)
    return {
        "BERT-base": Shape(language_config("bert-base-uncased"), 12),
        "T5-base": Shape(language_config("t5-base"), 12),
        "LLaMA, SmolLM2-135M's shape": Shape(pocket, 30),
        "LLaMA-7B": Shape(language_config("llama-7b"), 32, runs=False),
    }


def variants(layers: int) -> dict[str, Method | None]:
    """Name -> method; None is text alone."""
    return {
        "all visual tokens, layer 0": VisualTokens(feature_width=WIDTH),
        "one projected token, layer 0": VisualTokens(pool="mean", feature_width=WIDTH),
        **{
            f"dynamic prompt, layer {layer}": DVP(layer=layer, query="mean", feature_width=WIDTH)
            for layer in (0, layers // 2, layers - 1)
        },
        "text alone": None,
    }


def adapted(shape: Shape, method: Method | None, device: str) -> AdaptedModel:
    with torch.device(device):
        model = AdaptedModel(shape.model())
        if method is not None:
            attach(model, "visual", method)
    return model.eval()


def inputs(batch: int, text: int, image: int, device: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return {"input_ids": torch.full((batch, text), 5, device=device)}, torch.zeros(batch, image, WIDTH, device=device)


@torch.no_grad()
def flops(model: AdaptedModel, method: Method | None, text: int, image: int, device: str) -> int:
    """Of one sample; on the meta device nothing is computed."""
    batch, visual = inputs(1, text, image, device)
    with model.remembering(visual=visual if method is not None else None), FlopCounterMode(display=False) as counter:
        model(**batch)
    return int(counter.get_total_flops())


@torch.no_grad()
def seconds(model: AdaptedModel, visual: torch.Tensor | None, batch: dict[str, torch.Tensor], repeats: int) -> float:
    with model.remembering(visual=visual):
        model(**batch)
        started = time.perf_counter()
        for _ in range(repeats):
            model(**batch)
        if visual is not None and visual.is_cuda:
            torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def measure(shape: Shape, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    timed: dict[str, list[float]] = {}
    methods, device = variants(shape.layers), arguments.device if shape.runs else "meta"
    torch.manual_seed(0)
    models = {name: adapted(shape, method, device) for name, method in methods.items()}
    if shape.runs:
        batch, visual = inputs(arguments.batch_size, arguments.text, arguments.image, device)
        for _ in range(arguments.rounds):
            for name, model in models.items():
                shown = None if methods[name] is None else visual
                timed.setdefault(name, []).append(seconds(model, shown, batch, arguments.repeats))
    full = next(iter(methods))
    lengths = arguments.text, arguments.image
    counts = {name: flops(models[name], method, *lengths, device) for name, method in methods.items()}
    for name in methods:
        row: dict[str, Any] = {"variant": name, "flops": counts[name], "flops_ratio": counts[name] / counts[full]}
        if timed:
            ratios = [one / other for one, other in zip(timed[name], timed[full], strict=True)]
            ms = 1000 * statistics.median(timed[name]) / arguments.batch_size
            row |= {"ms_per_sample": ms, "time_ratio": statistics.median(ratios), "time_ratios": ratios}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=int, default=16)
    parser.add_argument("--image", type=int, default=197)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--machine", default=f"{platform.machine()}, {os.cpu_count()} cores")
    arguments = parser.parse_args()
    found = {name: measure(shape, arguments) for name, shape in shapes().items()}
    document = {"settings": vars(arguments), "models": found}
    result_file("dvp_cost").write_text(json.dumps(document, indent=1) + "\n")
    table = Table("model", "variant", "GFLOPs", "of all", "ms a sample", "of all")
    for model, rows in found.items():
        for row in rows:
            timed = (f"{row['ms_per_sample']:.2f}", f"{row['time_ratio']:.2f}") if "ms_per_sample" in row else ("", "")
            table.add_row(model, row["variant"], f"{row['flops'] / 1e9:.2f}", f"{row['flops_ratio']:.3f}", *timed)
    Console().print(table)


if __name__ == "__main__":
    main()
