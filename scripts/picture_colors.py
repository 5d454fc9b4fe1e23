"""The colour of a picture of one thing, by its pixels: what a person would call most of it.

Hue, lightness and chroma with hand-set borders; a picture without a colour on half of what is drawn has none.
"""

from __future__ import annotations

import colorsys
from collections import Counter

import numpy as np
from PIL import Image

SIDE = 48  # px: enough to tell the share of a colour
PAPER = 240  # a pixel with all channels at least this light is the paper
DRAWN, SHARE = 60, 0.5  # pixels that are a drawing; of them, what a picture's colour has to have


def color_of(red: int, green: int, blue: int) -> str:
    """The name of a pixel's colour (0..255)."""
    r, g, b = red / 255, green / 255, blue / 255
    hue, lightness, _ = colorsys.rgb_to_hls(r, g, b)
    hue, chroma = 360 * hue, max(r, g, b) - min(r, g, b)
    if lightness < 0.16:
        return "black"
    if chroma < 0.12:
        return "white" if lightness > 0.82 else "grey" if lightness > 0.25 else "black"
    dull = lightness < 0.42 or chroma < 0.45
    if hue < 16 or hue >= 345:
        return "pink" if lightness > 0.68 else "brown" if chroma < 0.5 and hue < 16 else "red"
    if hue < 38:
        return "brown" if dull else "orange"
    for end, name in ((68, "yellow" if lightness > 0.35 else "brown"), (165, "green"), (255, "blue"), (300, "purple")):
        if hue < end:
            return name
    return "pink"


def picture_color(image: Image.Image) -> str | None:
    """The colour of most of what is drawn: what is not transparent, or, of a picture without alpha, not paper."""
    pixels = np.asarray(image.convert("RGBA").resize((SIDE, SIDE))).reshape(-1, 4)
    drawn = pixels[pixels[:, 3] > 127 if "A" in image.getbands() else pixels[:, :3].min(1) < PAPER, :3]
    if len(drawn) < DRAWN:
        return None
    name, count = Counter(color_of(*pixel.tolist()) for pixel in drawn).most_common(1)[0]
    return name if count > SHARE * len(drawn) else None
