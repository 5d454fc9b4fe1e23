"""A torchvision that does not fit torch is explained before it breaks transformers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crossgraft.environment import check_environment
from crossgraft.errors import CrossgraftError

BROKEN = {
    "does not fit torch": "raise RuntimeError('operator torchvision::nms does not exist')",
    "lacks a library": "raise OSError('libcudart.so.12: cannot open shared object file')",
    "is half installed": "from torchvision import nothing_of_this_name",
}


def install(folder: Path, code: str) -> Path:
    """A torchvision package that runs `code` when it is imported; returns the folder to put on the path."""
    (folder / "torchvision").mkdir(parents=True)
    (folder / "torchvision" / "__init__.py").write_text(code)
    return folder


@pytest.mark.parametrize("code", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_torchvision_is_named_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(install(tmp_path, code))
    with pytest.raises(CrossgraftError, match=r"torchvision is installed but does not fit .*pip uninstall torchvision"):
        check_environment()


def test_a_command_says_so_in_one_line(tmp_path: Path, colours: Path, tiny_clip: Path) -> None:
    command = [sys.executable, "-m", "crossgraft.cli.main", "features", colours, "--model", tiny_clip]
    path = install(tmp_path / "packages", BROKEN["does not fit torch"])
    done = subprocess.run(
        [*command, "--out", tmp_path / "out"],
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: torchvision is installed but does not fit this torch")
    assert "pip uninstall torchvision" in line
    assert not (tmp_path / "out").exists()


def test_a_whole_environment_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_environment()
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(install(tmp_path, "__version__ = '1'"))
    check_environment()
    assert sys.modules.pop("torchvision").__version__ == "1"
