"""Texts drawn as pictures, black on white: CLIP's image tower reads, so a drawn word lies near what it names."""

from __future__ import annotations

from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

SIDE = 224  # px
MARGIN = 8
SIZES = range(62, 8, -2)  # px, of the font, largest first
LINE_HEIGHT = 1.2  # of the font's size


@lru_cache(maxsize=len(SIZES))
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)  # Aileron, which Pillow carries: the same on every machine
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _wrap(words: list[str], font: ImageFont.FreeTypeFont) -> list[str] | None:
    """Lines no wider than the picture, each as full as it gets; None if a word is wider."""
    lines: list[str] = []
    for word in words:
        if font.getlength(word) > SIDE - 2 * MARGIN:
            return None
        if lines and font.getlength(f"{lines[-1]} {word}") <= SIDE - 2 * MARGIN:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def draw_text(text: str) -> Image.Image:
    """A text -> RGB picture, 224 x 224 px: centred, as large as it fits. What fits at no size is cut off at the edges.

    Letters outside of Latin are drawn as boxes, for want of a font.
    """
    words = text.split()
    for size in SIZES:
        lines = _wrap(words, _font(size))
        if lines is not None and len(lines) * size * LINE_HEIGHT <= SIDE - 2 * MARGIN:
            break
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(picture)
    content = "\n".join(lines if lines is not None else words)
    pen.multiline_text((SIDE / 2, SIDE / 2), content, "black", _font(size), anchor="mm", align="center")
    return picture
