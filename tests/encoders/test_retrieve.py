"""Image banks: hits are those of a full sort, whatever blocks, threads, files; what cannot be searched is refused."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_encoder import TinyEncoder, make_images
from torch import Tensor

from crossgraft.encoders.extract import extract
from crossgraft.encoders.retrieve import Hits, ImageBank, retrieve
from crossgraft.encoders.store import FeatureStore, StoredEncoder, StorePlan, shard_path
from crossgraft.errors import CrossgraftError, InputError

ROOT = Path(__file__).parents[2]


def random_unit(*shape: int, seed: int = 0) -> Tensor:
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def naive(
    embeddings: Tensor,
    queries: Tensor,
    k: int,
    exclude: Sequence[set[int]] | None = None,
    distinct: float | None = None,
) -> list[list[int]]:
    """Rows by a full sort of float64 cosines, ties by row."""
    x, q = (torch.nn.functional.normalize(part.double(), dim=1) for part in (embeddings, queries))
    cosines = q @ x.T
    alike = x @ x.T
    found = []
    for number, row in enumerate(cosines):
        hits: list[int] = []
        for candidate in sorted(range(len(x)), key=lambda i: (-round(float(row[i]), 9), i)):
            barred = exclude is not None and candidate in exclude[number]
            near = distinct is not None and any(alike[candidate, hit] >= distinct for hit in hits)
            if not barred and not near and len(hits) < k:
                hits.append(candidate)
        found.append(hits)
    return found


def hashed(i: int) -> str:
    return hashlib.sha256(str(i).encode()).hexdigest()


# --- exact search


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_hits_are_those_of_a_full_sort_with_ties_by_row(data: st.DataObject) -> None:
    # halves in four dimensions: unit, few, and with products that no rounding touches
    n, count = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x, queries = (torch.from_numpy(rng.choice([-0.5, 0.5], (m, 4))).float() for m in (n, count))
    k = data.draw(st.integers(1, n))
    exclude = [set(rng.choice(n, rng.integers(0, n - k + 1), replace=False).tolist()) for _ in range(count)]
    hits = ImageBank(x).search(queries, k, block=data.draw(st.integers(1, n + 5)), exclude=exclude)
    assert hits.rows.tolist() == naive(x, queries, k, exclude)
    assert torch.equal(hits.scores, (queries @ x.T).gather(1, hits.rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 8, 700])
def test_random_embeddings_of_any_length_and_dtype(dtype: torch.dtype, k: int) -> None:
    x = (random_unit(700, 24) * torch.linspace(0.1, 30, 700)[:, None]).to(dtype)
    queries = 5 * random_unit(9, 24, seed=1)
    hits = ImageBank(x).search(queries, k)
    assert hits.rows.tolist() == naive(x.float(), queries, k)
    cosines = torch.nn.functional.cosine_similarity(queries[:, None], x.float()[None], dim=-1)
    assert torch.allclose(hits.scores, cosines.gather(1, hits.rows), atol=1e-6)
    assert (hits.scores.dtype, hits.rows.dtype) == (torch.float32, torch.int64)


def test_blocks_threads_and_autocast_change_no_bit() -> None:
    x, queries = random_unit(3001, 40), random_unit(300, 40, seed=1)  # more queries than go through the bank at once
    bank = ImageBank(x)
    expected = bank.search(queries, 12)
    assert expected.rows[:20].tolist() == naive(x, queries[:20], 12)
    for block in (7, 64, 1000, 3000, 10**6):
        for one, other in zip(bank.search(queries, 12, block=block), expected, strict=True):
            assert torch.equal(one, other)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch.autocast("cpu", torch.bfloat16):
            found = bank.search(queries, 12)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found.rows, expected.rows)
    assert torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize("block", [5, 64, 1000])
def test_equal_images_come_in_the_order_of_their_rows(block: int) -> None:
    x = random_unit(1, 17).expand(300, 17)
    hits = ImageBank(x).search(random_unit(3, 17, seed=1), 9, block=block)
    assert hits.rows.tolist() == [list(range(9))] * 3
    assert (hits.scores == hits.scores[:, :1]).all()


def test_rows_that_grow_ever_nearer_to_the_query() -> None:
    angles = torch.linspace(3, 0.01, 5000)
    x = torch.stack([angles.cos(), angles.sin()], 1)
    hits = ImageBank(x).search(torch.tensor([[1.0, 0.0]]), 5, block=512)
    assert hits.rows.tolist() == [[4999, 4998, 4997, 4996, 4995]]


def test_one_query_among_many_that_has_a_crowd() -> None:
    x = torch.nn.functional.normalize(random_unit(1, 20) + 0.01 * random_unit(4000, 20, seed=1), dim=1)
    x[:50] = random_unit(50, 20, seed=2)
    queries = torch.cat([x[100:101], random_unit(30, 20, seed=3)])
    assert ImageBank(x).search(queries, 6, block=500).rows[0].tolist() == naive(x, queries[:1], 6)[0]


def test_excluded_rows_are_not_found() -> None:
    x = random_unit(50, 8)
    bank = ImageBank(x)
    hits = bank.search(x[:3], 2, exclude=[{0}, None, torch.tensor([2, 2, 7])], block=16)
    assert hits.rows[:, 0].tolist() != [0, 1, 2]
    assert hits.rows.tolist() == naive(x, x[:3], 2, [{0}, set(), {2, 7}])
    assert bank.search(x[:1], 1, exclude=[set(range(49))]).rows.tolist() == [[49]]


def test_no_queries_have_no_hits() -> None:
    hits = ImageBank(random_unit(5, 4)).search(torch.empty(0, 4), 2)
    assert (hits.scores.shape, hits.rows.shape) == ((0, 2), (0, 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_bank_on_a_device_finds_what_it_finds_on_the_cpu() -> None:
    bank, queries = ImageBank(random_unit(5000, 64)), random_unit(20, 64, seed=1)
    expected = bank.search(queries, 5, exclude=[{3}] * 20)
    there = bank.to("cuda").search(queries, 5, exclude=[{3}] * 20)
    assert there.rows.device.type == "cuda"
    assert torch.equal(there.rows.cpu(), expected.rows)
    assert torch.allclose(there.scores.cpu(), expected.scores)


# --- where embeddings come from


def resident(kind: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def test_a_memory_map_is_searched_without_being_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", random_unit(60_000, 256).numpy())  # 61 MB
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    queries = random_unit(4, 256, seed=1)
    ImageBank(mapped[:10]).search(queries, 3)
    before = resident("RssAnon")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hits = ImageBank(mapped).search(queries, 3, block=2048)
    assert resident("RssAnon") - before < 20e6
    assert hits.rows.tolist() == (queries @ torch.from_numpy(np.array(mapped)).T).topk(3).indices.tolist()


def test_a_part_of_an_array_and_a_turned_one() -> None:
    x = random_unit(90, 12).numpy()
    for part in (x[::3], x.T.copy().T, x[:, 2:9]):
        queries = torch.from_numpy(part[:4].copy())
        assert ImageBank(part).search(queries, 4, block=13).rows.tolist() == naive(torch.tensor(part), queries, 4)


def test_what_is_given_is_not_changed() -> None:
    x, queries = 3 * random_unit(20, 6), 2 * random_unit(2, 6, seed=1)
    copies = x.clone(), queries.clone()
    ImageBank(x).search(queries, 3)
    assert torch.equal(x, copies[0])
    assert torch.equal(queries, copies[1])


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (torch.empty(0, 4), "the bank is empty"),
        (torch.ones(4), r"expected embeddings \(N, d\).*found \(4,\)"),
        (torch.ones(2, 3, 4), r"found \(2, 3, 4\)"),
        (torch.ones(2, 3, dtype=torch.int64), "found .*int64"),
        (torch.tensor([[1.0, 0], [torch.nan, 0]]), "row 1 holds NaN, infinity"),
        (torch.tensor([[torch.inf, 0], [1.0, 0]]), "row 0 holds NaN, infinity"),
        (torch.tensor([[1.0, 0], [0, 0], [0, 0]]), r"row 1 is zero \(one of 2 such rows\)"),
        ([[1.0, 0.0]], "expected a tensor or a NumPy array, found list"),
        (np.ones((2, 3), dtype=">f4"), "cannot be read"),
    ],
)
def test_embeddings_that_cannot_be_searched_are_refused(embeddings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageBank(embeddings)


@pytest.mark.parametrize(
    ("hashes", "message"),
    [([hashed(0)], "1 for 2 embeddings"), ([hashed(0), "cat.jpg"], "'cat.jpg' is no SHA-256")],
)
def test_hashes_that_do_not_fit_are_refused(hashes: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageBank(torch.eye(2), hashes)


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        (torch.ones(2, 5), {}, r"expected \(Q, 4\).*found \(2, 5\)"),
        (torch.ones(4), {}, r"found \(4,\)"),
        (torch.ones(1, 4, dtype=torch.int32), {}, "found .*int32"),
        (torch.tensor([[1.0, 0, 0, 0], [0, torch.nan, 0, 0]]), {}, "number 2 of 2 holds NaN"),
        (torch.zeros(1, 4), {}, "number 1 of 1 is zero"),
        (torch.ones(1, 4), {"k": 5}, "k is 5, expected a whole number from 1 to 4"),
        (torch.ones(1, 4), {"k": 0}, "k is 0"),
        (torch.ones(1, 4), {"k": 1.0}, "k is 1.0"),
        (torch.ones(1, 4), {"exclude": [None, None]}, "2 collections for 1 queries"),
        (torch.ones(1, 4), {"exclude": [{4}]}, "row 4 for query number 1"),
        (torch.ones(1, 4), {"exclude": [{-1}]}, "row -1 for query number 1"),
        (torch.ones(2, 4), {"k": 3, "exclude": [None, {0, 1}]}, "query number 2 may get 2 of 4"),
        (torch.ones(1, 4), {"block": 0}, "block is 0"),
        (torch.ones(1, 4), {"engine": "annoy"}, "engine 'annoy' is unknown: choose from exact, faiss"),
        (torch.ones(1, 4), {"distinct": 1.5}, "distinct is 1.5"),
        (torch.ones(1, 4), {"distinct": 0.0}, "distinct is 0.0"),
        ([1.0], {}, "found list"),
    ],
)
def test_searches_that_cannot_be_made_are_refused(queries: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageBank(torch.eye(4)).search(queries, **{"k": 1, **options})


# --- faiss


def test_faiss_finds_the_same() -> None:
    pytest.importorskip("faiss")
    x = random_unit(3000, 48) * torch.linspace(1, 2, 3000)[:, None]
    x[1000:1010] = x[5]
    bank, queries = ImageBank(x), torch.cat([random_unit(20, 48, seed=1), x[5:6]])
    options: list[dict[str, Any]] = [{}, {"exclude": [{5, 1000, 2999}] * 21}, {"distinct": 0.9}]
    for option in options:
        exact, other = bank.search(queries, 6, **option), bank.search(queries, 6, engine="faiss", **option)
        assert torch.equal(exact.rows, other.rows)
        assert torch.allclose(exact.scores, other.scores, atol=1e-6)
    assert bank.search(queries[-1:], 3, engine="faiss").rows.tolist() == [[5, 1000, 1001]]
    assert bank.search(queries, 3000, engine="faiss").rows.sort().values.equal(torch.arange(3000).expand(21, 3000))


def test_without_faiss_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CrossgraftError, match=r"pip install 'crossgraft\[search\]'"):
        ImageBank(torch.eye(3)).search(torch.ones(1, 3), 1, engine="faiss")


# --- near-duplicates


def crowds(n: int, centres: int, d: int = 16, spread: float = 0.08) -> Tensor:
    """Vectors in crowds, of which some are near-duplicates."""
    place = torch.randint(centres, (n,), generator=torch.Generator().manual_seed(2))
    return torch.nn.functional.normalize(random_unit(centres, d)[place] + spread * random_unit(n, d, seed=1), dim=1)


def greedy(x: Tensor, threshold: float) -> list[int]:
    kept: list[int] = []
    for row in range(len(x)):
        if not kept or (x[kept].double() @ x[row].double()).max() < threshold:
            kept.append(row)
    return kept


@pytest.mark.parametrize("block", [1, 17, 100, 1024])
@pytest.mark.parametrize("length", [1.0, 3.0])
def test_the_first_of_near_duplicates_stays(block: int, length: float) -> None:
    x = crowds(400, 60)
    kept = greedy(x, 0.995)
    assert 60 < len(kept) < 350
    bank = ImageBank(length * x, [hashed(i) for i in range(400)], "f" * 64)
    thin = bank.without_near_duplicates(0.995, block=block)
    assert thin.hashes == [hashed(i) for i in kept]
    assert (len(bank), thin.fingerprint) == (400, "f" * 64)
    queries = random_unit(7, 16, seed=3)
    assert thin.search(queries, 5, block=33).rows.tolist() == naive(x[kept], queries, 5)
    assert torch.allclose(thin.features(torch.tensor([[3, 1, 3]]))[0], x[kept][[3, 1, 3]], atol=1e-6)
    thinner = thin.without_near_duplicates(0.9, progress=False)
    assert thinner.hashes == [hashed(kept[i]) for i in greedy(x[kept], 0.9)]


def test_what_is_near_a_row_that_went_may_stay() -> None:
    angles = torch.deg2rad(torch.tensor([0.0, 8.0, 16.0]))  # cos 8 = 0.990, cos 16 = 0.961
    thin = ImageBank(torch.stack([angles.cos(), angles.sin()], 1)).without_near_duplicates(0.98)
    assert thin.features(torch.tensor([[0, 1]]))[0, :, 0].tolist() == pytest.approx([1, 0.9613], abs=1e-4)


def test_equal_images_are_near_at_a_threshold_of_one() -> None:
    x = random_unit(40, 33).repeat(2, 1)
    assert len(ImageBank(x).without_near_duplicates(1.0)) == 40
    assert ImageBank(x).search(x[:5], 2, distinct=1.0).rows[:, 0].tolist() == list(range(5))
    assert (ImageBank(x).search(x[:5], 2, distinct=1.0).rows < 40).all()


@pytest.mark.parametrize("bad", [{"threshold": 0.0}, {"threshold": 1.1}, {"threshold": torch.nan}, {"block": 0}])
def test_senseless_thresholds_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(bad))} is"):
        ImageBank(torch.eye(3)).without_near_duplicates(**bad)


@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.999])
def test_distinct_hits_are_those_of_a_greedy_choice(threshold: float) -> None:
    x, queries = crowds(500, 8), random_unit(6, 16, seed=3)  # crowds of 60: the first candidates are not enough
    exclude = [set(range(number, 500, 7)) for number in range(6)]
    hits = ImageBank(2 * x).search(queries, 4, distinct=threshold, exclude=exclude, block=90)
    assert hits.rows.tolist() == naive(x, queries, 4, exclude, threshold)
    cosines = (queries @ x.T).gather(1, hits.rows)
    assert torch.allclose(hits.scores, cosines, atol=1e-6)


def test_too_few_distinct_hits_are_an_error() -> None:
    x = torch.eye(3).repeat(100, 1)
    assert ImageBank(x).search(torch.ones(1, 3), 3, distinct=0.98).rows.tolist() == [[0, 1, 2]]
    with pytest.raises(InputError, match=r"query number 1 has only 3 hits .* expected k=4"):
        ImageBank(x).search(torch.ones(2, 3), 4, distinct=0.98)


# --- stores and texts


class Reader(TinyEncoder):
    """Its texts name image files; it reads them as their pictures."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        super().__init__(seed)
        self.folder = folder

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        pixels = torch.stack([self.preprocess(self.folder / text) for text in texts])
        return self.encode_images(pixels).embedding


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return make_images(tmp_path / "photos", 11)


