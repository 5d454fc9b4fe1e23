"""Pixel tensors equal the Hugging Face processors'; drafts stay close; views repeat; configurations round-trip."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from crossgraft.encoders import images
from crossgraft.encoders.images import UnreadableImage
from crossgraft.encoders.preprocess import Preprocess
from crossgraft.errors import InputError

# A fixed-size SigLIP 2 checkpoint is a SigLIP processor that resizes bilinearly.
PROCESSORS = {
    "clip": CLIPImageProcessorPil(),
    "clip-336": CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
    "clip-256-crop-224": CLIPImageProcessorPil(size={"shortest_edge": 256}),
    "siglip": SiglipImageProcessorPil(),
    "siglip2": SiglipImageProcessorPil(size={"height": 256, "width": 256}, resample=2),
    "wide": SiglipImageProcessorPil(size={"height": 64, "width": 192}),
}
SMALL = Preprocess(32, 32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
sides = st.integers(1, 400)


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colour with fine grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    return Image.fromarray((smooth + rng.normal(0, 5, (height, width, 1))).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def reference(processor: Any, data: bytes) -> Tensor:
    return processor(Image.open(io.BytesIO(data)), return_tensors="pt").pixel_values[0]


def grey_levels(difference: Tensor, preprocess: Preprocess) -> Tensor:
    return (difference * torch.tensor(preprocess.std)[:, None, None] * 255).abs()


# -- parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSORS)
@settings(max_examples=12, deadline=None)
@given(height=sides, width=sides, seed=st.integers(0, 3))
def test_equals_the_hugging_face_processor(name: str, height: int, width: int, seed: int) -> None:
    preprocess = Preprocess.from_hf(PROCESSORS[name])
    if preprocess.crop is not None and max(height, width) > 32 * min(height, width):
        return  # the documented exception, tested below
    data = jpeg(photo(height, width, seed))
    pixels = preprocess(data)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    assert pixels.shape == (3, *preprocess.output_size)
    assert (pixels - reference(PROCESSORS[name], data)).abs().max() < 1e-5


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "P"])
def test_equals_it_in_other_modes(mode: str) -> None:
    image = photo(90, 130).convert(mode)
    expected = PROCESSORS["clip"](image, return_tensors="pt").pixel_values[0]
    assert (Preprocess.from_hf(PROCESSORS["clip"])(image) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("library", ["simplejpeg", "pillow"])
@pytest.mark.parametrize("name", PROCESSORS)
@settings(max_examples=8, deadline=None)
@given(height=sides, width=sides, seed=st.integers(0, 3))
def test_drafts_of_small_images_differ_by_few_grey_levels(
    name: str, library: str, height: int, width: int, seed: int
) -> None:
    preprocess = Preprocess.from_hf(PROCESSORS[name], draft=True)
    if min(height, width) >= 4 * max(preprocess.output_size):
        return  # decoded smaller, tested below
    data = jpeg(photo(height, width, seed))
    with pytest.MonkeyPatch.context() as patch:
        if library == "pillow":
            patch.setattr(images, "simplejpeg", None)
        levels = grey_levels(preprocess(data) - reference(PROCESSORS[name], data), preprocess)
    assert levels.max() < 4.01
    assert levels.mean() < 0.5


@pytest.mark.parametrize("library", ["simplejpeg", "pillow"])
@pytest.mark.parametrize(("height", "width"), [(128, 192), (300, 260), (1025, 777)])
def test_scaled_drafts_stay_close(library: str, height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(photo(height, width))
    if library == "pillow":
        monkeypatch.setattr(images, "simplejpeg", None)
    draft = dataclasses.replace(SMALL, draft=True)
    levels = grey_levels(draft(data) - SMALL(data), SMALL)
    assert 0 < levels.mean() < 1.2
    assert levels.max() < 8


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1), (2, 90), (90, 2), (3000, 1), (1, 3000)])
def test_extreme_shapes(height: int, width: int, draft: bool) -> None:
    image = photo(height, width)
    small = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    preprocess = Preprocess.from_hf(small, draft=draft)
    levels = grey_levels(preprocess(image) - small(image, return_tensors="pt").pixel_values[0], preprocess)
    assert levels.max() < 4
    assert levels.mean() < 0.9


def test_a_line_of_pixels_does_not_fill_memory() -> None:
    line = Image.new("RGB", (200_000, 1), (10, 20, 30))  # 224 x 44,800,000 pixels if it were resized whole
    assert Preprocess.from_hf(PROCESSORS["clip"])(line).shape == (3, 224, 224)


def test_refused_images_are_refused() -> None:
    for preprocess in (SMALL, dataclasses.replace(SMALL, draft=True)):
        with pytest.raises(UnreadableImage, match="damaged"):
            preprocess(jpeg(photo(60, 60))[:500])
        with pytest.raises(UnreadableImage, match="not an image"):
            preprocess.augmented(b"text", seed=0)


# -- augmented --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draft", [False, True])
@settings(max_examples=20, deadline=None)
@given(height=sides, width=sides, seed=st.integers(0, 2**63))
def test_augmented_repeats_from_its_seed(draft: bool, height: int, width: int, seed: int) -> None:
    preprocess = dataclasses.replace(SMALL, draft=draft)
    data = jpeg(photo(height, width))
    state = np.random.get_state()[1].copy()
    torch_state = torch.get_rng_state()
    view = preprocess.augmented(data, seed)
    assert view.shape == (3, 32, 32)
    assert torch.equal(view, preprocess.augmented(data, seed))
    assert np.array_equal(state, np.random.get_state()[1])
    assert torch.equal(torch_state, torch.get_rng_state())


def test_augmented_shows_half_the_image_or_more_and_mirrors() -> None:
    # Red grows to the right and green downwards, so that the borders of a view can be read off its colours.
    y, x = np.mgrid[0:300, 0:400]
    ramps = np.stack([x * 255 / 399, y * 255 / 299, 0 * x], axis=-1).astype(np.uint8)
    plain = Preprocess((64, 64), None, (0.0,) * 3, (1.0,) * 3)
    areas, mirrored, ratios = [], 0, []
    for seed in range(200):
        red, green, _ = plain.augmented(Image.fromarray(ramps), seed)
        across, down = (red[:, -1] - red[:, 0]).mean().item(), (green[-1] - green[0]).mean().item()
        assert down > 0
        mirrored += across < 0
        areas.append(abs(across) * down)
        ratios.append(abs(across) * 400 / (down * 300))
    assert 0.45 < min(areas) < 0.55
    assert 0.9 < max(areas) < 1.01
    assert 0.7 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.4
    assert 70 < mirrored < 130


def test_augmented_drafts_show_the_same_view() -> None:
    data = jpeg(photo(900, 700))
    draft = dataclasses.replace(SMALL, draft=True)
    for seed in range(5):
        levels = grey_levels(draft.augmented(data, seed) - SMALL.augmented(data, seed), SMALL)
        assert levels.mean() < 0.8


# -- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("draft", [False, True])
def test_dictionaries_round_trip_through_json(name: str, draft: bool) -> None:
    preprocess = Preprocess.from_hf(PROCESSORS[name], draft=draft)
    values = json.loads(json.dumps(preprocess.to_dict()))
    assert Preprocess.from_dict(values) == preprocess
    assert values["draft"] is draft
    assert hash(preprocess) == hash(Preprocess.from_dict(values))


def test_from_hf_takes_dictionaries_processors_and_older_files() -> None:
    expected = Preprocess.from_hf(PROCESSORS["clip"])
    assert (expected.size, expected.crop, expected.resample) == (224, 224, "bicubic")
    assert Preprocess.from_hf(PROCESSORS["clip"].to_dict()) == expected
    assert Preprocess.from_hf(json.loads(PROCESSORS["clip"].to_json_string())) == expected
    assert Preprocess.from_hf({**PROCESSORS["clip"].to_dict(), "size": 224, "crop_size": 224}) == expected

    class Processor:
        image_processor = PROCESSORS["siglip2"]

    assert Preprocess.from_hf(Processor()) == Preprocess((256, 256), None, (0.5,) * 3, (0.5,) * 3, "bilinear")
    without = Preprocess.from_hf({**PROCESSORS["clip"].to_dict(), "do_normalize": False})
    assert (without.mean, without.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("do_resize", False),
        ("do_rescale", False),
        ("do_pad", True),
        ("rescale_factor", 1 / 127.5),
        ("size", {"shortest_edge": 224, "longest_edge": 300}),
        ("size", {"max_height": 224, "max_width": 300}),
        ("size", None),
        ("crop_size", {"height": 224, "width": 200}),
        ("crop_size", None),
        ("resample", 1),
        ("resample", None),
        ("image_mean", 0.5),
        ("crop_pct", 0.9),
    ],
)
def test_from_hf_refuses_what_it_cannot_express(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        Preprocess.from_hf({**PROCESSORS["clip"].to_dict(), field: value})


def test_from_hf_refuses_images_of_varying_size() -> None:
    with pytest.raises(InputError, match="max_num_patches"):
        Preprocess.from_hf(Siglip2ImageProcessorPil())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size"),
        ({"size": True}, "size"),
        ({"size": [224, 224, 3], "crop": None}, "size"),
        ({"size": "224"}, "size"),
        ({"crop": 33}, "crop"),
        ({"crop": -1}, "crop"),
        ({"crop": None}, "crop"),
        ({"mean": [0.5, 0.5]}, "mean"),
        ({"mean": [0.5, 0.5, "0.5"]}, "mean"),
        ({"mean": [0.5, 0.5, float("nan")]}, "mean"),
        ({"std": [0.5, 0.5, 0]}, "std"),
        ({"resample": "lanczos"}, "resample"),
        ({"resample": ["bicubic"]}, "resample"),
        ({"draft": 1}, "draft"),
        ({"sharpen": True}, "sharpen"),
    ],
)
def test_impossible_values_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocess.from_dict({**SMALL.to_dict(), **changes})


def test_missing_keys_are_refused_by_name() -> None:
    values = SMALL.to_dict()
    del values["draft"]
    with pytest.raises(InputError, match="'draft' is missing"):
        Preprocess.from_dict(values)
    with pytest.raises(InputError, match="expected an object"):
        Preprocess.from_dict([1, 2])  # type: ignore[arg-type]
