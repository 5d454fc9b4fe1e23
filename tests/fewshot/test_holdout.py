"""Held-out support photos: one of every class that can spare one, and nothing else."""

from __future__ import annotations

import pytest
import torch

from crossgraft.fewshot import holdout
from crossgraft.fewshot.features import Support
from crossgraft.fewshot.holdout import FOLDS, one_of_every_class

torch.set_num_threads(1)


def support(counts: list[int], seed: int = 0) -> Support:
    """Samples in random order whose key is their number."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    number = torch.arange(float(len(labels)))[:, None]
    texts = torch.ones(len(counts), 1, 1)
    return Support(number, number, labels, texts[:, 0], texts)


def numbers(part: Support) -> list[int]:
    return part.key[:, 0].int().tolist()


@pytest.mark.parametrize("counts", [[2, 2, 2], [1, 5, 2, 0, 3], [7, 1, 1], [9, 9]])
def test_each_fold_takes_one_of_every_class_that_has_two(counts: list[int]) -> None:
    whole = support(counts)
    folds = one_of_every_class(whole)
    assert len(folds) == min(FOLDS, max(counts))
    gone: list[int] = []
    for fold, (rest, held_out) in enumerate(folds):
        expected = [int(count > 1 and fold < count) for count in counts]
        assert held_out.counts.tolist() == expected
        assert sorted(numbers(rest) + numbers(held_out)) == list(range(len(whole.labels)))
        assert numbers(rest) == sorted(numbers(rest))  # in the order they had
        for part in (rest, held_out):
            assert torch.equal(part.labels, whole.labels[part.key[:, 0].long()])
            assert part.texts is whole.texts
        assert ((rest.counts > 0) == (whole.counts > 0)).all()
        gone += numbers(held_out)
    assert len(gone) == len(set(gone))  # a sample is held out once


@pytest.mark.parametrize("counts", [[1, 1, 1], [1, 0, 1]])
def test_one_shot_can_spare_nothing(counts: list[int]) -> None:
    assert one_of_every_class(support(counts)) == []


@pytest.mark.parametrize(("samples", "kept"), [(12, [4, 3, 4]), (4, [2, 2, 2]), (33, [20, 3, 10]), (32, [10, 3, 10])])
def test_a_large_support_is_cut_down(samples: int, kept: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdout, "SAMPLES", samples)
    whole = support([20, 3, 10])
    folds = one_of_every_class(whole)
    assert len(folds) == min(FOLDS, max(kept))
    for rest, held_out in folds:
        assert (rest.counts + held_out.counts).tolist() == kept
        assert held_out.counts.max() == 1


def test_of_many_classes_some_with_most_samples_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdout, "CLASSES", 4)
    counts = [1, 3, 0, 5, 2, 1, 4, 2]
    whole = support(counts)
    names = torch.arange(8.0)[:, None]
    whole = Support(whole.embedding, whole.key, whole.labels, names, names[:, None])
    folds = one_of_every_class(whole)
    rest, held_out = folds[0]
    chosen = rest.text[:, 0].int().tolist()
    assert len(chosen) == 4
    assert chosen == sorted(chosen)
    assert set(chosen) <= {1, 3, 4, 6, 7}  # those with two or more
    for part in (rest, held_out):
        assert part.texts[:, 0, 0].int().tolist() == chosen
        assert [chosen[row] for row in part.labels] == whole.labels[part.key[:, 0].long()].tolist()
    assert (rest.counts + held_out.counts).tolist() == [counts[row] for row in chosen]
    # With too few of them, others fill up; nothing but one photo a class can spare nothing.
    assert len(one_of_every_class(support([1, 1, 2, 1, 1, 1]))[0][0].counts) == 4
    assert one_of_every_class(support([1] * 9)) == []