@pytest.fixture
def store(photos: list[Path], tmp_path: Path) -> FeatureStore:
    """11 images in shards of 4, with grids."""
    return extract(photos, TinyEncoder(), tmp_path / "store", grid=True, shard_size=4, progress=False).store


def test_a_text_finds_its_image_in_a_store(store: FeatureStore, photos: list[Path]) -> None:
    encoder = Reader(photos[0].parent)
    bank = ImageBank.from_store(store, encoder)
    names = [photos[i].name for i in (7, 0, 10)]
    hits = retrieve(bank, encoder, names, 2)
    assert isinstance(hits, Hits)
    assert hits.rows[:, 0].tolist() == [7, 0, 10]
    assert hits.scores[:, 0].tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    assert [paths[0] for paths in bank.paths(hits.rows)] == [photos[i] for i in (7, 0, 10)]
    assert bank.hashes == store.hashes
    row = bank.row_of(store.hashes[7])
    assert row == 7
    assert bank.row_of("0" * 64) is None
    others = retrieve(bank, encoder, names[:1], 2, exclude=[{row}])
    assert others.rows[0, 0] == hits.rows[0, 1]
    assert repr(bank) == "ImageBank(11 x 8 on cpu)"


def test_a_bank_of_a_store_finds_what_one_of_a_tensor_finds(store: FeatureStore) -> None:
    X = store.gather(store.hashes)
    queries = random_unit(5, 8)
    for block in (1, 3, 4, 5, 100):  # within shards, over shards
        assert torch.equal(
            ImageBank.from_store(store).search(queries, 6, block=block).rows, ImageBank(X).search(queries, 6).rows
        )
    moved = ImageBank.from_store(store).to("cpu")
    assert torch.equal(moved.search(queries, 6).scores, ImageBank(X).search(queries, 6).scores)
    assert moved.store is store


