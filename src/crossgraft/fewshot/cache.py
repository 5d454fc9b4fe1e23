"""Key-value caches as pure functions: the affinity of queries to keys, and the votes it casts. Tip-Adapter, XMAdapter.

Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification", ECCV 2022 (arXiv 2207.09519),
equations 3-5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crossgraft.fewshot.ridge import gram


def affinity(similarity: Tensor, beta: float | Tensor) -> Tensor:
    """exp(-beta (1 - cosine)) of cosines (n, M) -> (n, M); 1 where the cosine is 1, sharper for a larger beta."""
    return (similarity - 1).mul_(beta).exp_()  # in place: half the time on a large cache


def vote_weights(labels: Tensor, n_classes: int, *, balanced: bool, dtype: torch.dtype) -> Tensor:
    """Weight of each support sample's one-hot value -> (M,).

    All ones as published; `balanced` scales a class's votes by (mean count / its count), so that a class does not win
    by having more photos. With equally many samples in each class the two are the same.
    """
    if not balanced:
        return torch.ones(len(labels), dtype=dtype, device=labels.device)
    counts = torch.bincount(labels, minlength=n_classes).to(dtype)
    mean = len(labels) / (counts > 0).sum()
    return (mean / counts.clamp(min=1))[labels]


def kernel(keys: Tensor, beta: float) -> Tensor:
    """The affinities (M, M) of cache keys to each other; the lower triangle (`ridge.gram`)."""
    return gram(lambda i, j: affinity(keys[i] @ keys[j].T, beta), len(keys), keys)


def ridge_of(lam: float, labels: Tensor, n_classes: int, dtype: torch.dtype, *, balanced: bool) -> Tensor:
    """The ridge of each sample (M,): lam, scaled by (its class's count / mean count) if balanced."""
    return lam / vote_weights(labels, n_classes, balanced=balanced, dtype=dtype)


def votes(affinities: Tensor, weights: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Affinities (n, M) times the one-hot values (M, N) scaled by weights (M,) -> (n, N).

    Adds columns of equal label instead of multiplying by a matrix of almost only zeros: 20x faster at 1000 classes.
    """
    return affinities.new_zeros(affinities.shape[0], n_classes).index_add(1, labels, affinities * weights)


def shares(class_votes: Tensor) -> Tensor:
    """Row-normalise votes (n, N) to distributions; a row without any vote becomes uniform."""
    total = class_votes.sum(dim=1, keepdim=True)
    uniform = torch.full_like(class_votes, 1 / class_votes.shape[1])
    return torch.where(total > 0, class_votes / torch.where(total > 0, total, torch.ones_like(total)), uniform)


def vote_entropy(class_votes: Tensor) -> Tensor:
    """Entropy (n, 1) of the row-normalised votes (n, N), in nats."""
    return torch.special.entr(shares(class_votes)).sum(dim=1, keepdim=True)


@torch.no_grad()
def entropy_ratio(image_votes: Tensor, text_votes: Tensor) -> Tensor:
    """g = H_T / (H_I + H_T) per query (n, 1): the surer cache weighs more; 1/2 if both are certain."""
    image, text = vote_entropy(image_votes), vote_entropy(text_votes)
    total = image + text
    return torch.where(total > 0, text / torch.where(total > 0, total, torch.ones_like(total)), 0.5)
