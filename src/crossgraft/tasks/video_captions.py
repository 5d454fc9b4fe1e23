"""Descriptions of moments in videos: TVC (Lei et al. 2020) and YouCook2 captions (YC2C, as in the VALUE benchmark)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossgraft.tasks.base import Example
from crossgraft.tasks.caption_task import Captioned, CaptionTask
from crossgraft.tasks.files import Row, by_id, read_lines, rows_of, write_result_lines
from crossgraft.tasks.registry import register_task
from crossgraft.tasks.subtitles import Subtitles
from crossgraft.tasks.video import VideoFiles, VideoTask


@dataclass(frozen=True, kw_only=True)
class VideoCaptions(CaptionTask, VideoTask):
    """JSON lines {"vid_name", "clip_id", "ts", "descs": [{"desc"}, ...]}; without "descs" in unlabelled splits.

    The text is what is said in the frames that are seen, if a file of `subtitles` is named, and else empty.
    """

    splits: dict[str, VideoFiles]

    def load(self, split: str) -> list[Example]:
        """Read a split, see `Task.load`; ids are clip ids."""
        files = self._files(self.splits, split)
        videos = self._videos(files)
        subtitles = Subtitles(self.subtitles)
        found = []
        for key, row in self._limited(by_id(read_lines(files.lines), "clip_id"), files.limit):
            images, rows = self._frames_of(row, videos)
            about: dict[str, Any] = {
                name: row.values[name] for name in ("vid_name", "clip_id", "ts") if name in row.values
            }
            found.append(Captioned(key, images, _captions(row), rows, about, self._said(row, subtitles)))
        videos.check()
        return self._examples(found, split)

    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """JSON lines {"vid_name", "clip_id", "ts", "descs": [{"desc": "..."}]}, as the leaderboard takes them."""
        rows = ({**about, "descs": [{"desc": answer}]} for about, answer in self._described(examples, answers))
        write_result_lines(path, (json.dumps(row, ensure_ascii=False) for row in rows))


def _captions(row: Row) -> tuple[str, ...]:
    if "descs" not in row.values:
        return ()
    parts = rows_of(row.get("descs", list), row.path, f"{row.place} {row.number}, 'descs' entry")
    return tuple(part.text("desc") for part in parts)


@register_task("tvc")
@dataclass(frozen=True, kw_only=True)
class Tvc(VideoCaptions):
    """TVC: one moment of a TV clip, up to four descriptions. A clip has many moments, so frames are cropped to "ts"."""

    prefix: str = "tvc: "
    localized: bool = True


@register_task("yc2c")
@dataclass(frozen=True, kw_only=True)
class Yc2c(VideoCaptions):
    """YouCook2 captions: one step of a recipe, one description; each step is a video of its own ("VIDEO_3").

    No line of the real files was at hand: the keys are those that the VALUE benchmark's scorer reads.
    """

    prefix: str = "yc2c: "