def test_features_of_hits_are_read_once_each(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = ImageBank.from_store(store)
    rows = torch.tensor([[9, 2, 9], [0, 9, 2]])
    asked: list[list[str]] = []
    gather = store.gather
    monkeypatch.setattr(store, "gather", lambda hashes, name: asked.append(list(hashes)) or gather(hashes, name))
    for name, shape in (("embedding", (8,)), ("feature", (48,)), ("grid", (16, 3))):
        found = bank.features(rows, name)
        assert found.shape == (2, 3, *shape)
        expected = gather([store.hashes[row] for row in rows.flatten().tolist()], name)
        assert torch.allclose(found.flatten(0, 1), expected, atol=1e-6)
    assert asked == [[store.hashes[row] for row in (0, 2, 9)]] * 2
    thin = bank.without_near_duplicates(0.99999)
    assert torch.equal(thin.features(rows, "grid"), bank.features(rows, "grid"))


def test_a_bank_without_a_store_has_embeddings_only() -> None:
    bank = ImageBank(2 * torch.eye(3))
    rows = torch.tensor([[2, 0]])
    assert torch.equal(bank.features(rows), torch.eye(3)[rows])
    assert bank.paths(rows) == [[None, None]]
    assert bank.row_of(hashed(0)) is None
    with pytest.raises(InputError, match="made of embeddings alone and has no 'feature'"):
        bank.features(rows, "feature")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.tensor([0, 1]), r"expected \(Q, k\) int64.*found \(2,\)"),
        (torch.tensor([[0.0]]), "float32"),
        (torch.tensor([[0, 3]]), "from 0 to 3, but the bank has 0 to 2"),
        (torch.tensor([[-1, 0]]), "from -1 to 0"),
    ],
)
def test_rows_that_a_bank_does_not_have_are_refused(rows: Tensor, message: str) -> None:
    bank = ImageBank(torch.eye(3))
    for work in (bank.features, bank.paths):
        with pytest.raises(InputError, match=message):
            work(rows)


