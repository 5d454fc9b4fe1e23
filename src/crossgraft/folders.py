"""Folders that appear whole or not at all."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from crossgraft.errors import InputError


@contextmanager
def replacing(folder: Path, files: Sequence[str], what: str) -> Iterator[Path]:
    """A new folder to write into; after the `with` it stands in the place of `folder`.

    If the body fails, what was there stays.

    Args:
        folder: absent, empty, or a folder that holds only `files` and is replaced.
        files: names of what the body writes, or may write.
        what: what such a folder is called in messages, such as "adapter".

    Raises:
        InputError: `folder` is a file or holds something else.
    """
    _refuse_foreign(folder, files, what)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _recover(folder)
    new = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    new.mkdir()
    try:
        yield new
        for path in new.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        _swap(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _refuse_foreign(folder: Path, files: Sequence[str], what: str) -> None:
    """Only a folder of the same kind is ever replaced, never a file or a folder with anything else in it."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder to save the {what} in")
    others = sorted({path.name for path in folder.iterdir()} - set(files)) if folder.is_dir() else []
    if others:
        raise InputError(
            f"{folder} holds other files ({', '.join(others[:5])}); name an empty folder or an older {what}"
        )


def _recover(folder: Path) -> None:
    """Clear up after a save that was killed: bring back what it had moved aside, drop what it had not finished."""
    for old in folder.parent.glob(f".{glob.escape(folder.name)}.*.old"):
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)
    for unfinished in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        shutil.rmtree(unfinished)


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; if that fails, what was there stays."""
    if not folder.exists():
        new.rename(folder)
        return
    old = new.with_suffix(".old")
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)
