"""From what a user calls a model to where it lies."""

from __future__ import annotations

import difflib
from pathlib import Path

from crossgraft.errors import InputError
from crossgraft.pocket.pull import pocket_folder
from crossgraft.pocket.sources import POCKET_MODELS


def model_folder(name: str) -> str:
    """The folder of a pocket model; a path or a Hugging Face name comes back as it is, for `from_pretrained`.

    Raises:
        InputError: a pocket model that has not been pulled, or a misspelt one.
    """
    if name in POCKET_MODELS:
        return str(pocket_folder(name))
    near = difflib.get_close_matches(name, POCKET_MODELS, n=1, cutoff=0.7)
    if near and not Path(name).exists():
        raise InputError(f"no model {name!r}: did you mean {near[0]}?")
    return name
