"""The page of what was retrieved: pictures with scores, and a name or a hash for what cannot be shown."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from crossgraft.encoders.retrieve import Hits, ImageBank
from crossgraft.encoders.store import FeatureStore, StoredEncoder, StorePlan, content_hash, write_shard
from crossgraft.errors import InputError
from crossgraft.files import write_json
from crossgraft.reporting.retrieved_page import explain

ENCODER = StoredEncoder("tiny", "f" * 64, embedding_dim=3, feature_dim=1, grid_shape=(1, 1), dtype="float32")
TEXTS = ["a red one", "the <b>blue</b> one"]


def embeddings() -> Tensor:
    return torch.eye(3)


@pytest.fixture
def bank(tmp_path: Path) -> ImageBank:
    """Three pictures and their store: red.png, green.png, blue.png."""
    paths = [tmp_path / f"{name}.png" for name in ("red", "green", "blue")]
    for path in paths:
        Image.new("RGB", (60, 40), path.stem).save(path)
    folder = tmp_path / "store"
    (folder / "shards").mkdir(parents=True)
    hashes = [content_hash(path) for path in paths]
    plan = StorePlan(ENCODER, 0, False, [hashes])
    plan.write(folder)
    write_shard(folder, plan, 0, {"embedding": embeddings(), "feature": torch.zeros(3, 1)}, hashes, {})
    write_json(folder / "files.json", {str(path): [1, 1, h] for path, h in zip(paths, hashes, strict=True)})
    return ImageBank.from_store(FeatureStore.open(folder))


@pytest.fixture
def hits() -> Hits:
    return ImageBank(embeddings()).search(torch.tensor([[0.9, 0.3, -0.1], [-0.5, 0.1, 0.6]]), 3)


def test_every_picture_is_held_once_and_shown_with_its_scores(bank: ImageBank, hits: Hits) -> None:
    page = explain(bank, TEXTS, hits)
    assert len(re.findall('href="data:image/jpeg;base64,', page)) == 3
    assert len(re.findall("<use ", page)) == 6
    assert [page.count(f">{name}.png<") for name in ("red", "green", "blue")] == [2, 2, 2]
    for score in hits.scores.flatten().tolist():
        assert f"{score:.3f}".replace("-", "\u2212") in page
    assert page.index("0.943") < page.index("0.314")  # best first
    assert "3 images for each of 2 texts" in page
    assert "Named, not shown" not in page


def test_texts_are_escaped_and_the_page_needs_nothing_else(bank: ImageBank, hits: Hits) -> None:
    page = explain(bank, TEXTS, hits)
    assert "the &lt;b&gt;blue&lt;/b&gt; one" in page
    assert "<b>blue" not in page
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)


def test_captions_stand_in_place_of_names(bank: ImageBank, hits: Hits) -> None:
    assert bank.hashes is not None
    page = explain(bank, TEXTS, hits, captions={bank.hashes[0]: "a <red> square"})
    assert page.count(">a &lt;red&gt; square<") == 2
    assert ">red.png<" not in page
    assert ">blue.png<" in page


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_missing_picture_is_named_with_its_hash(bank: ImageBank, hits: Hits, tmp_path: Path, damage: str) -> None:
    assert bank.hashes is not None
    if damage == "gone":
        (tmp_path / "blue.png").unlink()
    else:
        (tmp_path / "blue.png").write_bytes(b"other")
    page = explain(bank, TEXTS, hits, captions={bank.hashes[2]: "a blue square"})
    assert page.count(f">a blue square {bank.hashes[2][:12]}</span>") == 2
    assert "1 file moved, deleted or changed since they were encoded" in page
    assert len(re.findall("<use ", page)) == 4


def test_a_bank_that_knows_no_files_shows_hashes_or_rows(hits: Hits) -> None:
    assert ">row 2</span>" in explain(ImageBank(embeddings()), TEXTS, hits)
    hashes = [hashlib.sha256(bytes([i])).hexdigest() for i in range(3)]
    page = explain(ImageBank(embeddings(), hashes), TEXTS, hits)
    assert f">row 2 {hashes[2][:12]}</span>" in page
    assert hashes[2] in page


def test_as_many_texts_as_hits(bank: ImageBank, hits: Hits) -> None:
    with pytest.raises(InputError, match="1 texts, but hits for 2"):
        explain(bank, TEXTS[:1], hits)
