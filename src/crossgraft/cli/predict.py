"""`crossgraft predict`: classes for images, with a saved classifier."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossgraft.cli.options import Device, Json, print_json, say
from crossgraft.errors import InputError

if TYPE_CHECKING:
    from crossgraft.fewshot.predictor import Prediction


def predict(
    adapter: Annotated[Path, typer.Argument(help="Adapter folder that `crossgraft fewshot` saved.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to show an image.")] = 3,
    explain: Annotated[bool, typer.Option(help="Which support photos and class texts voted, and how much.")] = False,
    reject: Annotated[
        float | None,
        typer.Option(
            help="Say 'unsure' unless labels are at least so accurate, such as 0.95; learned from the support."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the encoder is, if it moved; it has to be the same one.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Predict the class of images. An image that cannot be read costs that image only."""
    from crossgraft.fewshot.predictor import Predictor

    predictor = Predictor.load(adapter, model=model, device=device)
    predictions = predictor(images, top=top, explain=explain, reject=reject)
    support = predictor.config["extra"].get("support", [])
    if as_json:
        print_json(
            {
                "adapter": str(adapter),
                "method": predictor.classifier.method,
                "reject": None
                if reject is None
                else {"accuracy": reject, "threshold": predictor.classifier.threshold(reject)},
                "predictions": [_plain(p, support) for p in predictions],
            }
        )
    else:
        _print(predictions, support)
    if all(prediction.error for prediction in predictions):
        raise InputError("no image could be read: " + "; ".join(f"{p.image}: {p.error}" for p in predictions))


def _print(predictions: list[Prediction], support: list[str]) -> None:
    for prediction in predictions:
        if prediction.error:
            say(f"{prediction.image}: skipped, {prediction.error}")
            continue
        ranked = ", ".join(f"{name} {value:.1%}" for name, value in prediction.probabilities.items())
        typer.echo(f"{prediction.image}: unsure ({ranked})" if prediction.unsure else f"{prediction.image}: {ranked}")
        if prediction.evidence:
            _print_evidence(_plain(prediction, support)["evidence"])


def _plain(prediction: Prediction, support: list[str]) -> dict[str, Any]:
    plain = asdict(prediction)
    for vote in (plain["evidence"] or {}).get("supports", []):
        vote["image"] = support[vote["index"]] if vote["index"] < len(support) else None
    return plain


def _print_evidence(evidence: dict[str, Any]) -> None:
    ratio = "" if evidence["ratio"] is None else f" (ratio {evidence['ratio']:.2f})"
    typer.echo(f"  texts {evidence['text_share']:.0%}, support photos {evidence['image_share']:.0%}{ratio}")
    nearest = ", ".join(f"{match['label']} {match['cosine']:.2f}" for match in evidence["texts"])
    typer.echo(f"  nearest texts: {nearest}")
    for vote in evidence["supports"]:
        typer.echo(f"  {vote['contribution']:+.3f}  {vote['label']}: {vote['image']}")
