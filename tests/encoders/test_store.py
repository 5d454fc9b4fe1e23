"""The feature store on disk: what is written comes back, and what is damaged or hostile is refused by name."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossgraft.encoders.store import (
    FeatureStore,
    StoredEncoder,
    StorePlan,
    content_hash,
    shard_path,
    write_shard,
)
from crossgraft.errors import InputError

ENCODER = StoredEncoder("tiny", "f" * 64, embedding_dim=3, feature_dim=5, grid_shape=(4, 2), dtype="float32")


def hashed(i: int) -> str:
    return hashlib.sha256(str(i).encode()).hexdigest()


def random_tensors(plan: StorePlan, rows: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in plan.shapes(rows).items()}


def make_store(folder: Path, views: int = 2, grid: bool = True) -> dict[str, dict[str, Tensor]]:
    """A store of 7 images in shards of 3, 3, 1, of which number 4 is skipped; returns name -> hash -> row."""
    plan = StorePlan(ENCODER, views, grid, [[hashed(i) for i in part] for part in ((0, 1, 2), (3, 4, 5), (6,))])
    (folder / "shards").mkdir(parents=True)
    plan.write(folder)
    rows: dict[str, dict[str, Tensor]] = {}
    for number, planned in enumerate(plan.shards):
        present = [h for h in planned if h != hashed(4)]
        tensors = random_tensors(plan, len(present), number)
        skipped = {h: "truncated" for h in planned if h not in present}
        write_shard(folder, plan, number, tensors, present, skipped)
        for name, tensor in tensors.items():
            rows.setdefault(name, {}).update(zip(present, tensor, strict=True))
    return rows


def test_gather_gives_the_rows_in_the_order_asked_for(tmp_path: Path) -> None:
    rows = make_store(tmp_path)
    store = FeatureStore.open(tmp_path)
    wanted = [hashed(i) for i in (6, 0, 5, 2, 0, 3)]
    assert set(rows) == {"embedding", "feature", "grid", "embedding_views", "feature_views"}
    for name, by_hash in rows.items():
        assert torch.equal(store.gather(wanted, name), torch.stack([by_hash[h] for h in wanted]))
    assert store.gather([]).shape == (0, 3)


def test_a_store_knows_its_images_its_skipped_and_its_pending_shards(tmp_path: Path) -> None:
    make_store(tmp_path)
    shard_path(tmp_path, 2).unlink()
    store = FeatureStore.open(tmp_path)
    assert store.hashes == [hashed(i) for i in (0, 1, 2, 3, 5)]
    assert store.skipped == {hashed(4): "truncated"}
    assert store.pending == [2]


def test_gather_says_how_many_images_are_absent(tmp_path: Path) -> None:
    make_store(tmp_path)
    store = FeatureStore.open(tmp_path)
    with pytest.raises(InputError, match=r"2 of 3 images are not in the store \(first: \w{64}, truncated\)"):
        store.gather([hashed(4), hashed(0), hashed(99)])


def test_gather_refuses_a_tensor_that_the_store_was_made_without(tmp_path: Path) -> None:
    make_store(tmp_path, views=0, grid=False)
    with pytest.raises(InputError, match="holds no 'grid', only embedding, feature"):
        FeatureStore.open(tmp_path).gather([hashed(0)], "grid")


def test_gather_reads_only_the_rows_that_are_wanted(tmp_path: Path) -> None:
    # 256 MB of zeros as a sparse file: copying it all would show in the resident size
    wide = StoredEncoder("tiny", "f" * 64, 1 << 20, 1, (1, 1), "float32")
    plan = StorePlan(wide, 0, False, [[hashed(i) for i in range(64)]])
    (tmp_path / "shards").mkdir()
    plan.write(tmp_path)
    record = {"fingerprint": wide.fingerprint, "hashes": plan.shards[0], "skipped": {}}
    size = 64 * (4 << 20)
    header = {
        "__metadata__": {"crossgraft": json.dumps(record)},
        "embedding": {"dtype": "F32", "shape": [64, 1 << 20], "data_offsets": [0, size]},
        "feature": {"dtype": "F32", "shape": [64, 1], "data_offsets": [size, size + 256]},
    }
    with open(shard_path(tmp_path, 0), "wb") as file:
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size + 256)

    def resident_mb() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

    store = FeatureStore.open(tmp_path)
    before = resident_mb()
    rows = store.gather([hashed(9), hashed(50)])
    assert rows.shape == (2, 1 << 20)
    assert resident_mb() - before < 64


def test_shards_are_equal_to_the_byte_when_written_twice(tmp_path: Path) -> None:
    for attempt in range(8):
        make_store(tmp_path / str(attempt))
    for number in range(3):
        assert len({shard_path(tmp_path / str(attempt), number).read_bytes() for attempt in range(8)}) == 1


def test_a_shard_with_other_shapes_than_planned_is_not_written(tmp_path: Path) -> None:
    make_store(tmp_path)
    plan = StorePlan.read(tmp_path)
    shard_path(tmp_path, 2).unlink()
    tensors = random_tensors(plan, 1, 0) | {"feature": torch.zeros(1, 6)}
    with pytest.raises(InputError, match=r"expected .*'feature': \(1, 5\)"):
        write_shard(tmp_path, plan, 2, tensors, [hashed(6)], {})
    assert not shard_path(tmp_path, 2).exists()


def test_content_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    assert content_hash(tmp_path / "a") == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_a_folder_without_store_json_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no feature store here .*`crossgraft features"):
        FeatureStore.open(tmp_path)


# --- damaged and hostile shards


def rewrite(path: Path, **changes: Tensor) -> None:
    """Write a shard again with the same metadata and other tensors."""
    size = struct.unpack("<Q", path.read_bytes()[:8])[0]
    metadata = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    save_file({**load_file(path), **changes}, path, metadata)


def edit_record(path: Path, **changes: object) -> None:
    """Write a shard again with other metadata."""
    size = struct.unpack("<Q", path.read_bytes()[:8])[0]
    record = json.loads(json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]["crossgraft"])
    save_file(load_file(path), path, {"crossgraft": json.dumps({**record, **changes})})


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1, -8])
def test_a_truncated_shard_is_refused(tmp_path: Path, keep: int) -> None:
    make_store(tmp_path)
    path = shard_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"00001\.safetensors: damaged .* delete it"):
        FeatureStore.open(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding": torch.zeros(3, 3, dtype=torch.float16)}, r"expected float32 tensors .*F16"),
        ({"embedding": torch.zeros(3, 3, dtype=torch.int32)}, r"expected float32 tensors .*I32"),
        ({"feature": torch.zeros(3, 4)}, r"expected float32 tensors"),
        ({"embedding": torch.zeros(2, 3)}, r"expected float32 tensors"),
        ({"extra": torch.zeros(1)}, r"expected float32 tensors"),
    ],
)
def test_a_shard_with_other_tensors_is_refused(tmp_path: Path, changes: dict[str, Tensor], message: str) -> None:
    make_store(tmp_path)
    rewrite(shard_path(tmp_path, 0), **changes)
    with pytest.raises(InputError, match=rf"00000\.safetensors: {message}"):
        FeatureStore.open(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hashes": [hashed(1), hashed(0), hashed(2)]}, "holds other images"),
        ({"hashes": [hashed(0), hashed(1)]}, "holds other images"),
        ({"hashes": [hashed(0), hashed(1), hashed(9)]}, "holds other images"),
        ({"hashes": [[], {}, None]}, "holds other images"),
        ({"skipped": {"../../etc/passwd": "x"}}, "holds other images"),
        ({"hashes": "x"}, "not a shard"),
        ({"skipped": []}, "not a shard"),
        ({"skipped": {hashed(0): 3}}, "reasons"),
        ({"fingerprint": "0" * 64}, "made by the encoder with fingerprint 000"),
    ],
)
def test_a_shard_with_another_record_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    make_store(tmp_path)
    edit_record(shard_path(tmp_path, 0), **changes)
    with pytest.raises(InputError, match=rf"00000\.safetensors: .*{message}"):
        FeatureStore.open(tmp_path)


def test_a_shard_with_nan_is_refused_when_its_rows_are_read(tmp_path: Path) -> None:
    make_store(tmp_path)
    rewrite(shard_path(tmp_path, 0), feature=torch.full((3, 5), torch.nan))
    store = FeatureStore.open(tmp_path)
    store.gather([hashed(5)], "feature")
    with pytest.raises(InputError, match=r"00000\.safetensors: 'feature' holds NaN"):
        store.gather([hashed(1)], "feature")


def test_a_shard_replaced_or_removed_after_opening_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path)
    store = FeatureStore.open(tmp_path)
    shard_path(tmp_path, 2).unlink()
    with pytest.raises(InputError, match=r"00002\.safetensors"):
        store.gather([hashed(6)])
    shard_path(tmp_path, 0).write_bytes(shard_path(tmp_path, 1).read_bytes())
    with pytest.raises(InputError, match=r"00000\.safetensors: holds other images"):
        store.gather([hashed(0)])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_bytes_in_a_header_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("store")
    rows = make_store(folder / "s")["embedding"]
    path = shard_path(folder / "s", 0)
    content = bytearray(path.read_bytes())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for at in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=3)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        gathered = FeatureStore.open(folder / "s").gather([hashed(0), hashed(2)])
    except InputError as error:
        assert "00000.safetensors" in str(error)  # noqa: PT017
    else:  # a change of padding or to itself
        assert torch.equal(gathered, torch.stack([rows[hashed(0)], rows[hashed(2)]]))


# --- hostile store.json

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["../../x", hashed(0)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def places(value: object, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place inside a JSON value, as the keys and positions that lead there."""
    found = [at]
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += places(child, (*at, key))
    return found


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_change_of_store_json_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("store") / "s"
    rows = make_store(folder)["embedding"]
    content = json.loads((folder / "store.json").read_text())
    place = data.draw(st.sampled_from(places(content)[1:]))
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[place[-1]] = data.draw(JSON_VALUES)
    else:
        del holder[place[-1]]
    (folder / "store.json").write_text(json.dumps(content))
    try:
        store = FeatureStore.open(folder)
        for h in store.hashes:
            assert torch.equal(store.gather([h])[0], rows[h])
    except InputError as error:
        assert str(folder) in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "(not JSON|cannot be read)"),
        (b'{"schema_version": 1', "(not JSON|cannot be read)"),
        (b"\xff\xfe\x00", "(not JSON|cannot be read)"),
        (b"[" * 100_000, "(not JSON|cannot be read)"),
        (b"9" * 5000, "(not JSON|cannot be read)"),
        (b"[]", "key 'schema_version'"),
        (b'{"schema_version": 2}', "schema_version is 2, this crossgraft reads 1"),
        (b'{"schema_version": true}', "key 'schema_version'"),
    ],
)
def test_a_broken_store_json_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "store.json").write_bytes(text)
    with pytest.raises(InputError, match=rf"store\.json.*{message}"):
        FeatureStore.open(tmp_path)


def test_a_hash_planned_twice_is_refused(tmp_path: Path) -> None:
    StorePlan(ENCODER, 0, False, [[hashed(0)], [hashed(0)]]).write(tmp_path)
    with pytest.raises(InputError, match="planned twice"):
        FeatureStore.open(tmp_path)
