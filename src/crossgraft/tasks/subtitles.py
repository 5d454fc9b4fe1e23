"""What is said in videos: subtitle files of TVQA and of the VALUE benchmark."""

from __future__ import annotations

from pathlib import Path

from crossgraft.tasks.files import by_id, one_line, read_lines, rows_of


class Subtitles:
    """The subtitles of many videos.

    Args:
        path: JSON lines {"vid_name", "sub": [{"text", "start", "end"}]}, times in seconds; None: nothing is said.

    Raises:
        InputError: the file is missing or not in this layout; a video has two lines.
    """

    def __init__(self, path: Path | None) -> None:
        self._videos = {} if path is None else by_id(read_lines(path), "vid_name")

    def said(self, video: str, span: tuple[float, float] | None = None) -> str:
        """What is said in a video, in one line; a video without a line in the file is silent.

        Args:
            video: its name.
            span: seconds; only subtitles that are shown at some time within them count. None: all.

        Raises:
            InputError: the video's subtitles are not as they should be.
        """
        if video not in self._videos:
            return ""
        row = self._videos[video]
        parts = []
        for part in rows_of(row.get("sub", list), row.path, f"{row.place} {row.number}, subtitle"):
            if span is None or (part.get("start", float, int) <= span[1] and part.get("end", float, int) >= span[0]):
                parts.append(one_line(part.get("text", str)))
        return " ".join(filter(None, parts))
