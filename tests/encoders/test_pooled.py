"""Pooled grids: what the pooling keeps, and an encoder that gives them, in one process and in several."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoder import TinyEncoder, make_images

from crossgraft.encoders.extract import extract
from crossgraft.encoders.load import load_encoder
from crossgraft.encoders.pooled import PooledGrid, pool_grid
from crossgraft.encoders.quantize import quantize_encoder
from crossgraft.encoders.store import FeatureStore, default_store
from crossgraft.errors import InputError

# -- pool_grid


@given(
    n=st.integers(1, 8),
    part=st.floats(0, 1),
    lead=st.lists(st.integers(0, 3), max_size=2),
    class_token=st.booleans(),
    seed=st.integers(0, 9),
)
def test_each_token_is_the_maximum_of_its_window(
    n: int, part: float, lead: list[int], class_token: bool, seed: int
) -> None:
    side = 1 + round(part * (n - 1))
    torch.manual_seed(seed)
    grid = torch.randn(*lead, n * n, 3)
    given_grid = torch.cat([torch.full((*lead, 1, 3), 99.0), grid], dim=-2) if class_token else grid
    pooled = pool_grid(given_grid, side)
    assert pooled.shape == (*lead, side * side, 3)
    square = grid.reshape(*lead, n, n, 3)
    for row in range(side):
        for column in range(side):
            rows, columns = (slice(i * n // side, -((-(i + 1) * n) // side)) for i in (row, column))
            expected = square[..., rows, columns, :].amax((-3, -2))
            assert torch.equal(pooled[..., row * side + column, :], expected)


def test_real_sizes_and_types() -> None:
    assert pool_grid(torch.randn(2, 197, 768)).shape == (2, 36, 768)
    assert pool_grid(torch.randn(49, 2048, dtype=torch.bfloat16)).dtype == torch.bfloat16
    grid = torch.randn(5, 49, 4)
    assert torch.equal(pool_grid(grid, 7), grid)
    assert torch.equal(pool_grid(grid, 1)[:, 0], grid.amax(1))


def test_gradients_go_to_the_maxima() -> None:
    grid = torch.randn(1, 5, 2, requires_grad=True)
    pool_grid(grid, 1).sum().backward()
    assert grid.grad is not None
    assert torch.equal(grid.grad[0, 0], torch.zeros(2))  # the class token
    assert grid.grad.sum() == 2


@pytest.mark.parametrize("tokens", [0, 3, 48, 51, 199])
def test_what_is_no_square_is_refused(tokens: int) -> None:
    with pytest.raises(InputError, match=f"{tokens} tokens are no square grid, with or without a class token"):
        pool_grid(torch.zeros(tokens, 4), 1)


@pytest.mark.parametrize("side", [-1, 0, 8])
def test_a_side_that_does_not_fit_is_refused(side: int) -> None:
    with pytest.raises(InputError, match=f"7 x 7 tokens cannot be pooled to a side of {side}: expected 1 to 7"):
        pool_grid(torch.zeros(50, 4), side)


# -- PooledGrid

DELEGATED = (
    "name",
    "embedding_dim",
    "feature_dim",
    "n_parameters",
    "logit_scale",
    "preprocess",
    "image_tower",
    "device",
    "dtype",
    "quantized",
)


def test_all_but_the_grid_is_the_encoder_s(tiny_clip: Path) -> None:
    inner = load_encoder(str(tiny_clip), device="cpu")
    encoder = PooledGrid(inner, side=2)
    assert (inner.grid_shape, encoder.grid_shape) == ((17, 32), (4, 32))
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole, pooled = inner.encode_images(pixels, grid=True), encoder.encode_images(pixels, grid=True)
    assert whole.grid is not None
    assert pooled.grid is not None
    assert torch.equal(pooled.grid, pool_grid(whole.grid, 2))
    assert torch.equal(pooled.embedding, whole.embedding)
    assert torch.equal(pooled.feature, whole.feature)
    assert encoder.encode_images(pixels).grid is None
    assert torch.equal(encoder.encode_texts(["a bird"]), inner.encode_texts(["a bird"]))
    for name in DELEGATED:
        assert getattr(encoder, name) == getattr(inner, name), name


def test_tokens_of_texts_are_the_encoder_s(tiny_clip: Path) -> None:
    encoder = load_encoder(str(tiny_clip))
    small = PooledGrid(encoder, 1)
    assert small.text_width == encoder.text_width
    assert torch.equal(small.encode_text_tokens(["a dog"]).tokens, encoder.encode_text_tokens(["a dog"]).tokens)
    assert TinyEncoder().text_width is None
    with pytest.raises(InputError, match="tiny-0 gives no tokens of texts"):
        TinyEncoder().encode_text_tokens(["a dog"])


def test_every_side_is_another_encoder() -> None:
    inner = TinyEncoder()
    encoders = [inner, PooledGrid(inner, 1), PooledGrid(inner, 2), PooledGrid(TinyEncoder(1), 2)]
    assert len({encoder.fingerprint for encoder in encoders}) == 4
    assert PooledGrid(TinyEncoder(), 2).fingerprint == encoders[2].fingerprint
    assert encoders[2].identity == inner.identity | {"fingerprint": encoders[2].fingerprint, "grid_side": 2}
    assert default_store(encoders[2]) != default_store(inner)


def test_a_grid_that_cannot_be_pooled_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="a grid of 4 x 4 tokens cannot be pooled to a side of 6"):
        PooledGrid(TinyEncoder())


def test_a_loader_makes_the_same_encoder_in_another_process(tiny_clip: Path) -> None:
    encoder = PooledGrid(load_encoder(str(tiny_clip), device="cpu", draft=True), 3)
    quantize_encoder(encoder)
    again = pickle.loads(pickle.dumps(encoder.loader("cpu")))()
    assert again.identity == encoder.identity
    assert (again.identity["dtype"], again.identity["draft"], again.grid_shape) == ("int8", True, (9, 32))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_store_of_pooled_grids(tmp_path: Path, tiny_clip: Path, workers: int) -> None:
    paths = make_images(tmp_path / "in", 6)
    inner = load_encoder(str(tiny_clip), device="cpu")
    encoder = PooledGrid(inner, 2)
    done = extract(paths, encoder, tmp_path / "out", grid=True, shard_size=2, workers=workers)
    store = FeatureStore.open(tmp_path / "out")
    grid = store.gather([done.hash_of[path] for path in paths], "grid")
    assert grid.shape == (6, 4, 32)
    pixels = torch.stack([encoder.preprocess(path) for path in paths])
    torch.testing.assert_close(grid, encoder.encode_images(pixels, grid=True).grid)

    again = PooledGrid(load_encoder(str(tiny_clip), device="cpu"), 2)
    store.check_encoder(again)
    assert extract(paths, again, tmp_path / "out", grid=True).reused == 6
    for other, shape in ((inner, "17 x 32"), (PooledGrid(inner, 3), "9 x 32")):
        with pytest.raises(InputError, match=rf"made by encoder .*, grid 4 x 32\), but .*, grid {shape}\)"):
            store.check_encoder(other)
