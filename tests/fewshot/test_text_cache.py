"""The text cache: against its definition, and unmoved by what carries no information."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from crossgraft.fewshot.features import unit
from crossgraft.fewshot.text_cache import TextCache

torch.set_num_threads(1)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Unit vectors (..., d) in float64."""
    return unit(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


PHOTOS, QUERIES, TEXTS = random(20, 9), random(7, 9, seed=1), random(4, 3, 9, seed=2)


def by_hand(texts: list[np.ndarray], photos: np.ndarray, queries: np.ndarray, beta: float) -> np.ndarray:
    """A_T (n, N) for a list of each class's texts (P_c, d), without any trick."""
    cosines = np.hstack([photos @ each.T for each in texts])
    mean, deviation = cosines.mean(), cosines.std()

    def votes(x: np.ndarray) -> np.ndarray:
        return np.stack([np.exp(beta * (x @ each.T - mean) / deviation).mean(axis=1) for each in texts], axis=1)

    seen = votes(photos)
    lead = (seen.max(axis=1) - seen.mean(axis=1)).mean()
    return (votes(queries) - seen.mean()) / lead


@pytest.mark.parametrize("beta", [0.05, 0.5, 3.0])
def test_by_hand_with_different_numbers_of_texts(beta: float) -> None:
    texts = TEXTS.clone()
    texts[1, 2:] = 0
    texts[3, 1:] = 0
    ragged = [each[each.any(dim=1)].numpy() for each in texts]
    assert [len(each) for each in ragged] == [3, 2, 3, 1]
    expected = by_hand(ragged, PHOTOS.numpy(), QUERIES.numpy(), beta)
    np.testing.assert_allclose(TextCache.standardised(texts, PHOTOS, beta)(QUERIES), expected, atol=1e-12)


@pytest.mark.parametrize("beta", [0.05, 0.5])
def test_votes_count_from_their_mean_in_units_of_the_best(beta: float) -> None:
    votes = TextCache.standardised(TEXTS, PHOTOS, beta)(PHOTOS)
    assert votes.mean().item() == pytest.approx(0, abs=1e-12)
    assert (votes.amax(dim=1) - votes.mean(dim=1)).mean().item() == pytest.approx(1)


def test_one_text_a_class_ranks_as_the_cosine_does() -> None:
    votes = TextCache.standardised(TEXTS[:, :1], PHOTOS, 0.5)(QUERIES)
    assert torch.equal(votes.argsort(dim=1), (QUERIES @ TEXTS[:, 0].T).argsort(dim=1))


def test_zero_rows_and_every_text_twice_change_nothing() -> None:
    expected = TextCache.standardised(TEXTS, PHOTOS, 0.5)(QUERIES)
    padded = torch.cat([TEXTS, torch.zeros(4, 2, 9, dtype=torch.float64)], dim=1)
    for texts in (padded, torch.cat([TEXTS, TEXTS], dim=1), TEXTS.flip(1)):
        torch.testing.assert_close(TextCache.standardised(texts, PHOTOS, 0.5)(QUERIES), expected)


@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_direction_that_all_share_changes_nothing(share: float) -> None:
    """Cosines c become (1 - share) c + share, as encoders differ in the range that theirs have."""

    def moved(x: Tensor) -> Tensor:
        return torch.cat([(1 - share) ** 0.5 * x, torch.full_like(x[..., :1], share**0.5)], dim=-1)

    expected = TextCache.standardised(TEXTS, PHOTOS, 0.5)(QUERIES)
    cache = TextCache.standardised(moved(TEXTS), moved(PHOTOS), 0.5)
    torch.testing.assert_close(cache(moved(QUERIES)), expected)
    # In float32, cosines near one leave few digits for what differs, and a mean of squares none.
    single = TextCache.standardised(moved(TEXTS).float(), moved(PHOTOS).float(), 0.5)
    torch.testing.assert_close(single(moved(QUERIES).float()).double(), expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_texts_that_are_all_alike_say_nothing(dtype: torch.dtype) -> None:
    texts = TEXTS[:1, :1].expand(4, 1, 9).to(dtype)
    assert (TextCache.standardised(texts, PHOTOS.to(dtype), 0.5)(QUERIES.to(dtype)) == 0).all()
    one_photo = PHOTOS[:1].expand(6, 9).to(dtype)
    assert (TextCache.standardised(texts, one_photo, 0.5)(QUERIES.to(dtype)) == 0).all()


@pytest.mark.parametrize("beta", [200.0, 1e5])
def test_it_never_overflows(beta: float) -> None:
    cache = TextCache.standardised(TEXTS.float(), PHOTOS.float(), beta)
    assert torch.isfinite(cache(PHOTOS.float())).all()
    assert cache(PHOTOS.float()).max() <= len(PHOTOS) * TEXTS.shape[1] * 2  # one photo has all of the lead
    assert torch.isfinite(cache(TEXTS[:, 0].float())).all()  # queries nearer to a text than any photo was


def test_one_more_class_keeps_the_scale() -> None:
    cache = TextCache.standardised(TEXTS[:, :2], PHOTOS, 0.5)
    before = cache(QUERIES)
    for texts in (TEXTS[0, :1], TEXTS[0]):  # fewer texts than the others have, and more
        grown = cache.with_class(texts)
        assert grown.texts.shape == (5, max(2, len(texts)), 9)
        torch.testing.assert_close(grown(QUERIES)[:, :4], before)
        alone = torch.exp(cache.gain * QUERIES @ texts.T + cache.shift).mean(dim=1) - cache.offset
        torch.testing.assert_close(grown(QUERIES)[:, 4], alone)
