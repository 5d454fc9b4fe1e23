"""From images to class probabilities with a saved classifier and its frozen encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from PIL.Image import Image
from torch import Tensor

from crossgraft.encoders.base import Encoder
from crossgraft.encoders.encode_shards import default_batch_size, keep_freed_memory
from crossgraft.encoders.images import UnreadableImage
from crossgraft.encoders.load import load_encoder
from crossgraft.errors import InputError
from crossgraft.fewshot.base import FewShotClassifier
from crossgraft.fewshot.persist import load_classifier, read_config
from crossgraft.files import read_json


@dataclass(frozen=True)
class Prediction:
    """What was predicted for one image; `error` says why not, where it could not be read (the rest is then empty).

    `probabilities` maps the likeliest classes to probabilities, highest first. `unsure` is true where the highest is
    below the threshold of the accuracy asked for; there is no `label` then. `evidence` is there if asked for.
    """

    image: str
    label: str | None
    probability: float | None
    probabilities: dict[str, float]
    error: str | None = None
    evidence: Any = None
    unsure: bool = False


class Predictor:
    """A loaded classifier; calling it predicts images. Build one with `Predictor.load`."""

    def __init__(self, classifier: FewShotClassifier, encoder: Encoder, config: dict[str, Any]) -> None:
        self.classifier, self.encoder, self.config = classifier, encoder, config
        self._with_feature = config["extra"]["key"] == "feature"

    @classmethod
    def load(
        cls, folder: Path | str, *, model: str | None = None, device: str = "auto", dtype: str | None = None
    ) -> Self:
        """Load an adapter folder and the encoder it was trained on.

        Args:
            folder: what `crossgraft fewshot` wrote under adapters/, or an output folder that holds just one adapter.
            model: where the encoder is now, if not where it was (name or folder); its fingerprint has to be the same.
            device: a torch device or "auto".
            dtype: precision of the encoder; default is the one the classifier was trained with.

        Raises:
            InputError: no adapter there, a damaged one, or another encoder.
        """
        path = adapter_folder(Path(folder))
        config = read_config(path)
        trained, extra = config.get("encoder"), config.get("extra")
        if (
            not isinstance(trained, dict)
            or not all(isinstance(trained.get(key), str) for key in ("name", "dtype"))
            or not isinstance(extra, dict)
            or extra.get("key") not in ("feature", "embedding")
            or not isinstance(extra.get("support", []), list)
        ):
            raise InputError(
                f"{path / 'adapter_config.json'}: encoder and extra do not say what made the features; only adapters "
                "of `crossgraft fewshot` can predict images"
            )
        draft = bool(trained.get("draft", False))
        encoder = load_encoder(model or trained["name"], device=device, dtype=dtype or trained["dtype"], draft=draft)
        if encoder.device.type == "cpu":
            keep_freed_memory()
        classifier = load_classifier(path, encoder_fingerprint=encoder.fingerprint)
        return cls(classifier, encoder, config)

    def __call__(
        self, images: Sequence[Path | str | Image], *, top: int = 5, explain: bool = False, reject: float | None = None
    ) -> list[Prediction]:
        """Predict images (paths or PIL images), in order. An image that cannot be read gets an `error`.

        Args:
            top: how many classes to name for each.
            reject: name a label only where such labels are at least so accurate (0 to 1), with 90 % confidence
                (`FewShotClassifier.threshold`).

        Raises:
            InputError: one image instead of a list; `explain` with a method that keeps no evidence; `reject` with a
                classifier that has no threshold for it.
        """
        _refuse_one_image(images)
        if explain and not hasattr(self.classifier, "explain"):
            raise InputError(
                f"method {self.classifier.method} keeps no evidence to explain; use a cache method such as proker"
            )
        threshold = 0.0 if reject is None else self.classifier.threshold(reject)
        names = [str(image) if isinstance(image, str | Path) else f"image {i}" for i, image in enumerate(images)]
        predictions = []
        for start, X, errors in self._encoded(images):
            probabilities = iter(() if X is None else torch.from_numpy(self.classifier.predict_proba(X)))
            evidence: Any = iter(self.classifier.explain(X) if explain and X is not None else ())
            for name, error in zip(names[start:], errors, strict=False):
                if error is None:
                    made = self._prediction(name, next(probabilities), top, threshold, next(evidence, None))
                else:
                    made = Prediction(name, None, None, {}, error)
                predictions.append(made)
        return predictions

    def features(self, images: Sequence[Path | str | Image]) -> tuple[Tensor | None, list[str | None]]:
        """Images (paths or PIL images) -> X (n, p) of those that can be read, as the classifier takes them, or None.

        The list says why not, for each image that cannot be read, and None for the others.

        Raises:
            InputError: one image instead of a list.
        """
        _refuse_one_image(images)
        parts: list[Tensor] = []
        errors: list[str | None] = []
        for _, X, failed in self._encoded(images):
            parts += [] if X is None else [X]
            errors += failed
        return torch.cat(parts) if parts else None, errors

    def _encoded(self, images: Sequence[Path | str | Image]) -> Iterator[tuple[int, Tensor | None, list[str | None]]]:
        """Batch by batch: where it starts, X (n, p) of what can be read of it or None, and what `features` says."""
        size = default_batch_size(self.encoder.device)
        for start in range(0, len(images), size):
            pixels: list[Tensor] = []
            errors: list[str | None] = []
            for image in images[start : start + size]:
                try:
                    pixels.append(self.encoder.preprocess(image))
                    errors.append(None)
                except UnreadableImage as error:
                    errors.append(error.reason)
            X = None
            if pixels:
                output = self.encoder.encode_images(torch.stack(pixels))
                X = torch.cat([output.embedding, output.feature], dim=1) if self._with_feature else output.embedding
            yield start, X, errors

    def _prediction(self, name: str, probabilities: Tensor, top: int, threshold: float, evidence: Any) -> Prediction:
        values, rows = probabilities.topk(min(top, len(probabilities)))
        ranked = {
            str(self.classifier.classes_[row]): value for row, value in zip(rows.tolist(), values.tolist(), strict=True)
        }
        label = next(iter(ranked))
        unsure = ranked[label] < threshold
        return Prediction(name, None if unsure else label, ranked[label], ranked, evidence=evidence, unsure=unsure)


def _refuse_one_image(images: object) -> None:
    if isinstance(images, str | Path | Image):
        raise InputError("expected a list of images; put the one image into a list")


def adapter_folder(folder: Path) -> Path:
    """The adapter folder that is meant: itself, or that of an output folder's last run if it was of one method."""
    if (folder / "adapter_config.json").is_file():
        return folder
    inside = sorted(path.parent for path in folder.glob("adapters/[!.]*/adapter_config.json"))
    if len(inside) > 1 and (folder / "results.json").is_file():
        last = read_json(folder / "results.json")  # earlier runs may have left theirs
        inside = [path for path in inside if isinstance(last, dict) and path.name == last.get("method")] or inside
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise InputError(f"{folder} holds {len(inside)} adapters; name one: {', '.join(str(path) for path in inside)}")
    raise InputError(f"{folder}: no adapter here (no adapter_config.json); make one with `crossgraft fewshot`")
