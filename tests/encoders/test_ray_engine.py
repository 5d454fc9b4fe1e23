"""The Ray engine: the bytes of the local one, whatever is killed; and what it says without Ray or its cluster.

An actor takes seconds to import torch, so each test makes few of them.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray
import tiny_encoder
import torch
from PIL import Image
from tiny_encoder import Killed, NanOnWhite, ThreadCounter, TinyEncoder, make_images

from conftest import Cli, make_colours
from crossgraft.encoders.extract import extract
from crossgraft.encoders.load import load_encoder
from crossgraft.encoders.ray_engine import check_address
from crossgraft.encoders.store import FeatureStore, shard_path
from crossgraft.errors import CrossgraftError, InputError


def contents(store: Path) -> dict[str, bytes]:
    files = [store / "store.json", store / "skipped.json", *sorted((store / "shards").iterdir())]
    return {file.name: file.read_bytes() for file in files}


class KilledOnce(TinyEncoder):
    """Its process is killed at its second batch, unless that has happened before."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.marker = marker

    def encode_images(self, pixels: torch.Tensor, *, grid: bool = False) -> tiny_encoder.ImageFeatures:
        if self.images_encoded >= 4 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_images(pixels, grid=grid)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster that this process has joined: starting one takes seconds, so the tests share it."""
    ray.cloudpickle.register_pickle_by_value(tiny_encoder)  # its actors do not see the tests' modules
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_shards_have_the_bytes_of_the_local_engine(tmp_path: Path, tiny_clip: Path) -> None:
    """A transformer on real pictures: views, grid, a bad image, two photos the same, a name that is no text."""
    folder = make_colours(tmp_path / "in", 5)
    (folder / "red" / "bad.png").write_text("no image")
    strange = folder / "red" / os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (40, 40), "teal").save(strange)
    (folder / "red" / "copy.png").write_bytes(strange.read_bytes())
    paths = sorted(folder.rglob("*.png"))
    encoder = load_encoder(str(tiny_clip), device="cpu")
    settings = {"views": 2, "grid": True, "shard_size": 5, "batch_size": 2}
    local = extract(paths, encoder, tmp_path / "local", **settings)
    on_ray = extract(paths, encoder, tmp_path / "ray", engine="ray", **settings)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert (on_ray.hash_of, on_ray.skipped, on_ray.encoded) == (local.hash_of, local.skipped, local.encoded)
    assert on_ray.encoded == 16


@pytest.mark.usefixtures("cluster")
def test_it_goes_on_where_the_local_engine_stopped_with_as_many_threads(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 8)
    settings = {"shard_size": 2, "workers": 2, "encoder_factory": ThreadCounter}
    extract(paths, ThreadCounter(), tmp_path / "out", **settings)
    whole = contents(tmp_path / "out")
    for number in (0, 1, 3):
        shard_path(tmp_path / "out", number).unlink()
    result = extract(paths, ThreadCounter(), tmp_path / "out", engine="ray", **settings)
    assert (result.encoded, result.reused) == (6, 2)
    assert contents(tmp_path / "out") == whole


@pytest.mark.usefixtures("cluster")
def test_a_killed_actor_is_replaced(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 24)
    extract(paths, TinyEncoder(), tmp_path / "local", shard_size=4)
    factory = partial(KilledOnce, tmp_path / "killed")
    result = extract(paths, TinyEncoder(), tmp_path / "ray", shard_size=4, engine="ray", encoder_factory=factory)
    assert (tmp_path / "killed").exists()
    assert result.encoded == 24
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_keeps_dying_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossgraft.encoders.ray_engine.RESTARTS", 0)  # each takes seconds
    paths = make_images(tmp_path / "in", 16)
    with pytest.raises(CrossgraftError, match=r"a Ray worker failed .*finished shards are kept") as caught:
        extract(paths, TinyEncoder(), tmp_path / "out", shard_size=16, engine="ray", encoder_factory=Killed)
    assert not isinstance(caught.value, InputError)
    assert FeatureStore.open(tmp_path / "out").pending == [0]


@pytest.mark.usefixtures("cluster")
def test_what_an_actor_finds_reaches_the_caller(tmp_path: Path) -> None:
    """A file that changed behind files.json, and an image that gives NaN."""
    paths = make_images(tmp_path / "in", 5)
    Image.new("RGB", (40, 40), "white").save(paths[3])
    extract(paths, TinyEncoder(), tmp_path / "out", shard_size=1)
    for number in (1, 3):
        shard_path(tmp_path / "out", number).unlink()
    status = paths[1].stat()
    data = bytearray(paths[1].read_bytes())
    data[-20] ^= 1
    paths[1].write_bytes(data)
    os.utime(paths[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    result = extract(paths[:3], TinyEncoder(), tmp_path / "out", engine="ray", encoder_factory=NanOnWhite)
    assert list(result.hash_of) == [paths[0], paths[2]]
    assert "changed or vanished" in str(result.skipped[0]["reason"])
    with pytest.raises(InputError, match=r"0_003\.png: encoder tiny-0 gave NaN"):
        extract(paths, TinyEncoder(), tmp_path / "out", engine="ray", encoder_factory=NanOnWhite)


@pytest.mark.usefixtures("cluster")
def test_the_command_is_killed_and_resumes_to_the_same_bytes(tmp_path: Path, tiny_clip: Path, cli: Cli) -> None:
    folder = make_colours(tmp_path / "in", 20)

    def arguments(engine: str) -> list[str]:
        settings = ["--model", str(tiny_clip), "--shard-size", "1", "--device", "cpu", "--engine", engine, "--json"]
        return ["features", str(folder), "--out", str(tmp_path / engine), *settings]

    assert cli(*arguments("local")).code == 0
    process = subprocess.Popen(  # starts a cluster of its own
        [sys.executable, "-m", "crossgraft.cli.main", *arguments("ray")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    while process.poll() is None and not list((tmp_path / "ray").glob("shards/*.safetensors")):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    pending = FeatureStore.open(tmp_path / "ray").pending
    assert 0 < len(pending) < 60
    assert cli(*arguments("ray")).json["encoded"] == len(pending)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(InputError, match=r"pip install crossgraft\[ray\]"):
        extract(make_images(tmp_path / "in", 2), TinyEncoder(), tmp_path / "out", engine="ray")


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="engine 'spark' is unknown: choose from local, ray"):
        extract(make_images(tmp_path / "in", 2), TinyEncoder(), tmp_path / "out", engine="spark")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://[::1]:1", "nowhere:x"])
def test_a_cluster_that_cannot_be_reached_is_named(address: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"no Ray cluster can be joined at RAY_ADDRESS={address} (")):
        check_address(address)


def test_addresses_without_a_port_are_left_to_ray() -> None:
    for address in ("local", "auto"):
        check_address(address)
