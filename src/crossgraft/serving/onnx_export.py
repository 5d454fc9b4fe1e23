"""Export a saved classifier to ONNX, and prove on real inputs that the file gives what PyTorch gives."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from crossgraft import __version__
from crossgraft.encoders.images import UnreadableImage
from crossgraft.encoders.preprocess import Preprocess
from crossgraft.errors import CrossgraftError, InputError
from crossgraft.fewshot.base import FewShotClassifier
from crossgraft.fewshot.features import unit
from crossgraft.fewshot.linear_form import state_tensors
from crossgraft.fewshot.persist import TENSOR_FILE, load_classifier, read_config
from crossgraft.fewshot.predictor import Predictor, adapter_folder
from crossgraft.files import sha256_file, write_json
from crossgraft.serving.heads import Head, Pipeline

TOLERANCE = 1e-4
"""Largest difference from PyTorch that an export may have: of a probability, and of a logit over the largest logit."""

OPSET = 20
OPSETS = range(18, 24)  # what the exporter writes and onnxruntime 1.20 and later read
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ONE_FILE = 2**31 - 2**20  # bytes of weights that a protobuf, with a graph around them, can hold
_CHECKED = 8  # pictures, or times as many feature vectors, that an export is checked on


def export_onnx(
    adapter: Path | str, out: Path | str, *, head_only: bool = False, opset: int = OPSET, model: str | None = None
) -> dict[str, Any]:
    """Write a saved classifier as one ONNX file, and what it is as `OUT.json` beside it.

    The whole classifier takes `pixels` (n, 3, H, W) float32, the head alone `features` (n, p) float32, for any n; both
    give `logits` (n, N) and `probabilities` (n, N), calibrated if the classifier is. The file's metadata say how to
    prepare an image, the classes, the encoder and the method. Weights are float32 whatever precision the adapter was
    trained in.

    The new file is run by onnxruntime beside `encode_images` and `predict_proba`: on support photos that are still
    there, else on random pictures; a head alone on random features and on vectors of its own state. Files appear only
    if all differences are below `TOLERANCE`.

    Args:
        adapter: an adapter folder, or an output folder of `crossgraft fewshot` with one adapter.
        out: the file to write, *.onnx; one that is there is replaced.
        head_only: leave the encoder out; then the encoder is not loaded either.
        opset: version of ONNX's operators, 18 to 23.
        model: where the encoder is now, if not where it was.

    Returns:
        What is written to `OUT.json`: the metadata, and "agreement".

    Raises:
        InputError: a package of the extra `onnx` is absent; no adapter; another opset or file name; over 2 GiB.
        CrossgraftError: the classifier cannot be traced, or the exported file does not agree with PyTorch.
    """
    out = Path(out)
    if absent := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise InputError(f"export needs {', '.join(absent)}: run `pip install crossgraft[onnx]`")
    if out.suffix != ".onnx" or out.is_dir():
        raise InputError(f"{out}: name a file that ends in .onnx" + (", not a folder" if out.is_dir() else ""))
    if opset not in OPSETS:
        raise InputError(f"opset {opset} cannot be written; choose {OPSETS.start} to {OPSETS.stop - 1}")
    folder = adapter_folder(Path(adapter))
    about: dict[str, Any] = {"crossgraft_version": __version__, "input": "features" if head_only else "pixels"}
    if head_only:
        classifier = load_classifier(folder)
        config = read_config(folder)
        head = Head(classifier)
        module: nn.Module = head
        inputs = probe_features(classifier)
        expected = _expected(classifier, inputs)
        checked_on = "random features and vectors of the classifier's own"
    else:
        predictor = Predictor.load(folder, model=model, device="cpu", dtype="float32")
        classifier, config, encoder = predictor.classifier, predictor.config, predictor.encoder
        head = Head(classifier)
        with_feature = config["extra"]["key"] == "feature"
        module = Pipeline(encoder, head, with_feature=with_feature)
        inputs, checked_on = probe_pixels(encoder.preprocess, config["extra"].get("support", []))
        features = encoder.encode_images(inputs)
        parts = [features.embedding, features.feature] if with_feature else [features.embedding]
        expected = _expected(classifier, torch.cat(parts, dim=1))
        about["preprocess"] = encoder.preprocess.to_dict()
    about |= {
        "classes": config["classes"],
        "method": classifier.method,
        "linear": head.is_linear,
        "features": {"embedding": classifier.text_.shape[1], "columns": classifier.n_features_in_},
        "encoder": config["encoder"],
        "calibration_temperature": None if classifier.calibration_ is None else classifier.calibration_.temperature,
        "adapter_sha256": sha256_file(folder / TENSOR_FILE),
        "opset": opset,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as new:
        file = Path(new) / out.name
        _write(module, inputs, file, opset, about)
        report = about | {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
        report["agreement"] = _check(file, about["input"], inputs, expected) | {"checked_on": checked_on}
        os.replace(file, out)
    write_json(out.with_name(f"{out.name}.json"), report)
    return report


def probe_features(classifier: FewShotClassifier) -> Tensor:
    """Features (n, p) to check a head on: random directions, and vectors of its own state (class means, cache keys)
    with some noise, where caches and kernels are strongest.
    """
    generator = torch.Generator().manual_seed(0)
    d, p = classifier.text_.shape[1], classifier.n_features_in_
    X = unit(torch.randn(8 * _CHECKED, p, generator=generator))
    for columns in (slice(0, d), slice(d, p)):
        width = columns.stop - columns.start
        for own in state_tensors(classifier).values():
            if own.is_floating_point() and own.ndim == 2 and len(own) and own.shape[1] == width > 0:
                chosen = torch.randint(len(own), (4 * _CHECKED,), generator=generator)
                noise = torch.randn(len(chosen), width, generator=generator) / (4 * width**0.5)
                X[: len(chosen), columns] = unit(own.cpu().float()[chosen]) + noise
    return X


def probe_pixels(preprocess: Preprocess, support: Sequence[str]) -> tuple[Tensor, str]:
    """Pixels (n, 3, H, W) to check a whole classifier on, and in words what they are: support photos that can still be
    read, evenly chosen, else random pictures.
    """
    pixels = []
    for path in support[:: max(1, len(support) // _CHECKED)][:_CHECKED]:
        try:
            pixels.append(preprocess(path))
        except UnreadableImage:
            continue
    if pixels:
        return torch.stack(pixels), f"{len(pixels)} support photos"
    rng = np.random.default_rng(0)
    for _ in range(_CHECKED):
        coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        pixels.append(preprocess(coarse.resize((360, 280), Image.Resampling.BICUBIC)))
    return torch.stack(pixels), f"{len(pixels)} random pictures"


def _expected(classifier: FewShotClassifier, X: Tensor) -> dict[str, np.ndarray]:
    return {"logits": classifier.logits(X).cpu().numpy(), "probabilities": classifier.predict_proba(X)}


def _write(module: nn.Module, inputs: Tensor, file: Path, opset: int, about: dict[str, Any]) -> None:
    """Trace, convert, and write one file with its metadata."""
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module.eval(),
                (inputs[:2],),
                dynamo=True,
                opset_version=opset,
                input_names=[about["input"]],
                output_names=["logits", "probabilities"],
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().splitlines()
        raise CrossgraftError(
            f"method {about['method']} on this encoder cannot be traced for ONNX: {' '.join(cause)[:300]}"
        ) from error
    assert program is not None
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values() if value.const_value)
    if size > ONE_FILE:
        raise InputError(
            f"{file.name}: the encoder's weights take {size / 2**30:.1f} GiB, one ONNX file holds 2; export the head "
            "only"
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces with paths of this machine
    program.model.producer_name, program.model.producer_version = "crossgraft", __version__
    for key, value in about.items():
        program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    program.save(str(file), external_data=False)


def _check(file: Path, name: str, inputs: Tensor, expected: dict[str, np.ndarray]) -> dict[str, Any]:
    """Run the file on the first input, then on all; return the largest differences, or raise CrossgraftError."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    values = inputs.float().numpy()
    scale = max(1.0, float(np.abs(expected["logits"]).max()))
    worst = dict.fromkeys(expected, 0.0)
    for rows in (slice(0, 1), slice(None)):
        outputs = session.run(list(expected), {name: values[rows]})
        for (output, right), divisor in zip(zip(outputs, expected.items(), strict=True), (scale, 1.0), strict=True):
            key, wanted = right
            difference = np.abs(output - wanted[rows]).max() / divisor
            worst[key] = float(max(worst[key], difference if np.isfinite(difference) else np.inf))
    same = outputs[0].argmax(axis=1) == expected["logits"].argmax(axis=1)
    if max(worst.values()) >= TOLERANCE:
        raise CrossgraftError(
            f"the exported graph does not give what PyTorch gives: probabilities differ by up to "
            f"{worst['probabilities']:.1e}, logits by {worst['logits']:.1e} of the largest; allowed {TOLERANCE:.0e}; "
            "nothing was written"
        )
    return {
        "max_probability_difference": worst["probabilities"],
        "max_logit_difference_relative": worst["logits"],
        "same_label": f"{int(same.sum())} of {len(same)}",
        "inputs": len(values),
        "tolerance": TOLERANCE,
        "onnxruntime": onnxruntime.__version__,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs and warns about packages and interfaces that are none of the user's business."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
