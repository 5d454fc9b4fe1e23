"""int8 image towers: close to float32, kept apart from it, and refused where they do not pay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from crossgraft.encoders.extract import extract
from crossgraft.encoders.load import load_encoder
from crossgraft.encoders.quantize import Int8Linear, quantize_encoder
from crossgraft.encoders.store import FeatureStore, default_store
from crossgraft.errors import InputError


def linear(bias: bool = True, k: int = 48, n: int = 24) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(k, n, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(48,), (1, 48), (7, 48), (2, 5, 48)])
def test_an_int8_layer_is_close_to_its_float_layer(bias: bool, shape: tuple[int, ...]) -> None:
    layer, x = linear(bias), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours, exact = Int8Linear(layer)(x), layer(x)
    assert (ours.shape, ours.dtype) == (exact.shape, torch.float32)
    assert 0 < (ours - exact).abs().max() < 0.02 * exact.abs().max()


def test_numbers_that_eight_bits_hold_come_out_exact() -> None:
    """Whole weights of which each row reaches 127, and rows of 256 levels: nothing is rounded."""
    layer = linear()
    generator = torch.Generator().manual_seed(1)
    layer.weight.copy_(torch.randint(-127, 128, layer.weight.shape, generator=generator))
    layer.weight[:, 0] = 127
    x = torch.randint(0, 256, (6, 48), generator=generator).float()
    x[:, 0], x[:, 1] = 0, 255
    x = x / 4 + torch.arange(6)[:, None]  # each row its own offset
    torch.testing.assert_close(Int8Linear(layer)(x), layer(x), rtol=1e-5, atol=1e-2)  # of results around 1e5


def test_a_row_s_scale_is_its_own() -> None:
    """An outlier token does not cost the others their levels, and a token does not depend on its batch."""
    layer, x = linear(), torch.randn(4, 48, generator=torch.Generator().manual_seed(1))
    x[0] *= 1e4
    int8 = Int8Linear(layer)
    torch.testing.assert_close(int8(x)[1:], int8(x[1:]), rtol=0, atol=0)
    assert functional.cosine_similarity(int8(x), layer(x)).min() > 0.999


@pytest.mark.parametrize("value", [0.0, 3.0, -1e4])
def test_a_constant_row_has_no_range_and_still_a_result(value: float) -> None:
    layer, x = linear(), torch.full((2, 48), value)
    torch.testing.assert_close(Int8Linear(layer)(x), layer(x), rtol=0.02, atol=0.05)


def test_a_row_that_is_no_number_stays_visible() -> None:
    x = torch.zeros(2, 48)
    x[1, 3] = torch.nan
    out = Int8Linear(linear())(x)
    assert out[0].isfinite().all()
    assert out[1].isnan().all()


def pixels(n: int = 8) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_an_int8_encoder_is_close_to_the_exact_one(tiny_clip: Path) -> None:
    exact, int8 = (load_encoder(str(tiny_clip), device="cpu", dtype=dtype) for dtype in ("float32", "int8"))
    layers = [module for module in int8.image_tower.modules() if isinstance(module, Int8Linear)]
    assert len(layers) == 2 * 6  # of two blocks: queries, keys, values, output, and the two of the MLP
    assert int8.identity == exact.identity | {"dtype": "int8"}
    assert int8.n_parameters == exact.n_parameters
    ours, theirs = int8.encode_images(pixels(), grid=True), exact.encode_images(pixels(), grid=True)
    assert not torch.equal(ours.embedding, theirs.embedding)
    assert functional.cosine_similarity(ours.embedding, theirs.embedding).min() > 0.999
    assert functional.cosine_similarity(ours.feature, theirs.feature).min() > 0.999
    torch.testing.assert_close(int8.encode_texts(["a bird"]), exact.encode_texts(["a bird"]), rtol=0, atol=0)


def test_features_of_the_two_are_never_mixed(tiny_clip: Path, colours: Path, tmp_path: Path) -> None:
    exact, int8 = (load_encoder(str(tiny_clip), device="cpu", dtype=dtype) for dtype in ("float32", "int8"))
    assert default_store(int8).name.endswith("-int8")
    assert default_store(int8) != default_store(exact)
    photos = sorted((colours / "red").iterdir())
    extract(photos, int8, tmp_path / "store", progress=False)
    assert FeatureStore.open(tmp_path / "store").plan.encoder.dtype == "int8"
    with pytest.raises(InputError, match="dtype=int8, not dtype=float32"):
        extract(photos, exact, tmp_path / "store", progress=False)


def test_int8_is_for_the_cpu(tiny_clip: Path) -> None:
    encoder = load_encoder(str(tiny_clip), device="cpu")
    encoder.device = torch.device("cuda")
    with pytest.raises(InputError, match="'int8' is for the CPU, not for cuda; use bfloat16"):
        quantize_encoder(encoder)


@pytest.mark.pocket
@pytest.mark.usefixtures("pocket_home")
def test_convolutions_do_not_gain_and_are_refused() -> None:
    with pytest.raises(InputError, match="does not pay for pocket-lite: its image tower consists of convolutions"):
        load_encoder("pocket-lite", device="cpu", dtype="int8")
