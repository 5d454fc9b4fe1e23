"""Object colours after adaptation on captions: X-adapter and all of its controls, at equal steps.

    python benchmarks/xadapter_colors.py recipes/pocket/xadapter-llama.yaml data=DATA training.max_steps=250 \\
        --colors DATA/text/color_terms/color-concrete-objects.csv DATA/text/coda --machine "..."

Zero-shot: nothing of the data sets is learned from. Each number is a mean over prompts, with its range and the 95 %
bootstrap interval over objects; "minus text" is the paired difference to adapters of equal size that learned the same
captions without images. Images are looked for with the object's name, of `--oracle` also by sentence and by label.
"Labelled" are the objects that the bank has images of by their files' names: there `label` is an oracle of retrieval.
What was trained already (in --work) is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common import result_file
from crossgraft.tasks.metrics import color_scores as metrics
from crossgraft.training.colors_run import ANSWERS, RESULTS, Answers, read_answers
from trainings import SETTINGS, SPENT, said, slug, spend

UNTOUCHED, TEXT = "untouched", "captions, no images"
WAYS = {"object": "", "sentence": ", images by sentence", "label": ", images by label"}
VARIANTS = {
    TEXT: ["method={name: adapter, bottleneck: 258, sites: ['decoder.15-29.output']}"],
    "both": [],
    "V-expert": ["method.experts=[visual]"],
    "T-expert": ["method.experts=[text]"],
    "random images": ["method.experts=[visual]", "knowledge.choice=random", "knowledge.own=false"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("changes", nargs="*", help="key=value, as for `crossgraft train`")
    parser.add_argument("--colors", type=Path, nargs="+", required=True, help="data sets of object colours")
    parser.add_argument("--variants", type=lambda text: text.split(";"), default=list(VARIANTS), help="separated by ;")
    parser.add_argument("--oracle", default="both", help="the variant that is also asked with images by other ways")
    parser.add_argument(
        "--ways",
        type=lambda text: [part for part in text.split(",") if part],
        default=["sentence", "label"],
        help="which, of sentence and label",
    )
    parser.add_argument("--prompts", type=Path, help="prompts of your own, as for `crossgraft colors`")
    parser.add_argument("--name", default="pocket-llama", help="of the results")
    parser.add_argument("--model", default="pocket-llama")
    parser.add_argument("--work", type=Path, default=Path("runs/xadapter-colors"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--machine", default=f"{platform.machine()}, {os.cpu_count()} cores")
    arguments = parser.parse_intermixed_args()
    if wrong := ({*arguments.variants} - {*VARIANTS}) | ({*arguments.ways} - {*WAYS}):
        parser.error(f"unknown: {', '.join(sorted(wrong))}; variants: {'; '.join(VARIANTS)}; ways: {', '.join(WAYS)}")
    if arguments.oracle not in {"both", *arguments.variants} & {"both", "V-expert"}:
        parser.error(f"--oracle {arguments.oracle}: choose both, or V-expert if it is among --variants")
    chosen = {name: changes for name, changes in VARIANTS.items() if name in {TEXT, "both", *arguments.variants}}
    trained = {name: train(arguments, name, changes) for name, changes in chosen.items()}
    rows = []
    for data in arguments.colors:
        asked = [(TEXT, "object"), (UNTOUCHED, "object"), *((name, "object") for name in trained if name != TEXT)]
        asked += [(arguments.oracle, way) for way in arguments.ways]
        outs = {(name, way): answers(arguments, data, trained.get(name), name, way) for name, way in asked}
        control = read_answers(outs[TEXT, "object"] / ANSWERS)
        labelled = labels(outs.get((arguments.oracle, "label")))
        for (name, way), out in outs.items():
            own = read_answers(out / ANSWERS)
            difference = None if name == TEXT else metrics.paired_difference(100.0 * own.right, 100.0 * control.right)
            rows.append(
                {"variant": name + WAYS[way], "trained": name, **row(out), **on_labelled(own, control, labelled)}
                | {"minus_text": None if difference is None else difference._asdict()}
            )
    document = {
        "model": arguments.model,
        "recipe": str(arguments.recipe),
        "changes": said(arguments.changes),
        "machine": arguments.machine,
        "variants": chosen,
        "trainings": {name: summary(run) for name, run in trained.items()},
        "results": rows,
    }
    result_file("xadapter_colors", arguments.name).write_text(json.dumps(document, indent=1) + "\n")
    show(document)


def train(arguments: argparse.Namespace, name: str, changes: list[str]) -> Path:
    out: Path = arguments.work / slug(name)
    if not (out / RESULTS).is_file():
        resume = ["--resume"] if (out / "recipe.json").is_file() else []
        command = [sys.executable, "-m", "crossgraft.cli.main", "train", str(arguments.recipe), *arguments.changes]
        spend(out, [*command, *changes, f"out={out}", *resume, "--device", arguments.device])
    return out


def answers(arguments: argparse.Namespace, data: Path, run: Path | None, name: str, way: str) -> Path:
    """`crossgraft colors`, unless it is done -> its folder."""
    out: Path = arguments.work / f"{slug(name)}-{way}-{data.stem}"
    if not (out / RESULTS).is_file():
        command = [sys.executable, "-m", "crossgraft.cli.main", "colors", "--model", arguments.model]
        command += ["--data", str(data), "--out", str(out), "--device", arguments.device, "--json"]
        command += [] if arguments.prompts is None else ["--prompts", str(arguments.prompts)]
        command += [] if run is None else ["--adapter", str(run)]
        command += [] if name in (TEXT, UNTOUCHED) else ["--look-for", way, "--explain"] if has_images(run) else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


def has_images(run: Path | None) -> bool:
    """Whether a run's experts look at images."""
    return run is not None and "bank" in (json.loads((run / RESULTS).read_text())["knowledge"] or {})