def test_features_that_a_store_lacks_are_named(photos: list[Path], tmp_path: Path) -> None:
    store = extract(photos, TinyEncoder(), tmp_path / "no-grid", progress=False).store
    with pytest.raises(InputError, match="holds no 'grid', only embedding, feature"):
        ImageBank.from_store(store).features(torch.tensor([[0]]), "grid")


def test_another_encoder_is_refused(store: FeatureStore, photos: list[Path]) -> None:
    other = Reader(photos[0].parent, seed=5)
    with pytest.raises(InputError, match=r"made by encoder tiny-0 .* but this encoder is tiny-5"):
        ImageBank.from_store(store, other)
    with pytest.raises(InputError, match="but this encoder is tiny-5"):
        retrieve(ImageBank.from_store(store), other, [photos[0].name], 1)
    plain = ImageBank(store.gather(store.hashes), fingerprint=store.plan.encoder.fingerprint)
    with pytest.raises(InputError, match=r"the bank was made by the encoder with fingerprint 000.* is tiny-5"):
        retrieve(plain, other, [photos[0].name], 1)
    assert retrieve(plain, Reader(photos[0].parent), [photos[3].name], 1).rows.tolist() == [[3]]
    assert len(retrieve(ImageBank(store.gather(store.hashes)), other, [photos[3].name], 1).rows) == 1  # nothing known


