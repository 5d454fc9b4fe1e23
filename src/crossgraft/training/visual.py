"""Visual features of examples: from a store that is filled once, or from arrays that examples name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from crossgraft.encoders.extract import extract
from crossgraft.encoders.load import grid_width, load_encoder
from crossgraft.encoders.meter import Meter
from crossgraft.encoders.pooled import grid_side, pool_grid, pooled
from crossgraft.encoders.store import FeatureStore, default_store
from crossgraft.errors import InputError
from crossgraft.files import sha256_file
from crossgraft.tasks import Example
from crossgraft.tasks.images import ARRAYS
from crossgraft.tasks.video import count_rows, read_features
from crossgraft.training.recipe import Recipe
from crossgraft.training.settings import Visual
from crossgraft.training.standard import Standard

IN_MEMORY = 2 * 2**30  # bytes of features that are held in memory; more stay on disk


@dataclass
class VisualSource:
    """Gives the features of examples. Make one with `open`.

    Attributes:
        feature_width: g.
        side: as in `Visual`.
        fingerprint: of the encoder, or None where features came as arrays.
        standard: what standardises the features, or None to leave them as they are.
    """

    feature_width: int
    side: int | None
    store: FeatureStore | None = None
    hash_of: dict[Path, str] = field(default_factory=dict)
    skipped: dict[Path, str] = field(default_factory=dict)
    fingerprint: str | None = None
    standard: Standard | None = None

    def __post_init__(self) -> None:
        self._held: dict[tuple[str, str], Tensor] = {}

    @classmethod
    def open(
        cls,
        visual: Visual,
        examples: Iterable[Example],
        kinds: set[str],
        *,
        device: str = "auto",
        looked_at: bool = True,
    ) -> VisualSource:
        """Make ready what the examples need: image files are encoded, once, into a store.

        Args:
            kinds: what tasks ask for, "grid" or "frames" or both.
            looked_at: whether any method looks at images; if none does and no example has one, nothing about them need
                be known.

        Raises:
            InputError: there are image files and no encoder; arrays are of another width.
        """
        paths = list(dict.fromkeys(path for example in examples for path in example.images))
        images = [path for path in paths if path.suffix not in ARRAYS]
        side = visual.side if kinds == {"grid"} else None  # frames are of any number
        widths, skipped = _array_widths([path for path in paths if path.suffix in ARRAYS], side)
        if not images:
            width, where = next(((found, str(path)) for path, found in widths.items()), (None, "the encoder"))
            width = width or known_width(visual, needed=looked_at or bool(paths))
            source = cls(_agreed(visual, width, where), visual.side, skipped=skipped)
            source._check(widths)
            return source
        if visual.encoder is None:
            raise InputError(
                f"visual.encoder is needed: {images[0]} and {len(images) - 1} others are image files; name one, "
                "such as pocket-clip"
            )
        inner = load_encoder(visual.encoder, device=device, dtype=visual.dtype)
        encoder = pooled(inner, visual.side)
        own = {"grid": encoder.grid_shape[1], "frames": encoder.feature_dim}
        if len({own[kind] for kind in kinds}) > 1:
            raise InputError(
                f"{visual.encoder} gives grids {own['grid']} and frames {own['frames']} wide: tasks of images and of "
                "videos cannot share a run with it"
            )
        width = _agreed(visual, own[min(kinds)], visual.encoder)
        done = extract(
            images, encoder, visual.store or default_store(encoder, grid=visual.side is None), grid=True, wait=True
        )
        skipped |= {Path(str(entry["path"])): str(entry["reason"]) for entry in done.skipped}
        source = cls(width, visual.side, done.store, done.hash_of, skipped, encoder.fingerprint)
        source._check(widths)
        source._hold()
        return source

    def unusable(self, example: Example) -> str | None:
        """Why an example cannot be used, or None: a bad image costs that example, not the run."""
        for path in example.images:
            if path in self.skipped:
                return f"{path}: {self.skipped[path]}"
        return None

    def identity(self, path: Path) -> str:
        """Says what an image or array is, whatever it is called: the hash of its content."""
        if path not in self.hash_of:
            self.hash_of[path] = sha256_file(path)
        return self.hash_of[path]

    def of(self, example: Example, kind: str) -> Tensor:
        """Features of an example: kind "grid": (I, T, g), "frames": (1, F, g)."""
        parts = [self._one(path, kind, example.rows) for path in example.images]
        features = torch.stack(parts) if kind == "grid" else torch.cat(parts)[None]
        return features if self.standard is None else self.standard(features)

    def _one(self, path: Path, kind: str, rows: tuple[int, ...]) -> Tensor:
        """An image's grid (T, g); as frames: its tokens (n, g), one for an image file."""
        if path.suffix in ARRAYS:
            array = torch.tensor(read_features(path, rows))
            whole = kind != "grid" or self.side is None or len(array) == self.side**2
            return array if whole else pool_grid(array, self.side or 1)
        assert self.store is not None
        name = "grid" if kind == "grid" else "feature"
        h = self.hash_of[path]
        held = self._held.get((name, h))
        found = held if held is not None else self.store.gather([h], name)[0]
        return found if kind == "grid" else found[None]

    def _check(self, widths: Mapping[Path, int]) -> None:
        for path, width in widths.items():
            if width != self.feature_width:
                raise InputError(f"{path}: features are {width} wide, expected {self.feature_width}")

    def _hold(self) -> None:
        """Keep all grids in memory if they are not too many."""
        assert self.store is not None
        hashes = list(dict.fromkeys(self.hash_of.values()))
        tokens, width = self.store.plan.encoder.grid_shape
        if hashes and len(hashes) * tokens * width * 4 <= IN_MEMORY:
            grids, pooled = self.store.gather(hashes, "grid"), self.store.gather(hashes, "feature")
            for row, h in enumerate(hashes):
                self._held["grid", h], self._held["feature", h] = grids[row], pooled[row]


