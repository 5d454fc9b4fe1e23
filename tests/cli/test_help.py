"""Help answers at once, usage errors say what is wrong, and an interrupt says how to go on."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

from conftest import Cli

HEAVY = ("torch", "transformers", "sklearn", "numpy", "PIL", "safetensors", "yaml")

HELP = """
import contextlib, io, json, sys
from crossgraft.cli.main import main
texts = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["crossgraft", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main()
    texts.append(out.getvalue())
print(json.dumps({"texts": texts, "modules": list(sys.modules)}))
"""

INTERRUPTED = """
import os, signal, sys
from crossgraft.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
once = []
def hook(event, arguments):
    if event == "open" and "shards" in str(arguments[0]) and not once:
        once.append(True)
        os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C, while the first shard is written
sys.addaudithook(hook)
main()
"""


def test_help_and_version_import_nothing_heavy() -> None:
    asked = [
        ["--version"],
        ["--help"],
        *(
            [command, "--help"]
            for command in ("features", "fewshot", "predict", "models", "report", "export", "colors")
        ),
    ]
    command = [sys.executable, "-c", HELP, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [name for name in HEAVY if name in report["modules"]] == []
    assert report["texts"][0] == f"crossgraft {version('crossgraft')}\n"
    for text, word in zip(
        report["texts"][1:],
        ("features", "--shard-size", "--protocol", "--explain", "pull", "--out", "--opset", "--adapter"),
        strict=True,
    ):
        assert word in text


def test_the_installed_command_is_this_one() -> None:
    (script,) = entry_points(group="console_scripts", name="crossgraft")
    assert script.value == "crossgraft.cli.main:main"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fewshto"], "fewshto"),
        (["fewshot"], "{data}"),
        (["fewshot", "data", "--out", "out"], "--model"),
        (["features", "data", "--model", "m", "--out", "o", "--shard-size", "0"], "--shard-size"),
        (["features", "data", "--model", "m", "--out", "o", "--workers", "many"], "--workers"),
        (["fewshot", "data", "--model", "m", "--out", "o", "--views", "-1"], "--views"),
        (["predict", "adapter"], "{images}"),
        (["predict", "adapter", "a.png", "--top", "0"], "--top"),
        (["report", "--out", "page.html"], "{runs}"),
        (["report", "run"], "--out"),
        (["models", "pull"], "{names}"),
        (["models", "list", "--jason"], "--jason"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_the_argument(cli: Cli, arguments: list[str], said: str) -> None:
    outcome = cli(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert "Traceback" not in outcome.err


def test_what_the_system_refuses_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out/results.json")

    monkeypatch.setattr("crossgraft.cli.main.app", full)
    outcome = cli("models", "list")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "error: [Errno 28] No space left on device: 'out/results.json'\n"


def test_an_interrupted_command_can_be_run_again(colours: Path, tiny_clip: Path, tmp_path: Path) -> None:
    arguments = ["features", colours, "--model", tiny_clip, "--out", tmp_path / "out", "--json"]
    stopped = subprocess.run([sys.executable, "-c", INTERRUPTED, *arguments], capture_output=True, text=True)
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert stopped.stderr.splitlines()[-1] == "interrupted; run the same command again: what was encoded is kept"
    assert "Traceback" not in stopped.stderr
    again = subprocess.run([sys.executable, "-m", "crossgraft.cli.main", *arguments], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert report["encoded"] + report["reused"] == report["images"] == 21
