"""XMAdapter: against a dense computation, its limits, and what must and must not move it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from few_shot_problems import Problem, normal, problem

from crossgraft.errors import InputError
from crossgraft.fewshot import XMAdapter, ZeroShot, load_classifier, save_classifier
from crossgraft.fewshot.holdout import one_of_every_class
from crossgraft.fewshot.support_choice import ONE_SHOT_TEXT, RATIOS, Setting, text_weights

torch.set_num_threads(1)

P = problem((4, 4, 4, 4), noise=0.8)
FIXED: dict[str, Any] = {
    "ratio": 0.7,
    "shrinkage": 2.0,
    "aligned": 0.2,
    "beta_t": 0.4,
    "coupling": 0.0,
    "beta_i": 1.0,
}


def make(p: Problem = P, **params: Any) -> XMAdapter:
    return XMAdapter(**{"text": p.text, "classes": p.classes, **params}).fit(p.X, p.y)


def accuracy(classifier: XMAdapter, p: Problem) -> float:
    return float((classifier.predict(p.Q) == p.y_query).mean())


class Dense:
    """XMAdapter with given constants in plain NumPy: texts (N, d), one a class, and whole matrices."""

    def __init__(self, p: Problem, scale_by: np.ndarray | None = None) -> None:
        self.d, self.n = p.d, len(p.classes)
        self.y = np.array([p.classes.index(label) for label in p.y])
        self.X, self.w = p.X, normal(p.text)
        # Constants that an edited classifier keeps come from the samples that it was fitted to.
        self.first = np.ones(len(self.y), dtype=bool) if scale_by is None else scale_by

    def join(self, X: np.ndarray, aligned: float) -> np.ndarray:
        e, k = normal(X[:, : self.d]), normal(X[:, self.d :])
        return np.hstack([np.sqrt(1 - aligned) * k, np.sqrt(aligned) * e])

    def text_votes(self, X: np.ndarray, beta: float) -> np.ndarray:
        classes = np.unique(self.y[self.first]) if not self.first.all() else np.arange(self.n)
        cosines = normal(self.X[self.first, : self.d]) @ self.w[classes].T
        mean, deviation = cosines.mean(), cosines.std()
        seen = np.exp(beta * (cosines - mean) / deviation)
        lead = (seen.max(axis=1) - seen.mean(axis=1)).mean()
        return (np.exp(beta * (normal(X[:, : self.d]) @ self.w.T - mean) / deviation) - seen.mean()) / lead

    def keys(self, X: np.ndarray, aligned: float, shrinkage: float) -> np.ndarray:
        x, y = self.join(self.X[self.first], aligned), self.y[self.first]
        present = np.unique(y)
        within = x - np.stack([x[y == c].mean(axis=0) if c in present else x[0] for c in range(self.n)])[y]
        freedom = len(y) - len(present)
        damp = np.eye(x.shape[1])
        if freedom:
            assert freedom <= 16  # then the rank cuts nothing off
            covariance = within.T @ within / freedom
            variance, axes = np.linalg.eigh(covariance)
            s = shrinkage * np.trace(covariance) / len(covariance)
            damp = axes @ np.diag(np.sqrt(s / (variance.clip(min=0) + s))) @ axes.T
        return normal((self.join(X, aligned) - x.mean(axis=0)) @ damp)

    def kernel(self, Q: np.ndarray, *, aligned: float, shrinkage: float, beta_i: float, **_: float) -> np.ndarray:
        cosines = self.keys(Q, aligned, shrinkage) @ self.keys(self.X, aligned, shrinkage).T
        return np.asarray(np.exp(beta_i * (cosines - 1)))

    def logits(
        self,
        Q: np.ndarray,
        t: float,
        *,
        ratio: float,
        shrinkage: float,
        aligned: float,
        beta_t: float,
        coupling: float,
        beta_i: float,
        lam: float = 0.1,
        eta: float = 0.0,
        balanced: bool = True,
    ) -> np.ndarray:
        counts = np.bincount(self.y, minlength=self.n)
        kernel, asked = (self.kernel(x, aligned=aligned, shrinkage=shrinkage, beta_i=beta_i) for x in (self.X, Q))
        from_text, target = self.text_votes(self.X, beta_t), np.eye(self.n)[self.y]
        ridge = lam * (counts[self.y] / counts[counts > 0].mean() if balanced else np.ones(len(self.y)))
        if eta:
            unseen = np.empty_like(target)
            for i in range(len(target)):  # the image cache without photo i, refitted
                rest = np.arange(len(target)) != i
                a = np.linalg.solve(kernel[np.ix_(rest, rest)] + np.diag(ridge[rest]), target[rest])
                unseen[i] = kernel[i, rest] @ a
            p_image, p_text = (np.exp(t * s) / np.exp(t * s).sum(axis=1, keepdims=True) for s in (unseen, from_text))
            weights = 1 + eta * np.abs((p_image - p_text)[np.arange(len(target)), self.y])
            ridge = ridge / (weights / weights.mean())
        counted = np.where(counts > 0, 1 - ratio, max(ratio, 1 - ratio))
        # All classes of all samples in one system.
        between = self.between(coupling)
        system = np.kron(kernel, between) + np.kron(np.diag(ridge), np.eye(self.n))
        a = np.linalg.solve(system, (target - counted / ratio * from_text).ravel()).reshape(target.shape)
        return np.asarray(t * (ratio * asked @ a @ between + counted * self.text_votes(Q, beta_t)))

    def between(self, share: float) -> np.ndarray:
        """The kernel over classes, its eigenvalues rounded to powers of two."""
        text = normal(self.w - self.w.mean(axis=0))
        values, vectors = np.linalg.eigh((1 - share) * np.eye(self.n) + share * text @ text.T)
        return np.asarray(vectors @ np.diag(2 ** np.log2(values.clip(min=2**-10)).round()) @ vectors.T)


@pytest.mark.parametrize("counts", [(4, 4, 4, 4), (1, 6, 2, 3), (1, 1, 1), (3, 0, 2, 0)])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"ratio": 0.2, "balanced": False},
        {"aligned": 0.0, "beta_i": 2.5},
        {"aligned": 1.0, "lam": 1.0},
        {"eta": 3.0},
        {"coupling": 0.6},
        {"coupling": 0.95, "beta_i": 0.3, "eta": 1.0},
        {"coupling": 1.0},
    ],
)
def test_given_constants_by_hand(counts: tuple[int, ...], changed: dict[str, Any]) -> None:
    p = problem(counts, noise=0.8)
    params = FIXED | changed
    fitted = make(p, **params)
    expected = Dense(p).logits(p.Q, fitted.temperature_.item(), **params)
    np.testing.assert_allclose(fitted.logits(p.Q), expected, atol=1e-8)
    assert fitted.n_parameters_ == 0


def test_hard_samples_weigh_more() -> None:
    plain, weighted = make(**FIXED), make(**FIXED, eta=3.0)
    assert (plain.coef_ - weighted.coef_).abs().max() > 1e-3


@pytest.mark.parametrize("counts", [(4, 4, 4, 4), (1, 6, 2, 3), (1, 1, 1), (3, 0, 2, 0)])
def test_ratio_0_is_zero_shot(counts: tuple[int, ...]) -> None:
    p = problem(counts, noise=0.8)
    zero = ZeroShot(text=p.text, classes=p.classes).fit(p.X, p.y)
    assert make(p, ratio=0).predict(p.Q).tolist() == zero.predict(p.Q).tolist()
    assert not make(p, ratio=0).coef_.any()


@pytest.mark.parametrize("counts", [(4, 4, 4, 4), (1, 6, 2, 3)])
def test_ratio_1_and_no_coupling_ignore_the_texts(counts: tuple[int, ...]) -> None:
    p = problem(counts, noise=0.8)
    other = np.random.default_rng(5).normal(size=p.text.shape)
    alone: dict[str, Any] = {"ratio": 1.0, "coupling": 0.0}
    torch.testing.assert_close(make(p, **alone, text=other).logits(p.Q), make(p, **alone).logits(p.Q))
    for listens in ({"ratio": 0.9, "coupling": 0.0}, {"ratio": 1.0, "coupling": 0.9}):
        assert (make(p, **listens, text=other).logits(p.Q) - make(p, **listens).logits(p.Q)).abs().max() > 1e-3


def test_without_texts_it_is_the_image_cache_alone() -> None:
    keys = P.X[:, P.d :]
    fitted = XMAdapter(classes=P.classes).fit(keys, P.y)
    assert fitted.ratio_ == 1
    assert XMAdapter(classes=P.classes, ratio=0.5).fit(keys, P.y).ratio_ == 1
    # Keys without the embedding's zeros: the mean variance is over 10 directions, not 16.
    alone = make(ratio=1.0, aligned=0.0, shrinkage=fitted._setting.shrinkage * 16 / 10)
    expected = alone.logits(P.Q) / alone.temperature_ * fitted.temperature_
    torch.testing.assert_close(fitted.logits(P.Q[:, P.d :]), expected)


def test_an_embedding_that_is_its_own_key() -> None:
    p = problem((4, 4, 4), d=12, f=0)
    fitted = make(p)
    assert fitted.keys_.shape == (12, 12)
    assert fitted.predict(p.Q).tolist() == make(p, aligned=0.9).predict(p.Q).tolist()  # there is nothing to join
    # Equal to the same features given twice, as embedding and as key, where the key is all of the image cache: its
    # zeros count in the mean variance, so twice the width is twice the shrinkage.
    single, double = (make(p, ratio=0.7, aligned=0.0, shrinkage=1.0), XMAdapter(text=p.text, classes=p.classes))
    double.set_params(ratio=0.7, aligned=0.0, shrinkage=2.0).fit(np.hstack([p.X, p.X]), p.y)
    scores = [each.logits(q) / each.temperature_ for each, q in ((single, p.Q), (double, np.hstack([p.Q, p.Q])))]
    torch.testing.assert_close(*scores)


# -- what must not move it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(4, 4, 4, 4), (1, 1, 1, 1), (1, 5, 2, 3)])
def test_the_range_of_an_encoders_cosines_does_not_matter(counts: tuple[int, ...]) -> None:
    p = problem(counts, noise=0.8)
    torch.testing.assert_close(make(p, logit_scale=3.0).logits(p.Q), make(p).logits(p.Q), rtol=0, atol=0)

    # Texts far from all photos, as those of CLIP are: every cosine is smaller.
    def wider(x: np.ndarray, height: float) -> np.ndarray:
        return np.insert(x / np.linalg.norm(x[:, : p.d], axis=1, keepdims=True), p.d, height, axis=1)

    one_more: dict[str, Any] = {
        "classes": p.classes,
        "shrinkage": 5 * 17 / 16,
    }  # the mean variance is over one direction more
    far = XMAdapter(text=wider(p.text, 2.0), **one_more).fit(wider(p.X, 0.0), p.y)
    torch.testing.assert_close(far.logits(wider(p.Q, 0.0)), make(p, shrinkage=5.0).logits(p.Q))
    # A direction that photos and texts share: every cosine moves towards one.
    near = XMAdapter(text=wider(p.text, 2.0), aligned=0.0, **one_more).fit(wider(p.X, 2.0), p.y)
    torch.testing.assert_close(near.logits(wider(p.Q, 2.0)), make(p, aligned=0.0, shrinkage=5.0).logits(p.Q))


def test_zero_rows_and_every_text_twice_change_nothing() -> None:
    two = np.stack([P.text, P.text[:, ::-1]], axis=1)
    expected = make(text=two).logits(P.Q)
    for text in (np.hstack([two, two]), np.hstack([two, np.zeros_like(two)])):
        torch.testing.assert_close(make(text=text).logits(P.Q), expected)
    torch.testing.assert_close(make(text=P.text[:, None]).logits(P.Q), make().logits(P.Q))


def test_the_order_of_photos_and_classes_does_not_matter() -> None:
    order = np.random.default_rng(0).permutation(len(P.y))
    rows = [2, 0, 3, 1]
    fitted = make(**FIXED)
    other = XMAdapter(text=P.text[rows], classes=[P.classes[i] for i in rows], **FIXED).fit(P.X[order], P.y[order])
    scores = [(each.logits(P.Q) / each.temperature_) for each in (fitted, other)]
    torch.testing.assert_close(scores[1], scores[0][:, rows])


def test_single_precision_agrees() -> None:
    p = problem((4, 4, 4, 4), noise=0.8)
    single = XMAdapter(text=p.text, classes=p.classes).fit(p.X.astype(np.float32), p.y)
    double = make(p)
    assert single._setting == double._setting
    torch.testing.assert_close(single.logits(p.Q).double(), double.logits(p.Q), rtol=0, atol=1e-3)


# -- what the support decides -----------------------------------------------------------------------------------------


def test_texts_that_name_the_wrong_class_are_not_believed() -> None:
    """On features that photos alone tell apart; and texts are believed where they are better than photos."""
    p = problem((6, 6, 6, 6, 6), noise=0.9, d=12, f=20, n_query=200, seed=3)
    wrong = make(p, text=np.roll(p.text, 1, axis=0))
    assert wrong.ratio_ >= 0.94
    assert accuracy(wrong, p) >= accuracy(make(p, ratio=1.0), p) - 0.02

    weak = problem((2,) * 8, noise=1.6, d=12, f=20, n_query=200, seed=3)
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(8, 32))[:, :12]  # what `problem` drew first: the classes' true centres
    told = make(weak, text=centres)
    assert told.ratio_ < wrong.ratio_
    assert accuracy(told, weak) > accuracy(make(weak, ratio=1.0), weak) + 0.05


def test_the_choice_is_the_likeliest_of_all_ratios_and_temperatures() -> None:
    """Against fits to the rest of each fold, by the public surface."""
    p = problem((3, 1, 4, 2, 0), noise=0.9)
    given: dict[str, Any] = {"shrinkage": 5.0, "aligned": 0.05, "beta_t": 0.25}
    fitted = make(p, **given)
    rows = np.array([p.classes.index(label) for label in p.y])
    folds = []
    for fold in range(4):
        held_out = [np.flatnonzero(rows == c)[fold] for c in range(5) if (rows == c).sum() > max(1, fold)]
        folds.append((np.setdiff1d(np.arange(len(rows)), held_out), held_out))

    def loss(ratio: float, t: float) -> float:
        entropies = []
        for rest, held_out in folds:
            part = XMAdapter(text=p.text, classes=p.classes, ratio=ratio, **given).fit(p.X[rest], p.y[rest])
            logits = part.logits(p.X[held_out]) / part.temperature_ * t
            targets = torch.from_numpy(rows[held_out])
            smoothing = 1 / (sum(len(gone) for _, gone in folds) + 2)
            entropies.append(
                torch.nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
            )
        return torch.cat(entropies).mean().item()

    least = loss(fitted.ratio_.item(), fitted.temperature_.item())
    for ratio in RATIOS:
        for t in (2.0, 4.0, 8.0, 16.0, 32.0, 64.0):
            assert loss(ratio, t) >= least - 1e-9


@pytest.mark.parametrize("counts", [(3, 3, 3), (4, 1, 0, 2)])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9, 1.0])
def test_held_out_scores_are_those_of_a_fit_to_the_rest(counts: tuple[int, ...], ratio: float) -> None:
    p = problem(counts, noise=0.8)
    fitted = make(p, **(FIXED | {"ratio": ratio}))
    for rest, held_out in one_of_every_class(fitted._support):
        choice = fitted._choice()
        scorer = choice.scorer(rest, Setting(**(FIXED | {"ratio": ratio})), choice.texts(rest))
        (scores,) = scorer(held_out.embedding, held_out.key)
        chosen = torch.isin(fitted._support.key[:, 0], rest.key[:, 0]).numpy()
        part = XMAdapter(text=p.text, classes=p.classes, **(FIXED | {"ratio": ratio})).fit(p.X[chosen], p.y[chosen])
        torch.testing.assert_close(scores, part._logits(held_out.embedding, held_out.key) / part.temperature_)


def test_one_shot_follows_the_texts() -> None:
    p = problem((1,) * 6, noise=0.3, d=16, f=16)
    good = make(p)
    assert good.predict(p.X).tolist() == p.y.tolist()
    # The votes of the other photos for a wrong class, each photo left out and all refitted.
    kernel = Dense(p).kernel(p.X, **FIXED | {"aligned": 0.05})
    votes = [
        kernel[i, rest] @ np.linalg.solve(kernel[np.ix_(rest, rest)] + 0.1 * np.eye(5), np.eye(6)[rest])
        for i in range(6)
        for rest in [np.arange(6) != i]
    ]
    noise = np.stack(votes)[~np.eye(6, dtype=bool)].std()
    told, own = Dense(p).text_votes(p.X, 0.1), np.array(p.y)[:, None] == np.array(p.classes)
    assert good.ratio_.item() == pytest.approx(1 / (1 + ONE_SHOT_TEXT * noise * (told[own].mean() - told[~own].mean())))
    assert good.coupling_ == 0
    assert good.directions_.shape[0] == 0
    assert make(p, text=np.roll(p.text, 1, axis=0)).ratio_ == 1  # they name no photo right
    assert make(p, ratio=0.4).ratio_.item() == pytest.approx(0.4)
    assert make(p, **FIXED)._setting == Setting(**FIXED)


@pytest.mark.parametrize("shots", [1, 2, 3])
def test_classes_that_share_words_learn_from_each_other(shots: int) -> None:
    """Names of two words, "red circle": what photos say of a word serves all classes that have it."""
    rng = np.random.default_rng(0)
    colours, shapes = rng.normal(size=(5, 48)), rng.normal(size=(4, 48))
    centres = np.stack([colour + shape for colour in colours for shape in shapes])
    # In the texts' space the words are other directions, which say nothing of a photo's by themselves.
    words, n = rng.normal(size=(9, 24)), len(centres)
    text = np.stack([words[i] + words[5 + j] for i in range(5) for j in range(4)])

    def photos(y: np.ndarray) -> np.ndarray:
        return np.hstack([rng.normal(size=(len(y), 24)), centres[y] + 1.6 * rng.normal(size=(len(y), 48))])

    y, asked = np.repeat(np.arange(n), shots), np.arange(400) % n
    X, Q = photos(y), photos(asked)
    # One photo a class: that texts and photos have to do with each other is all that tells.
    at_one = {"ratio": 0.99} if shots == 1 else {}

    def accuracy_of(text: np.ndarray, **params: Any) -> float:
        return float((XMAdapter(text=text, classes=range(n), **at_one, **params).fit(X, y).predict(Q) == asked).mean())

    together, alone = accuracy_of(text), accuracy_of(text, coupling=0.0)
    assert together > alone + 0.05
    other = rng.permutation(text)  # names that share words as much, of classes that have nothing in common
    assert accuracy_of(other) >= accuracy_of(other, coupling=0.0) - 0.03


def test_classes_without_a_photo_are_found_by_their_texts() -> None:
    p = problem((5, 5, 5, 0, 0), noise=0.4, d=16, f=16, n_query=200)
    fitted = make(p)
    unseen = np.isin(p.y_query, p.classes[3:])
    right = fitted.predict(p.Q) == p.y_query
    assert right[unseen].mean() > 0.8
    assert right[~unseen].mean() > 0.9


def test_many_photos_of_one_class_do_not_win_it_the_others() -> None:
    p = problem((40, 2, 2, 2), noise=0.9, d=12, f=20, n_query=200)
    fitted = make(p)
    assert accuracy(fitted, p) > 0.7
    said = (fitted.predict(p.Q) == p.classes[0]).mean()
    assert said < 0.4  # it is a quarter


def test_what_the_texts_count() -> None:
    labels = torch.tensor([0, 0, 2])
    for ratio, expected in ((0.8, [0.2, 0.8, 0.2]), (0.3, [0.7, 0.7, 0.7]), (0.0, [1, 1, 1]), (1.0, [0, 1, 0])):
        assert text_weights(torch.tensor(ratio), labels, 3).tolist() == pytest.approx(expected)


# -- bad input, and degenerate support --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ratio", 1.1),
        ("ratio", "entropy"),
        ("ratio", True),
        ("ratio", None),
        ("ratio", float("nan")),
        ("aligned", -0.1),
        ("shrinkage", 0),
        ("shrinkage", float("inf")),
        ("beta_t", 0),
        ("beta_t", "0.5"),
        ("eta", -1),
        ("lam", 0),
    ],
)
def test_bad_parameters_are_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name}="):
        make(**{name: value})


def test_numpys_numbers_are_numbers() -> None:
    params: dict[str, Any] = {name: np.float32(value) for name, value in FIXED.items()}
    torch.testing.assert_close(make(**params).logits(P.Q), make(**FIXED).logits(P.Q), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_degenerate_supports_stay_finite(dtype: Any) -> None:
    same = np.ones((6, 16), dtype=dtype)
    alike = np.repeat(P.text[:1], 4, axis=0)
    X = P.X.astype(dtype)
    for classifier in (
        XMAdapter(text=P.text, classes=P.classes).fit(same, P.classes[:3] * 2),
        XMAdapter(text=P.text, classes=P.classes).fit(X[:2], P.classes[:2]),
        XMAdapter(text=alike, classes=P.classes).fit(X, P.y),
        XMAdapter(text=P.text, classes=P.classes, beta_t=500.0).fit(X, P.y),
    ):
        for Q in (P.Q, np.zeros((2, 16)), np.hstack([P.text, np.ones((4, 10))])):
            assert np.isfinite(classifier.predict_proba(Q)).all()


def test_texts_that_are_all_alike_do_no_harm() -> None:
    alike = np.repeat(P.text[:1], 4, axis=0)
    assert make(text=alike, **FIXED).predict(P.Q).tolist() == make(**(FIXED | {"ratio": 1.0})).predict(P.Q).tolist()


# -- tune, save, edit, explain ----------------------------------------------------------------------------------------


def test_tune_takes_the_best_on_validation_photos(tmp_path: Path) -> None:
    p = problem((3, 3, 3, 3), noise=1.2, n_query=60)
    fitted = make(p, logit_scale=10.0)
    before = accuracy(fitted, p)
    fitted.tune(p.Q, p.y_query)
    assert accuracy(fitted, p) >= before
    chosen = {name: getattr(fitted, name) for name in fitted.grid}
    assert all(chosen[name] in fitted.grid[name] for name in chosen)
    # The state is that of a fit with the chosen constants, but for the temperature, which stays.
    again = make(p, **chosen)
    scores = [each.logits(p.Q) / each.temperature_ for each in (fitted, again)]
    torch.testing.assert_close(*scores)
    loaded = load_classifier(save_classifier(fitted, tmp_path / "tuned"))
    assert torch.equal(loaded.logits(p.Q), fitted.logits(p.Q))
    for name, value in chosen.items():
        assert getattr(loaded, name) == value
    for ratio in RATIOS:
        other = make(p, **(chosen | {"ratio": ratio}))
        assert accuracy(other, p) <= accuracy(fitted, p)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    for name, p in (("many", P), ("one", problem((1, 1, 1), noise=0.8)), ("none", problem((3, 0, 2), noise=0.8))):
        fitted = make(p)
        loaded = load_classifier(save_classifier(fitted, tmp_path / name))
        assert torch.equal(loaded.logits(p.Q), fitted.logits(p.Q))
        assert loaded.get_params()["ratio"] == "learned"


@pytest.mark.parametrize("eta", [0.0, 2.0])
@pytest.mark.parametrize("loaded", [False, True])
def test_one_more_class_is_a_solution_with_the_same_constants(eta: float, loaded: bool, tmp_path: Path) -> None:
    p = problem((3, 2, 4, 3, 2), noise=0.8)
    new = p.classes[-1]
    old = p.y != new
    fitted = XMAdapter(text=p.text[:-1], classes=p.classes[:-1], eta=eta).fit(p.X[old], p.y[old])
    setting, t = fitted._setting, fitted.temperature_.item()
    before = fitted.logits(p.Q)
    classifier = load_classifier(save_classifier(fitted, tmp_path / "few")) if loaded else fitted
    classifier.add_class(p.X[~old], new, p.text[-1])
    # Samples of the new class come last.
    order = np.concatenate([np.flatnonzero(old), np.flatnonzero(~old)])
    grown = Problem(p.X[order], p.y[order], p.Q, p.y_query, p.text, p.classes)
    dense = Dense(grown, scale_by=np.arange(len(p.y)) < old.sum())
    np.testing.assert_allclose(classifier.logits(p.Q), dense.logits(p.Q, t, **setting._asdict(), eta=eta), atol=1e-8)
    classifier.remove_class(new)
    torch.testing.assert_close(classifier.logits(p.Q), before, rtol=0, atol=1e-8)


def test_a_class_in_the_middle_goes() -> None:
    fitted = make(**FIXED)
    t, kept = fitted.temperature_, [0, 2, 3]
    fitted.remove_class(P.classes[1])
    assert fitted.classes_.tolist() == [P.classes[i] for i in kept]
    assert fitted.coef_.shape == (12, 3)
    assert fitted.texts_.shape[0] == 3
    assert fitted.temperature_ == t
    right = fitted.predict(P.Q[P.y_query != P.classes[1]]) == P.y_query[P.y_query != P.classes[1]]
    assert right.mean() > 0.8


def test_photos_vote_by_their_labels_alone() -> None:
    """What the image cache adds to make up for the texts' votes is the texts' part."""
    p = problem((3, 0, 3), noise=0.8)
    fitted = make(p, **FIXED)
    target = np.eye(3)[[p.classes.index(label) for label in p.y]]
    kernel, asked = (Dense(p).kernel(x, **FIXED) for x in (p.X, p.Q))
    votes = np.linalg.solve(kernel + 0.1 * np.eye(6), target)
    expected = torch.from_numpy(fitted.temperature_.item() * 0.7 * asked @ votes)
    torch.testing.assert_close(fitted._cache(*fitted._queries(p.Q)).logits, expected)
    before = fitted._photo_votes()
    assert fitted._photo_votes() is before
    fitted.remove_class(p.classes[1])
    assert fitted._photo_votes().shape == (6, 2)
    # Nearly all that photos add is by photos of the class.
    easy = problem((4, 4, 4, 4), noise=0.2, n_query=40)
    for one in make(easy).explain(easy.Q, k=3):
        assert {vote.label for vote in one.supports} == {one.label}


def test_evidence_follows_the_ratio() -> None:
    for ratio, share in ((0.0, "text_share"), (1.0, "image_share")):
        for one in make(ratio=ratio).explain(P.Q):
            assert getattr(one, share) == pytest.approx(1)
            assert one.ratio == ratio
    between = make(ratio=0.5, text=P.text).explain(P.Q)
    assert any(0 < one.text_share < 1 for one in between)
    assert all(one.text_share + one.image_share == pytest.approx(1) for one in between)