def _array_widths(paths: Sequence[Path], side: int | None) -> tuple[dict[Path, int], dict[Path, str]]:
    """The widths of arrays, and why others cannot be used; of each, a row is read.

    side: of the grids that they are pooled to; None: they are taken as they are.
    """
    widths, skipped = {}, {}
    with Meter(True, unit="files") as meter:
        meter.start("checking features", len(paths))
        for path in paths:
            try:
                if side is not None and (tokens := count_rows(path)) != side**2:
                    grid_side(tokens, side)
                widths[path] = read_features(path, (0,)).shape[-1]
            except InputError as error:
                skipped[path] = str(error).removeprefix(f"{path}: ")
            meter.advance(1)
    return widths, skipped


def looks_at_images(recipe: Recipe) -> bool:
    """Whether any of a recipe's methods does, and has to be told how wide their features are."""
    return any(getattr(method, "feature_width", 0) is None for method in recipe.methods().values())


def known_width(visual: Visual, *, needed: bool = True) -> int:
    """The width of an encoder's grid, from what is known without its weights.

    Args:
        needed: if not, and nothing is said of images, it is 1.

    Raises:
        InputError: it is not known.
    """
    from crossgraft.encoders.pocket import TOWERS
    from crossgraft.pocket.sources import POCKET_MODELS

    if visual.feature_width is not None:
        return visual.feature_width
    if visual.encoder in POCKET_MODELS and POCKET_MODELS[visual.encoder].wheels[0] in TOWERS:
        return TOWERS[POCKET_MODELS[visual.encoder].wheels[0]].grid_shape[1]
    if visual.encoder is None and not needed:
        return 1
    if visual.encoder is None:
        raise InputError("visual.feature_width is needed: no visual.encoder is named that would say it")
    return grid_width(visual.encoder)


def _agreed(visual: Visual, width: int, where: str) -> int:
    if visual.feature_width not in (None, width):
        raise InputError(
            f"visual.feature_width is {visual.feature_width}, and {where} gives {width}; set visual.feature_width=null"
        )
    return width


def pad(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features (I, T, g) of different I and T -> a batch (B, I, T, g) of the largest, and its mask (B, I, T)."""
    images = max(part.shape[0] for part in features)
    tokens = max(part.shape[1] for part in features)
    batch = features[0].new_zeros(len(features), images, tokens, features[0].shape[2])
    mask = torch.zeros(batch.shape[:3], dtype=torch.long)
    for row, part in enumerate(features):
        batch[row, : part.shape[0], : part.shape[1]] = part
        mask[row, : part.shape[0], : part.shape[1]] = 1
    return batch, mask
