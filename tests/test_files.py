"""Files that appear whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from crossgraft.errors import InputError
from crossgraft.files import exclusive, read_json, sha256_file, write_bytes, write_json


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    """Even with a file name that is not UTF-8, which Python holds as a lone surrogate."""
    value = {"name": "émoji 🙂", "list": [1, 2.5, None, True], "nested": {"path": os.fsdecode(b"\xff.png")}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, [1])
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(file, [float("nan")])
    with pytest.raises(TypeError):
        write_bytes(file, "text")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert read_json(file) == [1]


def test_written_files_can_be_read_by_others(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": 1,\n"b"}', "line 2: not JSON"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "not JSON that can be read"),
        (b"9" * 5_000, "not JSON that can be read"),
        (b"", "line 1: not JSON"),
    ],
)
def test_a_bad_file_is_named_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=reason) as error:
        read_json(file)
    assert str(error.value).startswith(str(file))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def hold(lock: Path, held: Event) -> None:
    with exclusive(lock):
        held.set()
        signal.pause()


def test_a_lock_keeps_others_out_until_its_process_ends_however(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=hold, args=(tmp_path / "lock", held))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(InputError, match="another run is writing here"), exclusive(tmp_path / "lock"):
            pass
    finally:
        assert other.pid is not None
        os.kill(other.pid, signal.SIGKILL)
        other.join()
    with exclusive(tmp_path / "lock"), pytest.raises(InputError), exclusive(tmp_path / "lock"):
        pass
