"""What a killed run goes on from: adapters in a file, and checkpoints that are whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file

from crossgraft.adapt import AdaptedModel
from crossgraft.errors import InputError
from crossgraft.files import read_json, write_json
from crossgraft.methods.attach import adapter_state, load_adapter_state

STATE_FILE = "adapters.safetensors"
COMPLETE = "complete.json"  # written last: a checkpoint without it was cut off
CHECKPOINT = "checkpoint-"


class Checkpoint(NamedTuple):
    """A whole checkpoint: its folder, seconds of training before it, and whether training was done by then."""

    folder: Path
    seconds: float
    done: bool


def complete(folder: Path, seconds: float, done: bool) -> None:
    """Say that everything of a checkpoint has been written."""
    write_json(folder / COMPLETE, {"seconds": seconds, "done": done})


def last_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint."""
    whole = [path for path in _listed(folder) if (path / COMPLETE).is_file()]
    if not whole:
        return None
    newest = max(whole, key=_number)
    about: dict[str, Any] = read_json(newest / COMPLETE)
    return Checkpoint(newest, float(about.get("seconds", 0.0)), bool(about.get("done", False)))


def remove_broken(folder: Path) -> None:
    """Remove checkpoints that a kill cut off."""
    for path in _listed(folder):
        if not (path / COMPLETE).is_file():
            shutil.rmtree(path)


def _listed(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{CHECKPOINT}*") if _number(path) >= 0]


def _number(path: Path) -> int:
    number = path.name.removeprefix(CHECKPOINT)
    return int(number) if number.isdecimal() else -1


def save_state(model: AdaptedModel, folder: Path) -> None:
    """Write what all adapters trained; the file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        f"{name}/{key}": value.detach().cpu().clone()
        for name in model.grafts
        for key, value in adapter_state(model, name).items()
    }
    temporary = folder / f".{STATE_FILE}.tmp"
    save_file(state, temporary)
    temporary.replace(folder / STATE_FILE)


def load_state(model: AdaptedModel, folder: Path) -> None:
    """Give the adapters what `save_state` wrote.

    Raises:
        InputError: the file is missing, damaged, or of other adapters.
    """
    path = folder / STATE_FILE
    try:
        state = load_file(path)
    except Exception as error:  # safetensors meets damage with several exceptions
        raise InputError(f"{path}: cannot be read ({error}); train again, into another folder (out=...)") from error
    for name in model.grafts:
        own = {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}
        load_adapter_state(model, name, own, str(path))
