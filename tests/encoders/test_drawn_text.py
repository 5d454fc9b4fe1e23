"""Texts as pictures: all ink inside, as large as it fits, the same each time."""

from __future__ import annotations

import numpy as np
import pytest

from crossgraft.encoders.drawn_text import MARGIN, SIDE, draw_text


def ink(text: str) -> np.ndarray:
    """(SIDE, SIDE), how dark each pixel is, 0..1."""
    picture = draw_text(text)
    assert picture.mode == "RGB"
    assert picture.size == (SIDE, SIDE)
    return 1 - np.asarray(picture.convert("L"), dtype=np.float64) / 255


@pytest.mark.parametrize("text", ["ox", "hedgehog", "electric guitar", "woman with headscarf and a very small skull"])
def test_the_whole_text_is_inside_and_centred(text: str) -> None:
    rows, columns = (np.flatnonzero(ink(text).max(axis=axis) > 0.1) for axis in (1, 0))
    for used in (rows, columns):
        assert used.min() >= MARGIN / 2
        assert used.max() <= SIDE - MARGIN / 2
    assert abs(columns.min() + columns.max() - SIDE) <= 6
    assert abs(rows.min() + rows.max() - SIDE) <= 30  # ascenders and descenders differ


def test_a_longer_text_is_smaller_and_has_more_lines() -> None:
    def heights_of_lines(text: str) -> list[int]:
        dark = np.concatenate([[0], ink(text).max(axis=1) > 0.1, [0]]).astype(int)
        starts, ends = np.flatnonzero(np.diff(dark) == 1), np.flatnonzero(np.diff(dark) == -1)
        return list(ends - starts)

    short, long = heights_of_lines("noon"), heights_of_lines(" ".join(["noon"] * 40))
    assert len(short) == 1
    assert len(long) > 4
    assert max(long) < short[0]


def test_spaces_do_not_matter_and_letters_do() -> None:
    assert (ink(" red\tbird\n") == ink("red bird")).all()
    assert (ink("red bird") != ink("red bind")).any()


def test_a_word_that_fits_at_no_size_is_cut_off() -> None:
    assert ink("x" * 200).max() > 0.5
