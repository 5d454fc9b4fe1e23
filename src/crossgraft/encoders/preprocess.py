"""From an image to the pixel tensor an encoder takes, equal to the encoder's Hugging Face image processor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crossgraft.encoders.images import ImageSource, read_draft, read_image
from crossgraft.errors import InputError

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# A random crop shows at least this share of the image (`augmented`), with a ratio of at most 4:3 either way.
_MIN_SCALE, _MAX_RATIO = 0.5, 4 / 3

# A long side over this many times the short side is cut before resizing, not after: a line of 1 x 5000 pixels would
# become 224 x 1,120,000 otherwise.
_MAX_STRETCH = 32


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop to the centre, scale to 0..1, normalise: any image -> (3, H, W) float32.

    With `draft=False` resizing is Pillow's, so the result equals that of the Hugging Face processor (on Pillow) to 1e-6
    for images it reads as we do: upright, opaque, 8 bits a channel. The one exception: images over 32 times as long as
    wide may differ by a few grey levels (1/255 before normalisation), because they are cut before resizing.

    With `draft=True` JPEGs are decoded at 1/2, 1/4 or 1/8 of their size as long as twice the target size is left, and
    torch resizes. Against `draft=False` that is 2 to 4 times as fast, and close: unscaled, one value in 200 is off by a
    grey level or two (squashing a tall image: one in 5, as Pillow then resizes its height first); scaled, photographs
    are off by 0.2 grey levels on average, rarely by more than 3. `benchmarks/preprocess.py` measures both.

    Attributes:
        size: the shortest side after resizing, as CLIP does it, or (height, width) whatever the aspect ratio, as SigLIP
            does it.
        crop: side of the square cut out of the centre, at most `size`; None cuts nothing.
        mean, std: of the three channels, on the scale 0..1.
        resample: "bicubic" or "bilinear".
        draft: read and resize faster, approximately.
    """

    size: int | tuple[int, int]
    crop: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: str = "bicubic"
    draft: bool = False

    def __post_init__(self) -> None:
        sides = self.size if isinstance(self.size, tuple) else (self.size,)
        if not all(_is_count(side) for side in sides) or (isinstance(self.size, tuple) and len(sides) != 2):
            raise InputError(f"preprocess: size must be a positive integer or (height, width), not {self.size!r}")
        if self.crop is None:
            if not isinstance(self.size, tuple):
                raise InputError("preprocess: a shortest side as size needs a crop, or images would differ in shape")
        elif not _is_count(self.crop) or self.crop > min(sides):
            raise InputError(f"preprocess: crop must be an integer from 1 to size ({self.size}), not {self.crop!r}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not isinstance(values, tuple) or len(values) != 3 or not all(_is_finite(value) for value in values):
                raise InputError(f"preprocess: {name} must be three finite numbers, not {values!r}")
        if min(self.std) <= 0:
            raise InputError(f"preprocess: std must be positive, not {self.std!r}")
        if self.resample not in _FILTERS:
            raise InputError(f"preprocess: resample must be one of {', '.join(_FILTERS)}, not {self.resample!r}")
        if not isinstance(self.draft, bool):
            raise InputError(f"preprocess: draft must be true or false, not {self.draft!r}")

    @property
    def output_size(self) -> tuple[int, int]:
        """(H, W) of the pixel tensor."""
        if self.crop is not None:
            return self.crop, self.crop
        assert isinstance(self.size, tuple)  # __post_init__ saw to it
        return self.size

    def __call__(self, source: ImageSource) -> Tensor:
        """Prepare one image -> (3, H, W) float32.

        Raises:
            UnreadableImage: what `crossgraft.encoders.images.read_image` refuses.
        """
        if not self.draft:
            image = read_image(source)
            return self._normalised(self._resized(image, image.height, image.width))
        draft = read_draft(source, at_least=2 * self._long_target)
        new_height, new_width = self._target(draft.height, draft.width)
        if self._cuts_first(new_height, new_width):
            small = Image.fromarray(draft.pixels)
            return self._normalised(self._resized(small, draft.height, draft.width, draft.divisor))
        batch = torch.from_numpy(draft.pixels).permute(2, 0, 1)[None]  # (1, 3, h, w) uint8, channels last in memory
        size: dict[str, Any] = {"size": (new_height, new_width)}
        if draft.divisor > 1:
            # The draft's last row and column stand for pixels beyond the image when its sides are no multiples of the
            # divisor, so the factors come from the image's own size. A hair more than exact, for the new size is
            # rounded down; the crop takes off what is too much.
            sides = ((new_height, draft.height), (new_width, draft.width))
            size = {"scale_factor": [new / old * draft.divisor * (1 + 1e-7) for new, old in sides]}
        batch = torch.nn.functional.interpolate(batch, **size, mode=self.resample, antialias=True)
        top, left, bottom, right = self._crop_box(new_height, new_width)
        return self._normalised(batch[0, :, top:bottom, left:right].permute(1, 2, 0).numpy())

    def augmented(self, source: ImageSource, seed: int) -> Tensor:
        """Prepare one random view -> (3, H, W) float32; the same seed gives the same view.

        A crop of 50 to 100 % of the area with a ratio of 3:4 to 4:3, resized to (H, W), mirrored every other time
        (random resized crop of Szegedy et al., "Going deeper with convolutions", 2015, section 6).

        Raises:
            UnreadableImage: as `__call__`.
        """
        rng = np.random.default_rng(seed)
        divisor = 1
        if self.draft:
            # The smallest crop's shorter side is this part of the image's shorter side.
            part = math.sqrt(_MIN_SCALE / _MAX_RATIO)
            pixels, height, width, divisor = read_draft(source, math.ceil(2 * self._long_target / part))
            image = Image.fromarray(pixels)
        else:
            image = read_image(source)
            width, height = image.size
        left, top, right, bottom = _random_box(height, width, rng)
        box = (left / divisor, top / divisor, right / divisor, bottom / divisor)
        view = image.resize(self.output_size[::-1], _FILTERS[self.resample], box=box)
        if rng.random() < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self._normalised(np.asarray(view))

    @property
    def _long_target(self) -> int:
        return self.size if isinstance(self.size, int) else max(self.size)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing; the long side is rounded down, as in the processors."""
        if isinstance(self.size, tuple):
            return self.size
        if width <= height:
            return int(self.size * height / width), self.size
        return self.size, int(self.size * width / height)

    def _cuts_first(self, new_height: int, new_width: int) -> bool:
        return self.crop is not None and max(new_height, new_width) > _MAX_STRETCH * min(new_height, new_width)

    def _crop_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of what is kept of a resized image."""
        if self.crop is None:
            return 0, 0, height, width
        top, left = (height - self.crop) // 2, (width - self.crop) // 2
        return top, left, top + self.crop, left + self.crop

    def _resized(self, image: Image.Image, height: int, width: int, divisor: int = 1) -> np.ndarray:
        """Resize and crop with Pillow -> (H, W, 3) uint8; the image is height x width, `divisor` times smaller."""
        new_height, new_width = self._target(height, width)
        top, left, bottom, right = self._crop_box(new_height, new_width)
        resample = _FILTERS[self.resample]
        if self._cuts_first(new_height, new_width):
            across, down = width / new_width / divisor, height / new_height / divisor
            box = (left * across, top * down, right * across, bottom * down)
            return np.asarray(image.resize(self.output_size[::-1], resample, box=box))
        return np.asarray(image.resize((new_width, new_height), resample).crop((left, top, right, bottom)))

    def _normalised(self, pixels: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (3, H, W) float32."""
        mean, std = np.array(self.mean)[:, None, None], np.array(self.std)[:, None, None]
        values = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
        values *= (1 / (255 * std)).astype(np.float32)
        values -= (mean / std).astype(np.float32)
        return torch.from_numpy(values)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, `draft` among them: it changes pixels, so it belongs to a fingerprint."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of `to_dict`.

        Raises:
            InputError: a key is unknown or missing, or a value is not allowed.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"preprocess: expected an object with the keys of to_dict, not {values!r}")
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise InputError(f"preprocess: unknown key {unknown[0]!r}; expected {', '.join(known)}")
        if missing := [name for name in known if name not in values]:
            raise InputError(f"preprocess: key {missing[0]!r} is missing")
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arguments)

    @classmethod
    def from_hf(cls, processor: Any, *, draft: bool = False) -> Preprocess:
        """From a Hugging Face processor, image processor or its `to_dict()`: CLIP, SigLIP, fixed-size SigLIP 2.

        Raises:
            InputError: the processor does something that `Preprocess` cannot express; the message names the field.
        """
        processor = getattr(processor, "image_processor", processor)
        config = dict(processor if isinstance(processor, Mapping) else processor.to_dict())
        return cls(**_hf_fields(config), draft=draft)


def _hf_fields(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Preprocess` (all but `draft`) that an image processor's configuration stands for."""

    def refuse(name: str, expected: str) -> InputError:
        return InputError(f"image processor: {name} is {config.get(name)!r}; this needs {expected}")

    expressed = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}
    for name, value in config.items():
        if value and ((name.startswith("do_") and name not in expressed) or name in ("max_num_patches", "crop_pct")):
            raise refuse(name, "it to be off (fixed-size CLIP, SigLIP and SigLIP 2 processors are understood)")
    for name in ("do_resize", "do_rescale"):
        if not config.get(name, True):
            raise refuse(name, "true")
    if not math.isclose(config.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise refuse("rescale_factor", "1/255")

    # CLIP's older files have plain integers.
    size, crop = config.get("size"), config.get("crop_size")
    size = {"shortest_edge": size} if isinstance(size, int) and config.get("do_center_crop") else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    if not isinstance(size, Mapping):
        raise refuse("size", '{"shortest_edge": n} or {"height": h, "width": w}')
    given = {key: value for key, value in size.items() if value is not None}
    if set(given) == {"shortest_edge"}:
        new_size: int | tuple[int, int] = given["shortest_edge"]
    elif set(given) == {"height", "width"}:
        new_size = (given["height"], given["width"])
    else:
        raise refuse("size", '{"shortest_edge": n} or {"height": h, "width": w}')
    side = None
    if config.get("do_center_crop"):
        if not isinstance(crop, Mapping) or crop.get("height") != crop.get("width"):
            raise refuse("crop_size", "a square: equal height and width")
        side = crop["height"]

    resample = {int(value): name for name, value in _FILTERS.items()}.get(config.get("resample", -1))
    if resample is None:
        raise refuse("resample", "2 (bilinear) or 3 (bicubic)")
    mean, std = (0.0,) * 3, (1.0,) * 3
    if config.get("do_normalize", True):
        for name in ("image_mean", "image_std"):
            if not isinstance(config.get(name), list | tuple):
                raise refuse(name, "three numbers")
        mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
    return {"size": new_size, "crop": side, "mean": mean, "std": std, "resample": resample}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _random_box(height: int, width: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a random crop inside an image of height x width, in pixels."""
    for _ in range(10):
        area = rng.uniform(_MIN_SCALE, 1) * height * width
        ratio = math.exp(rng.uniform(-math.log(_MAX_RATIO), math.log(_MAX_RATIO)))
        box_width, box_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if box_width <= width and box_height <= height:
            break
    else:  # a long image: as much of it as the last ratio allows
        shrink = min(width / box_width, height / box_height)
        box_width, box_height = min(box_width * shrink, width), min(box_height * shrink, height)
    left, top = rng.uniform(0, width - box_width), rng.uniform(0, height - box_height)
    # Sums may round to a hair more than the image, which Pillow refuses.
    return left, top, min(left + box_width, width), min(top + box_height, height)
