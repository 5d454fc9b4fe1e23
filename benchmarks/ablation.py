"""What each part of XMAdapter is worth: one part changed at a time, everything else as it is.

    python benchmarks/ablation.py DATA [--split split.json] --model pocket-lite

Protocol none, shots 1, 2, 4, 8, 16, seeds 1, 2, 3: every variant learns from the same support photos, and its
difference to the default is taken seed by seed. The published form, whose training takes longest, is trained with the
first seed only. Written to benchmarks/results/ablation-<data>-<model>.json;
docs/xmadapter.md says what follows from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from common import SEEDS, data_options, encoder_of, encoder_options, machine, result_file
from crossgraft.encoders.base import Encoder
from crossgraft.encoders.store import default_store
from crossgraft.fewshot import XMAdapter, register
from crossgraft.fewshot.cache import affinity, entropy_ratio
from crossgraft.fewshot.data import ImageData, load_data
from crossgraft.fewshot.features import Support
from crossgraft.fewshot.run import Fit, run_fewshot
from crossgraft.fewshot.support_choice import text_weights
from crossgraft.fewshot.training import seeded, train
from crossgraft.files import write_json
from crossgraft.reporting.results import summary, versions

EPOCHS, LEARNING_RATE, BATCH = 20, 1e-3, 256  # Tip-Adapter-F's


@register("xmadapter-per-query")
class PerQuery(XMAdapter):
    """A ratio for each query on top of the learned one: the text votes count 2 H_I / (H_I + H_T) as much.

    H_I and H_T are the entropies of softmax(t A_I a) and softmax(t A_T): the surer a cache is, the more it counts.
    """

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        image, text = self._affinities(embedding, key) @ self.coef_, self._text_cache()(embedding)
        share = 1 - entropy_ratio(*((self.temperature_ * votes).softmax(dim=1) for votes in (image, text)))
        weights = text_weights(self.ratio_, self.labels_, len(self.texts_))
        return self.temperature_ * (self.ratio_ * image + 2 * share * weights * text)


@register("xmadapter-trained")
class Trained(XMAdapter):
    """The image cache's keys trained on from the closed form, by cross-entropy; a photo does not see itself."""

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        random_state: int | np.random.RandomState | None = 0,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(text, classes, logit_scale, device=device)
        self.random_state = random_state

    def _fit(self, support: Support) -> int:
        super()._fit(support)
        queries, keys = self.keys_, self.keys_.clone().requires_grad_()
        text = text_weights(self.ratio_, self.labels_, support.n_classes) * self._text_cache()(support.embedding)

        def loss(batch: Tensor) -> Tensor:
            image = affinity(queries[batch] @ keys.T, self.beta_i_).scatter(1, batch[:, None], 0.0)
            logits = self.temperature_ * (self.ratio_ * image @ self.coef_ + text[batch])
            return functional.cross_entropy(logits, self.labels_[batch])

        train(
            [keys],
            loss,
            len(keys),
            epochs=EPOCHS,
            lr=LEARNING_RATE,
            batch_size=BATCH,
            generator=seeded(self.random_state),
        )
        self.keys_ = keys.detach()
        return keys.numel()


@dataclass(frozen=True)
class Variant:
    """A row: what it is called, the method, and the parameters that differ from its defaults."""

    name: str
    method: str = "xmadapter"
    params: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: SEEDS)


DEFAULT = Variant("default: learned ratio")
PAPER, FIRST = "xmadapter-paper", SEEDS[:1]
VARIANTS = (
    DEFAULT,
    Variant("image cache only", params={"ratio": 1.0, "coupling": 0.0}),
    Variant("text cache only", params={"ratio": 0.0}),
    Variant("fixed ratio 0.87", params={"ratio": 0.87}),
    Variant("ratio for each query", "xmadapter-per-query"),
    Variant("no coupling of classes", params={"coupling": 0.0}),
    Variant("coupling 0.98, always", params={"coupling": 0.98}),
    Variant("hard-sample weights, eta 1", params={"eta": 1.0}),
    Variant("no nuisance damping", params={"shrinkage": 1e6}),
    Variant("keys without the embedding", params={"aligned": 0.0}),
    Variant("linear text affinity, beta_t 0.05", params={"beta_t": 0.05}),
    Variant("sharp text affinity, beta_t 0.5", params={"beta_t": 0.5}),
    Variant("keys trained on", "xmadapter-trained"),
    Variant("as published: trained, learned ratio", PAPER, seeds=FIRST),
    Variant("as published: trained, ratio by entropy", PAPER, {"ratio": "entropy"}, FIRST),
    Variant("as published: trained, fixed ratio 0.5", PAPER, {"ratio": 0.5}, FIRST),
    Variant("as published: trained, no hard-sample weights", PAPER, {"eta": 0.0}, FIRST),
    Variant("as published: training-free, ratio 0.5", PAPER, {"train": False}),
    Variant("as published: training-free, ratio by entropy", PAPER, {"train": False, "ratio": "entropy"}),
    Variant("for comparison: ProKeR", "proker"),
)


