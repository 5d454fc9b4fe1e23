"""Evidence accounts for the whole prediction, on a fitted and on a loaded classifier."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from few_shot_problems import problem

from crossgraft.errors import InputError
from crossgraft.fewshot import (
    METHODS,
    FewShotClassifier,
    ProKeR,
    XMAdapter,
    get_method,
    load_classifier,
    save_classifier,
)

torch.set_num_threads(1)

P = problem((1, 4, 2, 3), noise=0.8)
EXPLAINED = [name for name, method in METHODS.items() if hasattr(method, "explain")]


def test_methods_with_evidence() -> None:
    assert EXPLAINED == ["zero-shot", "tip-adapter", "tip-adapter-f", "proker", "xmadapter-paper", "xmadapter", "auto"]


def text_part(classifier: FewShotClassifier) -> torch.Tensor:
    """What texts add to the logits of the queries (n, N)."""
    embedding, key = classifier._queries(P.Q)
    if isinstance(classifier, ProKeR):
        return classifier._prior(embedding, classifier.text_) * classifier.temperature_
    if isinstance(classifier, XMAdapter):
        told, g = classifier._text_cache()(embedding), classifier.ratio_
        known = g * classifier._affinities(embedding, key) @ (classifier._photo_votes() - classifier.coef_)
        return classifier.temperature_ * ((1 - g) * told - known)  # less what photos make up for
    return 10 * embedding @ classifier.text_.T


@pytest.mark.parametrize("name", EXPLAINED)
@pytest.mark.parametrize("with_text", [True, False])
def test_evidence_adds_up(name: str, with_text: bool, tmp_path: Path) -> None:
    text = {"text": P.text, "classes": P.classes} if with_text else {}
    classifier = get_method(name)(logit_scale=10.0, **text).fit(P.X, P.y)
    evidence = classifier.explain(P.Q, k=99)
    probabilities, logits = classifier.predict_proba(P.Q), classifier.logits(P.Q)
    scores, rows = text_part(classifier), classifier.classes_.tolist()
    for i, one in enumerate(evidence):
        predicted = rows.index(one.label)
        assert one.label == classifier.predict(P.Q)[i]
        assert one.probability == pytest.approx(probabilities[i, predicted])
        assert one.text_share + one.image_share == pytest.approx(1)
        assert 0 <= one.image_share <= 1
        assert len(one.texts) == 4
        assert one.texts[0].cosine == max(match.cosine for match in one.texts)
        # All contributions together are what the cache adds to the predicted logit.
        added = sum(vote.contribution for vote in one.supports)
        assert added == pytest.approx((logits - scores)[i, predicted].item(), abs=1e-9)
        assert sorted(vote.index for vote in one.supports) == (list(range(10)) if name != "zero-shot" else [])
        assert all(vote.label == P.y[vote.index] for vote in one.supports)
        ranked = [vote.contribution for vote in one.supports]
        assert ranked == sorted(ranked, reverse=True)
        assert (one.ratio is not None) == (name in ("xmadapter-paper", "xmadapter", "auto"))
    assert json.loads(json.dumps(asdict(evidence[0])))["label"] == evidence[0].label

    loaded = load_classifier(save_classifier(classifier, tmp_path / "adapter"))
    assert loaded.explain(P.Q, k=2) == classifier.explain(P.Q, k=2)  # type: ignore[attr-defined]
    assert [one.supports for one in classifier.explain(P.Q, k=2)] == [one.supports[:2] for one in evidence]


def test_a_query_that_is_a_support_image_names_it() -> None:
    tip = get_method("tip-adapter")(alpha=100.0, beta=20.0).fit(P.X, P.y)
    for i, one in enumerate(tip.explain(P.X, k=1)):
        assert one.supports[0].index == i
        assert one.supports[0].weight == pytest.approx(1)


def test_zero_shot_owes_nothing_to_images_and_k_is_checked() -> None:
    zero = get_method("zero-shot")(text=P.text, classes=P.classes).fit(P.X, P.y)
    assert all(one.text_share == 1 and one.supports == () for one in zero.explain(P.Q))
    assert zero.explain(np.zeros((1, 16)))[0].text_share == 1
    with pytest.raises(InputError, match="k=0"):
        zero.explain(P.Q, k=0)
