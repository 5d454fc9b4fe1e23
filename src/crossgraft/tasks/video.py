"""Frames of videos: folders of frame images, or files of frame features; cropped to a span and thinned out evenly."""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.lib import format as npy

from crossgraft.encoders.images import IMAGE_SUFFIXES
from crossgraft.errors import InputError, first_line
from crossgraft.tasks.files import Row
from crossgraft.tasks.images import ARRAYS
from crossgraft.tasks.splits import FilesTask, SplitFiles
from crossgraft.tasks.subtitles import Subtitles

Span = tuple[float, float]

_DIGITS = re.compile(r"(\d+)")
_SPAN = re.compile(r"\s*([0-9.]+|nan)\s*-\s*([0-9.]+|nan)\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class VideoFiles(SplitFiles):
    """Official files of a split.

    Attributes:
        lines: JSON lines, an example each.
        frames: its videos; None: those of the task.
    """

    lines: Path
    frames: Path | None = None


@dataclass(frozen=True, kw_only=True)
class VideoTask(FilesTask):
    """A task about videos.

    Attributes:
        frames: a folder that holds, for each video, a folder NAME/ of frame images in order, or the frames' features
            (n, d) as NAME.npy or NAME.npz.
        localized: only frames (and subtitles) within the annotated span of seconds are seen.
        fps: frames, or rows of features, per second; needed where `localized`. TVQA's own frames have 3.
        max_frames: of more frames, that many are taken at even distances.
        subtitles: JSON lines {"vid_name", "sub": [{"text", "start", "end"}]}; videos without a line have none. None: no
            text holds subtitles.
    """

    frames: Path | None = None
    localized: bool = False
    fps: float | None = None
    max_frames: int = 64
    subtitles: Path | None = None
    question_length: int | None = 600

    visual: ClassVar[str] = "frames"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images is not None:
            raise InputError("images: a video task looks in 'frames'; set that and leave 'images' out")
        if self.localized and self.fps is None:
            raise InputError(
                "'fps' is needed where 'localized' is true: how many frames or feature rows are one second?"
            )
        if self.fps is not None and not self.fps > 0:
            raise InputError(f"fps: must be over 0, found {self.fps}")
        if self.max_frames < 1:
            raise InputError(f"max_frames: must be at least 1, found {self.max_frames}")

    def _videos(self, files: VideoFiles) -> Videos:
        if files.images is not None:
            raise InputError(f"task {self.name!r}: a video task looks in 'frames'; set that and leave 'images' out")
        folder = files.frames or self.frames
        if folder is None:
            raise InputError(f"task {self.name!r}: 'frames' is needed: the folder of frame folders or feature files")
        return Videos(folder, self.name)

    def _span(self, row: Row) -> Span | None:
        """The span to crop to; None: the whole video."""
        return span_of(row) if self.localized else None

    def _frames_of(self, row: Row, videos: Videos) -> tuple[tuple[Path, ...], tuple[int, ...]]:
        """`Example.images` and `Example.rows` of a line."""
        return videos.select(row.text("vid_name"), self._span(row), self.fps or 0.0, self.max_frames)

    def _said(self, row: Row, subtitles: Subtitles) -> str:
        """What is said in the frames that a line is about."""
        return subtitles.said(row.text("vid_name"), self._span(row))


class _Video(NamedTuple):
    """A video's frame images, or its one feature file and how many rows it has (None where it cannot be read)."""

    images: tuple[Path, ...]
    rows: int | None
    features: bool = False


class Videos:
    """The videos of a folder; `check` complains about those that were not found.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, folder: Path, task: str) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; task {task!r} looks for its videos there ('frames')")
        self._folder, self._task = folder, task
        self._names = frozenset(os.listdir(folder))
        self._known: dict[str, _Video] = {}
        self._missing: dict[str, None] = {}

    def select(self, name: str, span: Span | None, fps: float, most: int) -> tuple[tuple[Path, ...], tuple[int, ...]]:
        """Frames of a video.

        Args:
            name: of the video.
            span: seconds to crop to; None: all.
            fps: frames a second, used with a span.
            most: how many frames at most.

        Returns:
            frame images and no rows, or the feature file and its rows; no rows of a file that cannot be read: who
            reads its features finds out why.
        """
        video = self._video(name)
        if video is None:
            self._missing[name] = None
            return (self._folder / name,), ()
        if not video.features:
            rows = chosen_frames(len(video.images), span, fps, most)
            return tuple(video.images[row] for row in rows), ()
        return video.images, () if video.rows is None else chosen_frames(video.rows, span, fps, most)

    def check(self) -> None:
        """Raises:
        InputError: videos were not found; says how many, and the first.
        """
        if self._missing:
            first = next(iter(self._missing))
            raise InputError(
                f"task {self._task!r}: {len(self._missing)} of {len(self._known) + len(self._missing)} videos are not "
                f"in {self._folder}, the first {first!r}; expected {first}.npy, {first}.npz "
                f"or a folder {first}/ of frame images"
            )

    def _video(self, name: str) -> _Video | None:
        if name not in self._known:
            for suffix in ARRAYS:
                if name + suffix in self._names:
                    path = self._folder / (name + suffix)
                    self._known[name] = _Video((path,), _row_count(path), features=True)
                    return self._known[name]
            if name not in self._names or not (self._folder / name).is_dir():
                return None
            self._known[name] = _Video(_frames(self._folder / name), None)
        return self._known[name]


def _row_count(path: Path) -> int | None:
    try:
        return count_rows(path)
    except InputError:  # one damaged file costs the examples about that video, not the task
        return None


def _frames(folder: Path) -> tuple[Path, ...]:
    names = [name for name in os.listdir(folder) if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if not names:
        raise InputError(f"{folder}: no frame images in this folder")
    return tuple(folder / name for name in sorted(names, key=_natural))


def _natural(name: str) -> list[tuple[int, str]]:
    """frame_2 comes before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(name)]