def fits_of(variant: Variant, data: ImageData, encoder: Encoder, shots: Sequence[int]) -> dict[int, list[Fit]]:
    """Number of shots -> a fit a seed."""
    found: dict[int, list[Fit]] = {k: [] for k in shots}
    run_fewshot(
        data,
        encoder,
        default_store(encoder),
        methods=[variant.method],
        shots=shots,
        seeds=variant.seeds,
        params=variant.params,
        calibrate=False,
        progress=False,
        on_fit=lambda fit: found[int(fit.shots)].append(fit),
    )
    return found


def rows_of(variant: Variant, fits: dict[int, list[Fit]], default: dict[int, list[Fit]]) -> list[dict[str, Any]]:
    """One record a number of shots; the difference is to the default's fit of the same seed. Percent and points."""
    rows = []
    for k, seeds in fits.items():
        accuracy = {fit.seed: fit.metrics["test"]["accuracy"] for fit in seeds}
        reference = {fit.seed: fit.metrics["test"]["accuracy"] for fit in default[k]}
        row = {
            "variant": variant.name,
            "method": variant.method,
            "params": variant.params,
            "shots": k,
            "seeds": list(accuracy),
            "accuracy": summary(list(accuracy.values())),
            "difference": summary([value - reference[seed] for seed, value in accuracy.items()]),
            "trained_parameters": seeds[0].classifier.n_parameters_,
        }
        if variant is DEFAULT:
            row["ratio"] = [fit.classifier.ratio_.item() for fit in seeds]
            row["coupling"] = [fit.classifier.coupling_.item() for fit in seeds]
        rows.append(row)
    return rows


def table_of(rows: Sequence[dict[str, Any]], shots: Sequence[int]) -> Table:
    """Variants down, shots across: the default's accuracy, the others' differences to it; spreads are in the JSON."""
    table = Table(
        title="accuracy in %; others: points more than the default", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("variant")
    for k in shots:
        table.add_column(str(k), justify="right", no_wrap=True)
    for name in dict.fromkeys(row["variant"] for row in rows):
        of = {row["shots"]: row for row in rows if row["variant"] == name}
        if name == DEFAULT.name:
            cells = [f"{of[k]['accuracy']['mean']:.1f}" for k in shots]
        else:
            cells = [f"{of[k]['difference']['mean']:+.1f}" for k in shots]
        table.add_row(name, *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_options(parser)
    encoder_options(parser)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    data = load_data(arguments.data, split=arguments.split)
    encoder = encoder_of(arguments)

    rows: list[dict[str, Any]] = []
    default: dict[int, list[Fit]] = {}
    for variant in VARIANTS:
        fits = fits_of(variant, data, encoder, arguments.shots)
        default = default or fits
        rows += rows_of(variant, fits, default)
        console.print(variant.name)
    document = {
        "schema_version": 1,
        "task": "ablation of xmadapter",
        "protocol": "none",
        "seeds": SEEDS,
        "default": DEFAULT.name,
        "backbone": encoder.identity | {"device": str(encoder.device)},
        "data": {"name": data.name, "fingerprint": data.fingerprint, "classes": len(data.classes)},
        "rows": rows,
        "machine": machine(encoder),
        "versions": versions(),
    }
    target = result_file("ablation", arguments.name or data.name, Path(encoder.name).name)
    write_json(target, document)
    console.print(table_of(rows, arguments.shots))
    console.print(f"written: {target}")


if __name__ == "__main__":
    main()