def row(out: Path) -> dict[str, Any]:
    """What is kept of results."""
    found = json.loads((out / RESULTS).read_text())
    colors = found["colors"]
    kept = {
        key: colors[key] for key in ("prompts", "mean", "range", "mean_without_bias", "range_without_bias", "majority")
    }
    return {"data": found["data"], **kept, "seconds": found["seconds"]}


def labels(out: Path | None) -> set[str]:
    return set() if out is None else set(json.loads((out / RESULTS).read_text())["labelled"])


def on_labelled(own: Answers, control: Answers, labelled: set[str]) -> dict[str, Any]:
    """Accuracy on the objects that the bank has images of by label, and its difference to the control's."""
    chosen = [phrase in labelled for phrase, _ in own.objects]
    if not any(chosen):
        return {"labelled": None}
    right, other = 100.0 * own.right[:, chosen], 100.0 * control.right[:, chosen]
    difference = None if own.path == control.path else metrics.paired_difference(right, other)._asdict()
    found = {"objects": sum(chosen), **metrics.bootstrap(right.mean(0))._asdict(), "minus_text": difference}
    return {"labelled": found}


def summary(run: Path) -> dict[str, Any]:
    found = json.loads((run / RESULTS).read_text())
    kept = ("parameters", "steps", "seeds", "seconds", "mean_score", "knowledge", "data", "versions")
    settings = {key: found["settings"][key] for key in SETTINGS}
    return {key: found[key] for key in kept} | {
        "settings": settings,
        "cpu_seconds": json.loads((run / SPENT).read_text()),
    }


def show(document: dict[str, Any]) -> None:
    table = Table("data", "variant", "% trained", "mean", "95 %", "range", "without bias", "minus text", "labelled")
    for entry in document["results"]:
        trained = document["trainings"].get(entry["trained"])
        control, mean, labelled = entry["minus_text"], entry["mean"], entry["labelled"]
        table.add_row(
            entry["data"]["name"],
            entry["variant"],
            "" if trained is None else f"{trained['parameters']['percent']:.2f}",
            f"{mean['mean']:.1f}",
            f"{mean['low']:.1f}-{mean['high']:.1f}",
            f"{entry['range'][0]:.1f}-{entry['range'][1]:.1f}",
            f"{entry['mean_without_bias']['mean']:.1f}",
            "" if control is None else f"{control['mean']:+.1f} ({control['low']:+.1f} to {control['high']:+.1f})",
            "" if labelled is None else f"{labelled['mean']:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
