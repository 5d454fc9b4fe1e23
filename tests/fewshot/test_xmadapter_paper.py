"""XMAdapter: its identities, its counts, and each of its steps against a direct computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from few_shot_problems import normal, problem

from crossgraft.fewshot import TipAdapterF, XMAdapterPaper
from crossgraft.fewshot.cache import affinity, shares
from crossgraft.fewshot.xmadapter_paper import hard_sample_weights, standardisation

torch.set_num_threads(1)

P = problem((4, 4, 4, 4), noise=0.8, d=32, f=20)
TRAINING = {"lr": 0.01, "epochs": 5, "batch_size": 5, "random_state": 7}


def make(**params: Any) -> XMAdapterPaper:
    return XMAdapterPaper(**{"text": P.text, "classes": P.classes, "logit_scale": 10.0, **params})


@pytest.mark.parametrize("counts", [(4, 4, 4, 4), (1, 6, 2, 3)])
@pytest.mark.parametrize("seed", [0, 7])
def test_image_ratio_without_hard_samples_and_mask_is_tip_adapter_f(counts: tuple[int, ...], seed: int) -> None:
    p = problem(counts, noise=0.8, d=32, f=20)
    shared = {"text": p.text, "classes": p.classes, "logit_scale": 10.0, **TRAINING, "random_state": seed}
    cross = XMAdapterPaper(ratio=1.0, eta=0.0, mask=False, **shared).fit(p.X, p.y)
    tip = TipAdapterF(**shared).fit(p.X, p.y)
    torch.testing.assert_close(cross.logits(p.Q), tip.logits(p.Q), rtol=0, atol=1e-6)
    torch.testing.assert_close(cross.keys_, tip.keys_, rtol=0, atol=1e-6)


@pytest.mark.parametrize("counts", [(4, 4, 4, 4), (1, 6, 2, 3)])
def test_zero_initialised_nets_let_the_text_cache_vote_as_zero_shot(counts: tuple[int, ...]) -> None:
    p = problem(counts, noise=0.8, d=32, f=20)
    cross = XMAdapterPaper(text=p.text, classes=p.classes, train=False).fit(p.X, p.y)
    embedding, key = cross._queries(p.Q)
    _, text = cross._affinities(embedding, key)
    assert torch.equal(cross._votes(text).argmax(dim=1), (embedding @ cross.text_.T).argmax(dim=1))


@pytest.mark.parametrize(("d", "reduction"), [(32, 16), (6, 16), (40, 4)])
def test_parameter_count(d: int, reduction: int) -> None:
    p = problem((2, 3, 1), d=d, f=20)
    h = max(1, d // reduction)
    nets = 2 * (2 * d * h + h + d)
    for params, expected in [
        ({"ratio": "learned"}, 6 * 20 + nets + 1),
        ({"ratio": "entropy"}, 6 * 20 + nets),
        ({"ratio": 0.3}, 6 * 20 + nets),
        ({"train": False}, 0),
    ]:
        cross = XMAdapterPaper(text=p.text, classes=p.classes, reduction=reduction, epochs=1, **params).fit(p.X, p.y)
        assert cross.n_parameters_ == expected
    if reduction == 16 and d >= 16:
        assert nets == pytest.approx(d * d / 4, rel=0.6)


def test_training_moves_every_part() -> None:
    before, after = make(train=False).fit(P.X, P.y), make(**TRAINING).fit(P.X, P.y)
    for name in ("keys_", "text_keys_", "ratio_logit_", "down_", "down_bias_", "up_", "up_bias_"):
        assert not torch.equal(getattr(before, name), getattr(after, name)), name
        assert not getattr(after, name).requires_grad
    fixed = make(**TRAINING, ratio="entropy").fit(P.X, P.y)
    assert fixed.ratio_logit_ == 0


@pytest.mark.parametrize("switch", [{"mask": False}, {"eta": 0.0}, {"ratio": "entropy"}, {"ratio": 0.9}])
def test_every_switch_matters(switch: dict[str, Any]) -> None:
    default, other = make(**TRAINING).fit(P.X, P.y), make(**TRAINING, **switch).fit(P.X, P.y)
    assert (default.keys_ - other.keys_).abs().max() > 1e-6


@pytest.mark.parametrize("ratio", ["learned", "entropy", 0.25])
def test_training_free_logits_by_hand(ratio: str | float) -> None:
    cross = make(train=False, ratio=ratio, alpha=2.0, beta_i=3.0, beta_t=1.5).fit(P.X, P.y)
    d, y = P.d, np.array([P.classes.index(label) for label in P.y])
    e0, k, e, q, w = (normal(x) for x in (P.X[:, :d], P.X[:, d:], P.Q[:, :d], P.Q[:, d:], P.text))
    off = ~np.eye(len(y), dtype=bool)
    image, text = (k @ k.T)[off], (e0 @ w[y].T)[off]
    z = (e @ w[y].T - text.mean()) / text.std() * image.std() + image.mean()
    votes_i = np.exp(-3.0 * (1 - q @ k.T)) @ np.eye(4)[y]
    votes_t = np.exp(-1.5 * (1 - z)) @ np.eye(4)[y]
    g: Any = 0.5 if ratio == "learned" else ratio
    if ratio == "entropy":
        h_i, h_t = (
            -(p * np.log(p)).sum(axis=1, keepdims=True)
            for p in (v / v.sum(axis=1, keepdims=True) for v in (votes_i, votes_t))
        )
        g = h_t / (h_i + h_t)
    np.testing.assert_allclose(cross.logits(P.Q), 10 * e @ w.T + 2 * (g * votes_i + (1 - g) * votes_t), atol=1e-9)


def test_a_masked_sample_does_not_see_itself() -> None:
    """With one sample a class and the mask, no training sample finds its class in the image cache."""
    p = problem((1, 1, 1), d=8, f=8)
    seen: list[torch.Tensor] = []

    class Watched(XMAdapterPaper):
        def _fuse(self, embedding: torch.Tensor, image_votes: torch.Tensor, text_votes: torch.Tensor) -> torch.Tensor:
            seen.extend([image_votes.detach(), text_votes.detach()])
            return super()._fuse(embedding, image_votes, text_votes)

    Watched(text=p.text, classes=p.classes, epochs=1, batch_size=3).fit(p.X, p.y)
    for votes in seen:
        assert (votes == 0).sum().item() == 3
        assert (votes == 0).sum(dim=1).tolist() == [1, 1, 1]


def test_hard_sample_weights() -> None:
    image, text = torch.tensor([[3.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    labels = torch.tensor([0, 1])
    weights = hard_sample_weights(image, text, labels, eta=2.0)
    assert weights.tolist() == pytest.approx([2 / 1.5, 1 / 1.5])  # delta = 0.5 and 0, so 2 and 1 over their mean
    assert hard_sample_weights(image, text, labels, eta=0.0).tolist() == [1, 1]


@pytest.mark.parametrize("block", [10, 10**6])
def test_standardisation_matches_mean_and_spread(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossgraft.fewshot.features.BLOCK_ELEMENTS", block)
    rng = torch.Generator().manual_seed(0)
    keys, queries, texts = (torch.randn(9, d, generator=rng, dtype=torch.float64) for d in (5, 7, 7))
    gain, shift = standardisation(keys, queries, texts)
    off = ~torch.eye(9, dtype=torch.bool)
    image, moved = (keys @ keys.T)[off], (shift + gain * (queries @ texts.T))[off]
    assert moved.mean().item() == pytest.approx(image.mean().item())
    assert moved.std().item() == pytest.approx(image.std().item())


def test_standardisation_without_spread_is_a_shift() -> None:
    one = torch.ones(1, 3)
    assert [value.item() for value in standardisation(one, one, one)] == [1.0, 0.0]
    gain, _ = standardisation(torch.eye(3), torch.ones(3, 2), torch.ones(3, 2))
    assert gain.item() == 1.0


def test_votes_agree_with_one_hot_values() -> None:
    cross = make(train=False).fit(P.X, P.y)
    similarity = torch.rand(5, 16, dtype=torch.float64)
    one_hot = torch.nn.functional.one_hot(cross.labels_, 4).double()
    torch.testing.assert_close(cross._votes(affinity(similarity, 2.0)), affinity(similarity, 2.0) @ one_hot)
    assert shares(torch.zeros(1, 4)).tolist() == [[0.25] * 4]