def chosen_frames(count: int, span: Span | None, fps: float, most: int) -> tuple[int, ...]:
    """Which of `count` frames to take: those within the span (at least one), at even distances if they are too many."""
    start, end = 0, count
    if span is not None:
        start = min(math.floor(span[0] * fps), count - 1)
        end = min(max(math.ceil(span[1] * fps), start + 1), count)
    length = end - start
    if length <= most:
        return tuple(range(start, end))
    return tuple(start + (2 * step + 1) * length // (2 * most) for step in range(most))  # the middles of equal parts


def span_of(row: Row) -> Span | None:
    """The seconds of a row's "ts": "76.01-84.2" (TVQA) or [76.01, 84.2] (TVC); None where there are none, or "NaN-NaN".

    Raises:
        InputError: it is something else, or ends before it starts.
    """
    value = row.values.get("ts")
    if value is None:
        return None
    match = _SPAN.fullmatch(value) if isinstance(value, str) else None
    try:
        pair = match.groups() if match else value if isinstance(value, list) else ()
        start, end = (float(part) for part in pair)
    except (TypeError, ValueError):
        raise InputError(
            f"{row.where}: 'ts' must be like \"1.2-3.4\" or [1.2, 3.4] (seconds), found {value!r:.60}"
        ) from None
    if math.isnan(start) or math.isnan(end):
        return None
    if not 0 <= start <= end < math.inf:
        raise InputError(
            f"{row.where}: 'ts' must start at 0 or later and not end before it starts, found {value!r:.60}"
        )
    return start, end


def read_features(path: Path, rows: tuple[int, ...] = ()) -> np.ndarray:
    """Features of a video's frames, or of an image's tokens.

    Args:
        path: a .npy file, or a .npz file with one array (or one called "features"), of shape (n, d). Never unpickled.
        rows: which rows (`Example.rows`), in order; empty: all.

    Returns:
        (n or len(rows), d) float32.

    Raises:
        InputError: the file cannot be read, whatever is wrong with it, or holds no (n, d) array of numbers.
    """
    count, member = _header(path)
    with _reading(path, f"cannot be read ({{}}); expected {count} rows of features"):
        if member is None:
            features = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with np.load(path, allow_pickle=False) as archive:
                features = archive[member]
        return np.asarray(features[list(rows)] if rows else features, dtype=np.float32)


def count_rows(path: Path) -> int:
    """How many rows a feature file has; only its header is read.

    Raises:
        InputError: as for `read_features`.
    """
    return _header(path)[0]


def _header(path: Path) -> tuple[int, str | None]:
    """How many rows a feature file has, and the array's name in a .npz file; only the header is read."""
    with _reading(path, "not a NumPy file ({})"):
        if path.suffix == ".npy":
            with path.open("rb") as file:
                shape, kind = _shape(file)
            name = None
        else:
            with zipfile.ZipFile(path) as archive:
                arrays = [Path(entry).stem for entry in archive.namelist() if entry.endswith(".npy")]
                name = "features" if "features" in arrays else arrays[0] if len(arrays) == 1 else None
                if name is None:
                    raise InputError(
                        f"{path}: expected one array, or one called 'features'; found: {', '.join(arrays)}"
                    )
                with archive.open(f"{name}.npy") as file:
                    shape, kind = _shape(file)
    if len(shape) != 2 or shape[0] < 1 or kind not in "fiu":
        raise InputError(
            f"{path}: expected numbers of shape (frames or tokens, dimensions), found shape {shape}, kind {kind!r}"
        )
    return shape[0], name


@contextmanager
def _reading(path: Path, problem: str) -> Iterator[None]:
    """Errors of reading a file's bytes become `InputError`; {} in `problem` is what they say."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # zip, zlib and NumPy meet damaged bytes with nearly any exception
        raise InputError(f"{path}: {problem.format(first_line(error))}") from error


def _shape(file: Any) -> tuple[tuple[int, ...], str]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, kind = read(file)
    return shape, kind.kind
