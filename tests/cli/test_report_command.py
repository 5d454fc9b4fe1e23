"""`crossgraft report`: one file, exit codes, and what scripts read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Cli

HEAVY = """
import sys
from crossgraft.cli.main import main
sys.argv = ["crossgraft", "report", *sys.argv[1:]]
try:
    main()
finally:
    print(*(name for name in ("torch", "transformers", "sklearn") if name in sys.modules))
"""


@pytest.fixture
def run(fewshot_run: Cli, tmp_path: Path) -> Path:
    assert fewshot_run("--shots", 1, "--seeds", 1, "--method", "gda,proker").code == 0
    return tmp_path / "out"


def test_a_page_for_people(cli: Cli, run: Path, tmp_path: Path) -> None:
    outcome = cli("report", run, "--out", tmp_path / "new" / "page.html")
    assert (outcome.code, outcome.out) == (0, "")
    assert f"report: {tmp_path / 'new' / 'page.html'}" in outcome.err
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert cli("report", run, run, "--out", tmp_path / "new" / "page.html").code == 0  # written over


def test_one_json_object_for_scripts(cli: Cli, run: Path, tmp_path: Path) -> None:
    (run / "predictions" / "gda.json").write_text("{}")
    answer = cli("report", run, "--out", tmp_path / "page.html", "--json").json
    assert answer["report"] == str(tmp_path / "page.html")
    assert answer["bytes"] == (tmp_path / "page.html").stat().st_size
    assert (answer["runs"], answer["sections"]) == (1, 1)
    assert answer["pictures"].keys() == {"shown", "missing", "left_out"}
    assert answer["pictures"]["shown"] > 0
    assert "gda.json" in answer["notes"][0]


def test_bad_input_is_exit_code_2(cli: Cli, run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert "holds no results.json" in cli("report", tmp_path, "--out", page).error
    assert "does not exist" in cli("report", run, tmp_path / "nowhere", "--out", page).error
    assert "is a folder" in cli("report", run, "--out", tmp_path).error
    (tmp_path / "file").write_text("")
    assert "no folder that can be written to" in cli("report", run, "--out", tmp_path / "file" / "page.html").error
    (run / "results.json").write_text("[]")
    assert "expected a JSON object" in cli("report", run, "--out", page).error
    assert not page.exists()


def test_a_file_that_cannot_be_written(cli: Cli, run: Path, tmp_path: Path) -> None:
    error = cli("report", run, "--out", tmp_path / ("x" * 300 + ".html")).error
    assert "cannot be written (File name too long); give another file" in error


def test_it_needs_no_torch(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HEAVY, str(run), "--out", str(tmp_path / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