def test_files_that_moved(store: FeatureStore, photos: list[Path]) -> None:
    rows = torch.tensor([[1, 4]])
    twin = photos[1].with_name("!twin.png")
    twin.write_bytes(photos[1].read_bytes())
    extract([*photos, twin], TinyEncoder(), store.path, grid=True, shard_size=4, progress=False)
    twin.unlink()
    assert ImageBank.from_store(store).paths(rows) == [[photos[1], photos[4]]]  # the one that is there
    photos[1].unlink()
    assert ImageBank.from_store(store).paths(rows) == [[twin, photos[4]]]
    for content in ("", "[]", json.dumps({"a": 3, "b": [1, 2, 3]})):
        (store.path / "files.json").write_text(content)
        assert ImageBank.from_store(store).paths(rows) == [[None, None]]


def test_an_empty_store_makes_no_bank(tmp_path: Path) -> None:
    encoder = StoredEncoder("tiny", "f" * 64, 3, 5, (4, 2), "float32")
    StorePlan(encoder, 0, False, [[hashed(0)]]).write(tmp_path)
    with pytest.raises(InputError, match="no bank can be made of this store: the bank is empty"):
        ImageBank.from_store(FeatureStore.open(tmp_path))


def test_shards_that_are_not_written_yet_are_left_out(store: FeatureStore) -> None:
    shard_path(store.path, 1).unlink()
    half = FeatureStore.open(store.path)
    bank = ImageBank.from_store(half)
    assert len(bank) == 7
    everything = store.hashes[:4] + store.hashes[8:]
    assert bank.hashes == everything
    rows = torch.tensor([[5]])
    assert torch.equal(bank.features(rows, "feature")[0], half.gather([everything[5]], "feature"))


def test_a_damaged_shard_is_named(store: FeatureStore) -> None:
    path = shard_path(store.path, 1)
    tensors = load_file(path)
    tensors["embedding"][2] = torch.nan
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(size))["__metadata__"]
    save_file(tensors, path, metadata)
    with pytest.raises(InputError, match=r"00001\.safetensors: row 2 holds NaN"):
        ImageBank.from_store(store)
    path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"00001\.safetensors: damaged"):
        ImageBank.from_store(store)


@pytest.mark.pocket
@pytest.mark.usefixtures("pocket_home")
def test_the_page_in_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "retrieval.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {}
    exec(example, found)
    assert found["bank"].paths(found["hits"].rows)[0][0].name == "strawberry.webp"
    assert (tmp_path / "retrieved.html").stat().st_size > 10_000
