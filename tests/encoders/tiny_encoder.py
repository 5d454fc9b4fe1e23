"""A real encoder, small enough for tests: a fixed random projection of pooled pixels. Workers import it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from crossgraft.encoders.base import Encoder, ImageFeatures
from crossgraft.encoders.extract import Extraction, extract
from crossgraft.encoders.preprocess import Preprocess


class TinyEncoder(Encoder):
    """Pools pixels to a 4 x 4 grid (T = 16, g = 3), flattens it (f = 48) and projects it (d = 8)."""

    def __init__(self, seed: int = 0) -> None:
        self.name = f"tiny-{seed}"
        self.fingerprint = f"{seed:064x}"
        self.embedding_dim, self.feature_dim, self.grid_shape = 8, 48, (16, 3)
        self.logit_scale = 100.0
        self.preprocess = Preprocess(size=32, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.projection = torch.randn(48, 8, generator=torch.Generator().manual_seed(seed))
        self.images_encoded = 0

    def encode_images(self, pixels: Tensor, *, grid: bool = False) -> ImageFeatures:
        self.images_encoded += len(pixels)
        tokens = nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(2).transpose(1, 2)  # (B, 16, 3)
        feature = tokens.flatten(1)
        return ImageFeatures(
            nn.functional.normalize(feature @ self.projection, dim=-1), feature, tokens if grid else None
        )

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        raise NotImplementedError


class WideGrid(TinyEncoder):
    """A grid of 256 KB an image (T = 256, g = 256), so that writing takes as long as encoding."""

    def __init__(self) -> None:
        super().__init__()
        self.grid_shape = (256, 256)

    def encode_images(self, pixels: Tensor, *, grid: bool = False) -> ImageFeatures:
        features = super().encode_images(pixels)
        wide = nn.functional.interpolate(features.feature[:, None], 256).transpose(1, 2)  # (B, 256, 1)
        return features._replace(grid=wide * torch.linspace(-1, 1, 256) if grid else None)


class ThreadCounter(TinyEncoder):
    """Its features tell how many threads computed them, as the last bits of a real encoder's do."""

    def encode_images(self, pixels: Tensor, *, grid: bool = False) -> ImageFeatures:
        features = super().encode_images(pixels, grid=grid)
        return features._replace(feature=features.feature + torch.get_num_threads())


class NanOnWhite(TinyEncoder):
    """Divides by zero for an all-white image."""

    def encode_images(self, pixels: Tensor, *, grid: bool = False) -> ImageFeatures:
        features = super().encode_images(pixels, grid=grid)
        white = (pixels == 1).flatten(1).all(dim=1)
        return features._replace(feature=features.feature / (~white).float()[:, None])


class Interrupted(TinyEncoder):
    """Gets Ctrl-C at its fourth batch."""

    def encode_images(self, pixels: Tensor, *, grid: bool = False) -> ImageFeatures:
        if self.images_encoded >= 12:
            raise KeyboardInterrupt
        return super().encode_images(pixels, grid=grid)


class Killed(TinyEncoder):
    """Its process is killed at its fourth batch, as the system does when memory is out."""

    def encode_images(self, pixels: Tensor, *, grid: bool = False) -> ImageFeatures:
        if self.images_encoded >= 12:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_images(pixels, grid=grid)


class Stuck(TinyEncoder):
    """Says where its process is, then takes a minute for its first batch."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.marker = marker

    def encode_images(self, pixels: Tensor, *, grid: bool = False) -> ImageFeatures:
        (self.marker / str(os.getpid())).touch()
        time.sleep(60)
        return super().encode_images(pixels, grid=grid)


def make_images(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """So many small PNGs of random colours, each different."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{seed}_{i:03d}.png" for i in range(count)]
    for path in paths:
        blocks = rng.integers(0, 255, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((48, 40), Image.Resampling.NEAREST).save(path)
    return paths


def run(paths: list[Path], out: Path, workers: int = 1) -> Extraction:
    """One run as the tests make it, for a process of its own."""
    torch.set_num_threads(1)
    settings = {"views": 1, "grid": True, "shard_size": 4, "progress": False}
    return extract(paths, WideGrid(), out, workers=workers, encoder_factory=WideGrid, **settings)


def run_stuck(paths: list[Path], out: Path, marker: Path) -> None:
    """A run of two workers that does not end by itself."""
    factory = partial(Stuck, marker)
    extract(paths, TinyEncoder(), out, shard_size=4, workers=2, encoder_factory=factory, progress=False)
