"""Save a fitted classifier to a folder and load it again: JSON and safetensors, never pickle.

An adapter folder is PEFT-shaped: `adapter_config.json`, `adapter_model.safetensors` and a model card, `README.md`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from crossgraft.errors import InputError
from crossgraft.fewshot.base import FewShotClassifier
from crossgraft.fewshot.calibration import Calibration
from crossgraft.fewshot.model_card import model_card
from crossgraft.fewshot.registry import get_method
from crossgraft.folders import replacing
from crossgraft.tensors import read_tensors

T = TypeVar("T")

SCHEMA_VERSION = 1
CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"
CARD_FILE = "README.md"
FILES = (CONFIG_FILE, TENSOR_FILE, CARD_FILE)
MAX_CONFIG_BYTES = 64 * 2**20

# No hyperparameters: text and classes have their own place in the files, and the device is the loader's.
OWN_PLACE = ("text", "classes", "device")
LABEL_TYPES = ("str", "object", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def save_classifier(
    classifier: FewShotClassifier,
    folder: str | os.PathLike[str],
    *,
    encoder: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a fitted classifier to `folder`, whole or not at all; an adapter that is there already is replaced.

    Args:
        encoder: what made the features, JSON only; its "fingerprint" is what `load_classifier` compares.
        extra: anything else to keep, JSON only.

    Returns:
        The folder.

    Raises:
        InputError: `folder` holds something else than an adapter; `encoder` has no fingerprint; a value is not JSON.
    """
    check_is_fitted(classifier, "text_")
    folder = Path(folder)
    if encoder is not None and not isinstance(encoder.get("fingerprint"), str):
        raise InputError("encoder needs a 'fingerprint' (text); without one a wrong encoder cannot be noticed")
    tensors = _state(classifier)
    config = {
        "schema_version": SCHEMA_VERSION,
        "crossgraft_version": version("crossgraft"),
        "method": classifier.method,
        "params": _params(classifier),
        "classes": classifier.classes_.tolist(),
        "classes_dtype": "str" if classifier.classes_.dtype.kind == "U" else classifier.classes_.dtype.name,
        "uses_text": classifier.text is not None,
        "n_features": classifier.n_features_in_,
        "n_parameters": classifier.n_parameters_,
        "calibration": None if classifier.calibration_ is None else classifier.calibration_.to_json(),
        "tensors": {name: {"shape": list(t.shape), "dtype": _dtype(t)} for name, t in tensors.items()},
        "encoder": None if encoder is None else dict(encoder),
        "extra": None if extra is None else dict(extra),
    }
    if config["classes_dtype"] not in LABEL_TYPES:
        raise InputError(f"labels of type {config['classes_dtype']} cannot be saved; use text or whole numbers")
    try:
        text = json.dumps(config, indent=2, allow_nan=False)  # ASCII: a support path may be no UTF-8
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{CONFIG_FILE} cannot hold this classifier: {error}") from error

    with replacing(folder, FILES, "adapter") as new:
        (new / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        save_file(tensors, new / TENSOR_FILE)
        (new / CARD_FILE).write_text(model_card(type(classifier), config, folder.name), encoding="utf-8")
    return folder


def load_classifier(
    folder: str | os.PathLike[str],
    *,
    encoder_fingerprint: str | None = None,
    device: str | torch.device | None = None,
) -> FewShotClassifier:
    """Load a classifier that `save_classifier` wrote. It predicts what the saved one did, to the bit, on one machine.

    It has what predicting needs; `tune` and `calibrate` need a new `fit`.

    Args:
        encoder_fingerprint: refuse an adapter made for another encoder.
        device: where to compute; None is the CPU.

    Raises:
        InputError: a file is missing, damaged or of another version; method, shapes or encoder differ. The message
            names the file and the key.
    """
    folder = Path(folder)
    config_path, tensor_path = folder / CONFIG_FILE, folder / TENSOR_FILE
    config = _Config(config_path)
    schema = config.get("schema_version", int)
    if schema != SCHEMA_VERSION:
        raise config.error("schema_version", f"{schema}; this version of crossgraft reads {SCHEMA_VERSION}")
    if encoder_fingerprint is not None:
        _check_encoder(config, encoder_fingerprint)
    method = _checked(config, "method", lambda: get_method(config.get("method", str)))
    classifier = method(**_read_params(config, method))
    _checked(config, "params", classifier.check_params)
    classifier.device = device
    classifier.classes_ = _read_classes(config)
    classifier.n_features_in_ = config.get("n_features", int)
    classifier.n_parameters_ = config.get("n_parameters", int)
    calibration = config.values.get("calibration")  # absent from adapters that were saved before there was one
    if calibration is not None:
        classifier.calibration_ = _checked(config, "calibration", lambda: Calibration.from_json(calibration))
    tensors = _read_tensors(tensor_path, method, len(classifier.classes_), classifier.n_features_in_)
    for name, value in tensors.items():
        # A fresh copy is aligned as it was at `fit`; a view into the file is not, and that shows in the last bit.
        setattr(classifier, name, value.clone().to(torch.device(device or "cpu")))
    if config.get("uses_text", bool):
        classifier.text, classifier.classes = classifier.text_, config.values["classes"]
    return classifier


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration of an adapter folder (encoder, extra, classes, ...), without its tensors.

    Raises:
        InputError: missing or damaged.
    """
    return _Config(Path(folder) / CONFIG_FILE).values


class _Config:
    """adapter_config.json, read with errors that name the file and the key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if path.stat().st_size > MAX_CONFIG_BYTES:
                raise InputError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes; it is no adapter configuration")
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); expected an adapter folder") from error
        except InputError:
            raise
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not valid JSON ({error}); save the adapter again") from error
        if not isinstance(values, dict):
            raise InputError(f"{path}: expected a JSON object")
        self.values: dict[str, Any] = values

    def error(self, key: str, message: str) -> InputError:
        return InputError(f"{self.path}: {key}: {message}")

    def get(self, key: str, kind: type[T]) -> T:
        value = self.values.get(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(key, f"expected {kind.__name__}, found {type(value).__name__}")
        return value


def _state(classifier: FewShotClassifier) -> dict[str, Tensor]:
    # Cloned, because safetensors refuses tensors that share memory (a key that is its embedding).
    return {name: getattr(classifier, name).cpu().clone() for name in ("text_", *classifier.state)}


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _params(classifier: FewShotClassifier) -> dict[str, Any]:
    params = {name: value for name, value in classifier.get_params(deep=False).items() if name not in OWN_PLACE}
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in params.items()}
    if isinstance(plain.get("random_state"), np.random.RandomState):
        plain["random_state"] = None  # its state has moved on; there is nothing to keep
    return plain


