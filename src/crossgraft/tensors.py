"""Tensors of an adapter folder."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from crossgraft.errors import InputError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read an adapter's safetensors file.

    Raises:
        InputError: it is missing, unreadable, or not whole.
    """
    try:
        return load_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); expected an adapter folder") from error
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); save the adapter again") from error
