"""Where crossgraft keeps what it downloads and caches."""

import os
from pathlib import Path


def home() -> Path:
    """`$CROSSGRAFT_HOME`, by default `~/.cache/crossgraft`."""
    return Path(os.environ.get("CROSSGRAFT_HOME") or Path.home() / ".cache" / "crossgraft").expanduser()
