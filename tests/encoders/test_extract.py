"""Extraction: every usable image once, whatever the order, the files, the workers, and however often it is killed."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_encoder import Interrupted, Killed, NanOnWhite, ThreadCounter, TinyEncoder, make_images, run, run_stuck

from crossgraft.encoders.encode_shards import view_seed
from crossgraft.encoders.extract import MAX_FILE_BYTES, extract
from crossgraft.encoders.store import FeatureStore, content_hash, shard_path
from crossgraft.errors import CrossgraftError, InputError


def contents(store: Path) -> dict[str, bytes]:
    """What two runs over the same images have to agree on."""
    files = [store / "store.json", store / "skipped.json", *sorted((store / "shards").iterdir())]
    return {file.name: file.read_bytes() for file in files}


def test_every_tensor_is_what_the_encoder_gives(tmp_path: Path) -> None:
    encoder = TinyEncoder()
    paths = make_images(tmp_path / "in", 7)
    result = extract(paths, encoder, tmp_path / "out", views=2, grid=True, shard_size=3)
    hashes = [result.hash_of[path] for path in paths]
    assert hashes == [content_hash(path) for path in paths] == result.store.hashes
    direct = encoder.encode_images(torch.stack([encoder.preprocess(path) for path in paths]), grid=True)
    for name in ("embedding", "feature", "grid"):
        torch.testing.assert_close(result.store.gather(hashes, name), getattr(direct, name))
    for view in range(2):
        pixels = [encoder.preprocess.augmented(path, view_seed(h, view)) for path, h in zip(paths, hashes, strict=True)]
        direct = encoder.encode_images(torch.stack(pixels))
        torch.testing.assert_close(result.store.gather(hashes, "feature_views")[:, view], direct.feature)
        torch.testing.assert_close(result.store.gather(hashes, "embedding_views")[:, view], direct.embedding)
    views = result.store.gather(hashes, "feature_views")
    assert not torch.allclose(views[:, 0], views[:, 1])
    assert (result.encoded, result.reused, result.skipped) == (7, 0, [])


def test_a_second_run_encodes_nothing_and_changes_nothing(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 6)
    extract(paths, TinyEncoder(), tmp_path / "out", shard_size=4)
    before = contents(tmp_path / "out")
    encoder = TinyEncoder()
    result = extract(paths, encoder, tmp_path / "out", shard_size=2)
    assert (encoder.images_encoded, result.encoded, result.reused) == (0, 0, 6)
    assert contents(tmp_path / "out") == before


def test_later_images_extend_the_store_and_leave_its_shards_alone(tmp_path: Path) -> None:
    first, second = make_images(tmp_path / "in", 5, seed=1), make_images(tmp_path / "in", 3, seed=2)
    extract(first, TinyEncoder(), tmp_path / "out", shard_size=4)
    before = contents(tmp_path / "out")
    encoder = TinyEncoder()
    result = extract([*second, *first], encoder, tmp_path / "out", shard_size=4)
    assert (encoder.images_encoded, result.encoded, result.reused) == (3, 3, 5)
    after = contents(tmp_path / "out")
    assert {name: after[name] for name in before if name.startswith("0")} == {
        name: data for name, data in before.items() if name.startswith("0")
    }
    assert result.store.hashes == [content_hash(path) for path in [*first, *second]]


def test_images_with_the_same_content_are_encoded_once(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 3)
    copy = tmp_path / "in" / "copy.png"
    shutil.copy(paths[0], copy)
    encoder = TinyEncoder()
    result = extract([*paths, copy, paths[1]], encoder, tmp_path / "out")
    assert encoder.images_encoded == result.encoded == 3
    assert result.hash_of[copy] == result.hash_of[paths[0]]


def test_features_do_not_depend_on_order_or_shards(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 6)
    one = extract(paths, TinyEncoder(), tmp_path / "one", views=2, shard_size=6)
    two = extract(paths[::-1], TinyEncoder(), tmp_path / "two", views=2, shard_size=2, batch_size=1)
    for name in ("embedding", "feature_views"):
        torch.testing.assert_close(one.store.gather(one.store.hashes, name), two.store.gather(one.store.hashes, name))


def test_a_bad_image_costs_that_image_and_is_listed(tmp_path: Path) -> None:
    good = make_images(tmp_path / "in", 4)
    truncated, text, empty, folder, pipe, huge, missing = bad = [
        tmp_path / "in" / name for name in ("truncated.png", "text.jpg", "empty.png", "folder", "pipe", "huge", "gone")
    ]
    truncated.write_bytes(good[0].read_bytes()[:-40])
    text.write_text("no image")
    empty.touch()
    folder.mkdir()
    os.mkfifo(pipe)
    with open(huge, "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    nul = Path("a\0b")
    paths = [good[0], *bad, nul, *good[1:]]
    result = extract(paths, TinyEncoder(), tmp_path / "out", shard_size=3)
    assert list(result.hash_of) == good
    assert result.encoded == 4
    assert [entry["path"] for entry in result.skipped] == [str(path) for path in [*bad, nul]]
    read = [content_hash(path) for path in (truncated, text, empty)]
    assert [entry["sha256"] for entry in result.skipped] == [*read, None, None, None, None, None]
    assert all(entry["reason"] for entry in result.skipped)
    assert missing.name not in os.listdir(tmp_path / "in")
    assert json.loads((tmp_path / "out" / "skipped.json").read_text()) == result.skipped
    again = extract(paths, TinyEncoder(), tmp_path / "out")
    assert (again.skipped, again.encoded, again.reused) == (result.skipped, 0, 4)


def test_a_run_without_a_usable_image_leaves_a_store_without_rows(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    result = extract([tmp_path / "bad.png", tmp_path / "gone.png"], TinyEncoder(), tmp_path / "out", grid=True, views=1)
    assert (result.hash_of, result.store.hashes, len(result.skipped)) == ({}, [], 2)


def test_a_file_that_changed_behind_the_caches_back_is_noticed(tmp_path: Path) -> None:
    """Same size, same time, other content: only reading tells. It is skipped now, and encoded by the next run."""
    paths = make_images(tmp_path / "in", 6)
    one, two = (tmp_path / "in" / f"{i}.ppm" for i in range(2))
    Image.new("RGB", (8, 8), "red").save(one)
    Image.new("RGB", (8, 8), "blue").save(two)
    status = one.stat()
    extract([one], TinyEncoder(), tmp_path / "out")
    shard_path(tmp_path / "out", 0).unlink()
    shutil.copy(two, one)
    os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns))
    result = extract([*paths, one], TinyEncoder(), tmp_path / "out", shard_size=4)
    assert list(result.hash_of) == paths
    assert "changed or vanished" in str(result.skipped[0]["reason"])
    again = extract([*paths, one], TinyEncoder(), tmp_path / "out", shard_size=4)
    assert again.hash_of[one] == content_hash(two)
    assert (again.encoded, again.reused, again.skipped) == (1, 6, [])


def test_a_resumed_run_without_some_of_the_images_drops_them_from_unwritten_shards(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 12)
    extract(paths, TinyEncoder(), tmp_path / "out", shard_size=4)
    shard_path(tmp_path / "out", 1).unlink()
    paths[5].unlink()
    result = extract(paths[:8], TinyEncoder(), tmp_path / "out", shard_size=4)
    assert result.encoded == 3
    assert [entry["path"] for entry in result.skipped] == [str(paths[5])]
    assert len(result.store.hashes) == 11
    assert not result.store.pending


def test_ctrl_c_leaves_a_store_that_resumes(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 22)
    extract(paths, TinyEncoder(), tmp_path / "whole", shard_size=5)
    encoder = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        extract(paths, encoder, tmp_path / "out", shard_size=5)
    done = FeatureStore.open(tmp_path / "out")
    assert done.pending == [2, 3, 4]
    result = extract(paths, TinyEncoder(), tmp_path / "out", shard_size=5)
    assert (result.encoded, result.reused) == (12, 10)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_nan_from_the_encoder_names_the_image_and_is_not_stored(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 6)
    white = tmp_path / "in" / "white.png"
    Image.new("RGB", (40, 40), "white").save(white)
    with pytest.raises(InputError, match=r"white\.png: encoder tiny-0 gave NaN or infinity .*\(feature\)"):
        extract([*paths, white], NanOnWhite(), tmp_path / "out", shard_size=4)
    assert FeatureStore.open(tmp_path / "out").pending == [1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": 1}, "made with views=0, not views=1"),
        ({"grid": True}, "made with grid=False, not grid=True"),
        ({"encoder": TinyEncoder(1)}, "made by encoder tiny-0 .*but this encoder is tiny-1"),
        ({"paths": []}, "no images"),
        ({"views": -1}, "views is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"shard_size": 0}, "shard_size is 0"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    paths = make_images(tmp_path / "in", 2)
    extract(paths, TinyEncoder(), tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=message):
        extract(**{"paths": paths, "encoder": TinyEncoder(), "out": tmp_path / "out", **settings})
    assert contents(tmp_path / "out") == before


def test_features_of_another_precision_are_not_mixed_in(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 2)
    extract(paths, TinyEncoder(), tmp_path / "out")
    encoder = TinyEncoder()
    encoder.dtype = torch.bfloat16
    with pytest.raises(InputError, match="dtype=float32, not dtype=bfloat16"):
        extract(paths, encoder, tmp_path / "out")


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 2)
    with pytest.raises(InputError, match=r"holds other files \(0_000\.png\)"):
        extract(paths, TinyEncoder(), tmp_path / "in")
    assert sorted((tmp_path / "in").iterdir()) == paths
    with pytest.raises(InputError, match="cannot hold a feature store"):
        extract(paths, TinyEncoder(), paths[0])


def test_a_second_writer_is_told_so(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run is writing"):
            extract(paths, TinyEncoder(), tmp_path / "out")
    assert extract(paths, TinyEncoder(), tmp_path / "out").encoded == 2


def test_what_a_killed_run_was_writing_is_removed(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 2)
    (tmp_path / "out" / "shards").mkdir(parents=True)
    strays = [tmp_path / "out" / ".store.json.x1.tmp", tmp_path / "out" / "shards" / ".00000.safetensors.x1.tmp"]
    for stray in strays:
        stray.write_bytes(b"half")
    extract(paths, TinyEncoder(), tmp_path / "out")
    assert not any(stray.exists() for stray in strays)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"x": 1}', '{"x": [1, 2]}', '{"x": [1, "2", "3"]}', '{"x": [[], {}, null]}']
)
def test_a_damaged_files_json_only_costs_time(tmp_path: Path, text: str) -> None:
    paths = make_images(tmp_path / "in", 2)
    extract(paths, TinyEncoder(), tmp_path / "out")
    (tmp_path / "out" / "files.json").write_text(text.replace("x", str(paths[0])))
    assert extract(paths, TinyEncoder(), tmp_path / "out").reused == 2


def test_progress_goes_to_stderr_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_images(tmp_path / "in", 5)
    extract(paths, TinyEncoder(), tmp_path / "quick")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("crossgraft.encoders.meter.PATIENCE", 0.0)
    extract(paths, TinyEncoder(), tmp_path / "slow")
    out, err = capsys.readouterr()
    assert out == ""
    assert "encoding" in err
    assert "5/5" in err
    extract(paths, TinyEncoder(), tmp_path / "silent", progress=False)
    assert capsys.readouterr() == ("", "")


# --- processes


def test_two_processes_give_the_same_store_as_one(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 15)
    paths[3].write_text("no image")
    one = run(paths, tmp_path / "one")
    two = run(paths, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert (one.hash_of, one.encoded) == (two.hash_of, two.encoded)


def test_processes_that_resume_with_one_shard_left_compute_as_before(tmp_path: Path) -> None:
    paths, out = make_images(tmp_path / "in", 8), tmp_path / "out"
    threads = torch.get_num_threads()
    torch.set_num_threads(7)  # what this process would compute with
    try:
        extract(paths, ThreadCounter(), out, shard_size=4, workers=2, encoder_factory=ThreadCounter)
        written = contents(out)
        shard_path(out, 1).unlink()
        extract(paths, ThreadCounter(), out, shard_size=4, workers=2, encoder_factory=ThreadCounter)
    finally:
        torch.set_num_threads(threads)
    assert contents(out) == written


def test_a_killed_worker_is_reported_and_finished_shards_stay(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 40)
    with pytest.raises(CrossgraftError, match=r"killed by SIGKILL .*finished shards are kept") as caught:
        extract(paths, TinyEncoder(), tmp_path / "out", shard_size=4, workers=2, encoder_factory=Killed)
    assert not isinstance(caught.value, InputError)
    done = len(FeatureStore.open(tmp_path / "out").hashes)
    assert done >= 12
    result = extract(paths, TinyEncoder(), tmp_path / "out", shard_size=4)
    assert (result.reused, result.encoded) == (done, 40 - done)


def test_errors_of_a_worker_reach_the_caller(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 7)
    Image.new("RGB", (40, 40), "white").save(paths[2])
    with pytest.raises(InputError, match=r"0_002\.png: encoder tiny-0 gave NaN"):
        extract(paths, TinyEncoder(), tmp_path / "out", shard_size=4, workers=2, encoder_factory=NanOnWhite)


def fork_server() -> multiprocessing.context.ForkServerContext:
    """Starts processes that have torch imported already, so that a run begins with its work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["crossgraft.encoders.extract"])
    return context


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 50
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 8)
    marker = tmp_path / "marker"
    marker.mkdir()
    process = fork_server().Process(target=run_stuck, args=(paths, tmp_path / "out", marker))
    process.start()
    wait_until(lambda: len(os.listdir(marker)) == 2)
    process.kill()
    process.join()
    wait_until(lambda: not any(is_running(int(pid)) for pid in os.listdir(marker)))
    assert len(FeatureStore.open(tmp_path / "out").pending) == 2
    assert extract(paths, TinyEncoder(), tmp_path / "out", shard_size=4).encoded == 8


def test_a_dozen_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "in", 60)
    paths[7].write_text("no image")
    run(paths, tmp_path / "whole")
    context = fork_server()

    def seconds_of_a_run(out: Path) -> float:
        started = time.monotonic()
        process = context.Process(target=run, args=(paths, out))
        process.start()
        process.join()
        assert process.exitcode == 0
        return time.monotonic() - started

    seconds_of_a_run(tmp_path / "warm")
    duration = seconds_of_a_run(tmp_path / "timed")
    rng = random.Random(0)
    out, kills, stores = tmp_path / "out0", 0, 1
    while kills < 12:
        process = context.Process(target=run, args=(paths, out))
        process.start()
        process.join(timeout=rng.uniform(0, duration / 2))
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        if process.exitcode == 0:  # done before it was killed: on with a fresh store
            assert contents(out) == contents(tmp_path / "whole")
            out, stores = tmp_path / f"out{stores}", stores + 1
    seconds_of_a_run(out)
    assert contents(out) == contents(tmp_path / "whole")
