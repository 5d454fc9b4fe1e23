"""Accuracy over FLOPs of what `dvp_tasks` measured: JSON and a page with one chart for each language model and task.

    python benchmarks/dvp_plot.py benchmarks/results/dvp_tasks-*.json

FLOPs are of the language model for one sample, its adapters and head included and the image encoder not, by
torch.utils.flop_counter (random weights); text of --text tokens, an image of as many tokens as the recipe's grid.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from common import RESULTS
from crossgraft.adapt import AdaptedModel
from crossgraft.reporting.charts import Line, Point, both_widths, line_chart
from crossgraft.reporting.markup import Markup, join, tag
from crossgraft.reporting.report import page
from crossgraft.training.build import put_methods
from crossgraft.training.forms import form_of
from crossgraft.training.recipe import recipe_from
from crossgraft.training.visual import known_width

STYLES = 6  # marks that the page tells apart
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)  # GFLOPs


@torch.no_grad()
def flops(settings: dict[str, Any], text: int) -> int:
    """Of one sample of a run with these settings."""
    recipe = recipe_from({"name": "cost", **settings}, "settings")
    form, width = form_of(recipe, {}), known_width(recipe.visual)
    model = AdaptedModel(form.laid_out(width))
    put_methods(model, recipe, form, {"feature_width": width})
    sees = any("feature_width" in vars(method) for method in recipe.methods().values())
    visual = torch.zeros(1, (recipe.visual.side or 14) ** 2, width) if sees else None
    batch = {"input_ids": torch.full((1, text), 5)}
    model.eval()
    with model.remembering(visual=visual), FlopCounterMode(display=False) as counter:
        model(**batch)
    return int(counter.get_total_flops())


def measured(path: Path, text: int) -> list[dict[str, Any]]:
    rows = json.loads(path.read_text())["methods"]
    return [
        {
            "method": row["method"],
            "gflops": flops(row["settings"], text) / 1e9,
            "accuracy": row["mean_score"]["test"],
            "std": row["std"]["test"],
        }
        for row in rows
    ]


def chart(name: str, rows: list[dict[str, Any]]) -> Markup:
    """One point a method, on a logarithmic scale; those with adapters have the mark of those without."""
    plain = [row["method"] for row in rows if not row["method"].endswith("adapters")]
    lines = []
    for row in rows:
        alone = row["method"].removesuffix(", adapters")
        says = f"{row['gflops']:.2f} GFLOPs, {row['accuracy']:.1f} ± {row['std']:.1f} %"
        point = Point(math.log10(row["gflops"]), row["accuracy"], says)
        lines.append(Line(row["method"], (point,), plain.index(alone) % STYLES if alone in plain else None))
    low, high = min(row["gflops"] for row in rows), max(row["gflops"] for row in rows)
    inside = [tick for tick in TICKS if low / 1.5 < tick < high * 1.5]
    below, above = max((t for t in TICKS if t <= low), default=low), min((t for t in TICKS if t >= high), default=high)
    ticks = [(math.log10(tick), f"{tick:g}") for tick in sorted({below, *inside, above})]
    return both_widths(
        lambda width: line_chart(lines, ticks, title=name, x_title="GFLOPs a sample", width=width, key=name)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="JSON of dvp_tasks")
    parser.add_argument("--text", type=int, default=12)
    arguments = parser.parse_args()
    found = {path.stem.removeprefix("dvp_tasks-"): measured(path, arguments.text) for path in arguments.results}
    document = {"text_tokens": arguments.text, "runs": found}
    (RESULTS / "dvp_plot.json").write_text(json.dumps(document, indent=1) + "\n")
    parts = [tag("section", tag("h2", name), tag("figure", chart(name, rows))) for name, rows in found.items()]
    heading = tag("h1", "Accuracy over what the language model computes for a sample")
    (RESULTS / "dvp_plot.html").write_text(
        page("accuracy over FLOPs", tag("article", join([heading, *parts]), class_="group")), encoding="utf-8"
    )
    print(RESULTS / "dvp_plot.html")


if __name__ == "__main__":
    main()