def _checked(config: _Config, key: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except InputError as error:
        raise config.error(key, str(error)) from error


def _check_encoder(config: _Config, expected: str) -> None:
    encoder = config.values.get("encoder")
    if not isinstance(encoder, dict) or not isinstance(encoder.get("fingerprint"), str):
        raise config.error("encoder", "records no fingerprint, so it cannot be told which encoder the adapter is for")
    if encoder["fingerprint"] != expected:
        raise config.error(
            "encoder.fingerprint",
            f"made for {encoder.get('name', 'an encoder')} ({encoder['fingerprint'][:12]}), not for the encoder given "
            f"({expected[:12]}); use the first, or fit again",
        )


def _read_params(config: _Config, method: type[FewShotClassifier]) -> dict[str, Any]:
    params = config.get("params", dict)
    known = {name: value for name, value in method().get_params(deep=False).items() if name not in OWN_PLACE}
    for name, value in params.items():
        if name not in known:
            raise config.error(f"params.{name}", f"{method.method} has no such parameter; known: {', '.join(known)}")
        if not isinstance(value, str | int | float | None) or isinstance(value, bool) != isinstance(known[name], bool):
            raise config.error(f"params.{name}", f"expected a value like {known[name]!r}, found {value!r:.40}")
    return params


def _read_classes(config: _Config) -> np.ndarray:
    classes, dtype = config.get("classes", list), config.get("classes_dtype", str)
    if dtype not in LABEL_TYPES:
        raise config.error(
            "classes_dtype", f"{dtype!r:.40} is no type of labels; expected one of {', '.join(LABEL_TYPES)}"
        )
    kinds = {"str": (str,), "object": (str, int, float), "bool": (bool,)}.get(dtype, (int,))
    if len(classes) < 2 or not all(isinstance(label, kinds) for label in classes) or len(set(classes)) < len(classes):
        raise config.error("classes", f"expected at least two distinct labels of type {dtype}")
    try:
        return np.array(classes, dtype=dtype)
    except OverflowError as error:
        raise config.error("classes", f"a label does not fit in {dtype} ({error})") from error


def _read_tensors(path: Path, method: type[FewShotClassifier], n_classes: int, n_features: int) -> dict[str, Tensor]:
    """Read the state tensors and check names, types, and that all shapes agree with each other and with the classes."""
    tensors = read_tensors(path)
    expected = {"text_": ("N", "d"), **method.state}
    if tensors.keys() != expected.keys():
        missing, others = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
        raise InputError(f"{path}: tensors of {method.method} expected; missing: {missing}, not its own: {others}")
    text = tensors["text_"]
    if text.dtype not in (torch.float32, torch.float64) or text.ndim != 2 or not 0 < text.shape[1] <= n_features:
        raise InputError(
            f"{path}: text_: {_dtype(text)} {tuple(text.shape)}; expected float (N, d), d up to {n_features}"
        )
    d = text.shape[1]
    sizes = {"N": n_classes, "d": d, "f": n_features - d or d}
    for name, symbols in expected.items():
        value = tensors[name]
        integers = name == "labels_"
        if value.dtype != (torch.int64 if integers else text.dtype):
            raise InputError(f"{path}: {name}: type {_dtype(value)}; expected {'int64' if integers else _dtype(text)}")
        if value.ndim == len(symbols):
            for symbol, size in zip(symbols, value.shape, strict=True):
                sizes.setdefault(symbol, size)  # M and a method's own letters: whatever the first tensor has
        if tuple(value.shape) != tuple(sizes.get(symbol) for symbol in symbols):
            wanted = ", ".join(f"{symbol}={sizes.get(symbol, '?')}" for symbol in symbols)
            raise InputError(f"{path}: {name}: shape {tuple(value.shape)}; expected ({wanted})")
        if not torch.isfinite(value).all():
            raise InputError(f"{path}: {name}: holds NaN or infinity; save the adapter again")
        if integers and not ((value >= 0) & (value < n_classes)).all():
            raise InputError(f"{path}: {name}: holds a class row outside 0 to {n_classes - 1}")
    return tensors
