"""XMAdapter: an image cache and a text cache vote together, solved in closed form and set by the support itself.

After "Cross-Modal Adapter: Parameter-Efficient Transfer Learning Approach for Vision-Language Models" (XMAdapter),
arXiv 2404.12588, of which `xmadapter_paper` is the reconstruction. What stays is its idea: two caches, a ratio between
them that adjusts itself, and hard samples told by where the caches differ. What is ours:

1. Text cache. Affinity of a photo to a class: A_T,c = the mean over the class's texts p of exp(beta_t z_cp), z the
   image-text cosine standardised over the support. It is counted from its mean, in units of what a support photo's best
   text is above it: 0 is any text, 1 a typical best one, whatever range an encoder's cosines have (`TextCache`).
2. Image cache. Keys join the un-projected feature and, for a share `aligned`, the embedding. What photos of one class
   differ in is damped (`nuisance`). Affinity of a photo to support photo m: A_I,m = exp(beta_i (cosine - 1)), the
   cosine of centred keys, whose mean is zero on any encoder.
3. Fusion. Scores S = g A_I a + (1 - g) A_T, with (A_I + diag(lam)) a = Y - (1 - g) / g A_T over the support (Y
   one-hot): the image cache learns what the text cache leaves over, by kernel ridge regression (as ProKeR does, Bendou
   et al., CVPR 2025, with cosines in the place of A_T). Logits are t S. A class without a sample counts by its texts
   alone, with weight g.
4. The ratio g, beta_t, `aligned`, the damping and the temperature t are those under which held-out support photos are
   likeliest, one photo of every class held out together: leaving out one photo alone favours the classes that still
   have all of theirs. With one photo a class nothing can be held out; g then follows from how well the texts alone do
   on the support, and the rest is fixed.
5. Hard samples: lam_m = lam / w_m with w_m = (1 + eta delta_m) / mean and delta_m = |p_I - p_T| of the true class, p_I
   from the image cache without the photo itself.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.errors import InputError
from crossgraft.fewshot.base import Candidates
from crossgraft.fewshot.cache import affinity, vote_weights
from crossgraft.fewshot.classes import drop_class
from crossgraft.fewshot.evidence import Cache, ExplainableClassifier
from crossgraft.fewshot.features import Support
from crossgraft.fewshot.holdout import one_of_every_class
from crossgraft.fewshot.nuisance import Nuisance, within_class
from crossgraft.fewshot.registry import register
from crossgraft.fewshot.ridge import factorise, gram, last_inverse, solve
from crossgraft.fewshot.text_cache import TextCache

LEARNED = "learned"
RATIOS = (1.0, 0.97, 0.94, 0.91, 0.87, 0.83, 0.77, 0.69, 0.6, 0.5)
BETAS_T = (0.05, 0.25, 0.5)  # 0.05 is as good as linear
TEMPERATURES = tuple(2 ** (i / 2) for i in range(2, 13))  # 2 to 64


class Setting(NamedTuple):
    """What the support decides beside the temperature; the values are those for one photo a class.

    They, and the lists of values to choose from, were found on the training and validation photos of Caltech-101
    (docs/xmadapter.md).
    """

    ratio: float = 1.0
    shrinkage: float = 5.0
    aligned: float = 0.05
    beta_t: float = 0.15


class Found(NamedTuple):
    """A setting and a temperature, and the cross-entropy of held-out photos under them."""

    loss: float
    setting: Setting
    temperature: float


# With one photo a class: the text cache's weight against the image cache's, for texts that name every support photo
# right; and the temperature.
ONE_SHOT_TEXT, ONE_SHOT_TEMPERATURE = 0.33, 24.0


@register("xmadapter")
class XMAdapter(ExplainableClassifier):
    """Scores g A_I a + (1 - g) A_T; see the module for every step. Without `text` there is no text cache: g = 1.

    Parameters:
        ratio: g, from 0 (text cache alone) to 1 (image cache alone), or "learned" from held-out support photos.
        shrinkage: how far the nuisance within classes has to stand out to be damped; "learned", or a number (larger
            damps less).
        aligned: share of the embedding in the image cache's keys, beside the feature; "learned", or from 0 to 1.
        beta_t: sharpness of the text affinity; "learned", or a number above 0. beta_i: of the image affinity.
        lam: strength of the ridge.
        eta: strength of the hard-sample weights; 0, because they have not helped (docs/xmadapter.md).
        balanced: a sample's ridge is scaled by (its class's count / mean count), as in ProKeR.

    Attributes (after `fit`), with w the keys' size: `keys_` (M, w) the support keys, nuisance damped;
        `embeddings_` (M, d); `labels_` (M,);
        `coef_` (M, N) = a; `ratio_` () = g; `aligned_` (); `temperature_` () = t; `mean_` (w,), `directions_` (r, w),
        `damping_` (r,) the nuisance; `texts_` (N, P, d), `gain_` (), `shift_` (), `offset_` () the text cache.
    """

    paper = (
        "After: Cross-Modal Adapter: Parameter-Efficient Transfer Learning Approach for Vision-Language Models "
        "(XMAdapter), arXiv 2404.12588; solved in closed form"
    )
    grid: ClassVar[dict[str, tuple[float, ...]]] = {
        "ratio": RATIOS,
        "shrinkage": (1.0, 5.0, 50.0),
        "aligned": (0.0, 0.05, 0.15),
        "beta_t": BETAS_T,
    }
    state: ClassVar[dict[str, tuple[str, ...]]] = {
        "keys_": ("M", "w"),
        "embeddings_": ("M", "d"),
        "labels_": ("M",),
        "coef_": ("M", "N"),
        "ratio_": (),
        "aligned_": (),
        "temperature_": (),
        "mean_": ("w",),
        "directions_": ("r", "w"),
        "damping_": ("r",),
        "texts_": ("N", "P", "d"),
        "gain_": (),
        "shift_": (),
        "offset_": (),
    }

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        ratio: str | float = LEARNED,
        shrinkage: str | float = LEARNED,
        aligned: str | float = LEARNED,
        beta_t: str | float = LEARNED,
        beta_i: float = 1.0,
        lam: float = 0.1,
        eta: float = 0.0,
        balanced: bool = True,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(text, classes, logit_scale, device)
        self.ratio = ratio
        self.shrinkage = shrinkage
        self.aligned = aligned
        self.beta_t = beta_t
        self.beta_i = beta_i
        self.lam = lam
        self.eta = eta
        self.balanced = balanced

    def check_params(self) -> None:
        super().check_params()
        for name, expected, allowed in (
            ("ratio", "from 0 to 1", lambda g: 0 <= g <= 1),
            ("aligned", "from 0 to 1", lambda share: 0 <= share <= 1),
            ("shrinkage", "above 0", lambda s: 0 < s < math.inf),
            ("beta_t", "above 0", lambda b: 0 < b < math.inf),
        ):
            value: Any = getattr(self, name)
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not (allowed(value) if number else isinstance(value, str) and value == LEARNED):
                raise InputError(f"{name}={value!r}; expected 'learned' or a number {expected}")

    def _fit(self, support: Support) -> int:
        self._setting, temperature = self._choose(support)
        self._set(support, self._setting, temperature)
        return 0

    # -- what the support decides -------------------------------------------------------------------------------------

    def _options(self, name: str, learned: tuple[float, ...]) -> tuple[float, ...]:
        """The values of a parameter to choose from: one, if it was given as a number."""
        value = getattr(self, name)
        return learned if value == LEARNED else (float(value),)

    def _choose(self, support: Support) -> tuple[Setting, float]:
        """The setting and temperature under which held-out support photos have the least cross-entropy."""
        given = {name: self._options(name, ())[0] for name in Setting._fields if getattr(self, name) != LEARNED}
        setting = Setting(**given)
        if self.text is None:
            setting = setting._replace(ratio=1.0)
        folds = one_of_every_class(support)
        if not folds:
            if self.text is not None and self.ratio == LEARNED:
                setting = setting._replace(ratio=self._one_shot_ratio(support, setting.beta_t))
            return setting, ONE_SHOT_TEMPERATURE
        # Each in turn: they hardly depend on each other, and every pair of values costs a factorisation a fold.
        found = self._best(
            folds, [setting._replace(shrinkage=value) for value in self._options("shrinkage", (5.0, 1.0))]
        )
        others = [value for value in self._options("aligned", self.grid["aligned"]) if value != setting.aligned]
        other = self._best(folds, [found[1]._replace(aligned=value) for value in others]) if others else found
        return min(found, other, key=lambda one: one[0])[1:]

    def _best(
        self, folds: Sequence[tuple[Support, Support]], settings: Sequence[Setting]
    ) -> tuple[float, Setting, float]:
        """The least cross-entropy over these settings and all ratios, beta_t and temperatures, and where it is."""
        labels = torch.cat([held_out.labels for _, held_out in folds])
        # Platt's targets: few photos, all named right, would otherwise ask for the highest temperature.
        smoothing = 1 / (len(labels) + 2)
        best = Found(math.inf, settings[0], ONE_SHOT_TEMPERATURE)
        for setting in settings:
            scores = [self._scorer(rest, setting)(held_out.embedding, held_out.key) for rest, held_out in folds]
            for (ratio, beta_t), parts in zip(self._ratios_and_betas(setting), zip(*scores, strict=True), strict=True):
                held_out_scores = torch.cat(parts)
                for t in TEMPERATURES:
                    loss = functional.cross_entropy(t * held_out_scores, labels, label_smoothing=smoothing).item()
                    if loss < best.loss:
                        best = Found(loss, setting._replace(ratio=ratio, beta_t=beta_t), t)
        return best

    def _ratios_and_betas(self, setting: Setting) -> list[tuple[float, float]]:
        """All (g, beta_t) to choose from."""
        if self.text is None:
            return [(setting.ratio, setting.beta_t)]
        return list(product(self._options("ratio", RATIOS), self._options("beta_t", BETAS_T)))

    def _scorer(self, rest: Support, setting: Setting) -> Callable[[Tensor, Tensor], Iterator[Tensor]]:
        """A support solved once -> from embedding (n, d) and key (n, f), scores (n, N) for each of `_ratios_and_betas`.

        Hard-sample weights, which would need a factor each, are left out.
        """
        choices, n = self._ratios_and_betas(setting), rest.n_classes
        betas = list(dict.fromkeys(beta for _, beta in choices))
        caches = [TextCache.standardised(rest.texts, rest.embedding, beta) for beta in betas]
        key = self._join(rest.embedding, rest.key, setting.aligned)
        nuisance = within_class(key, rest.labels, n, setting.shrinkage)
        keys = nuisance.remove(key)
        factor = factorise(self._gram(keys), self._ridge(rest.labels, n, keys))
        targets = [functional.one_hot(rest.labels, n).to(keys), *(cache(rest.embedding) for cache in caches)]
        solved = solve(factor, torch.cat(targets, dim=1))

        def scores(embedding: Tensor, key: Tensor) -> Iterator[Tensor]:
            queries = nuisance.remove(self._join(embedding, key, setting.aligned))
            image, *explained = (affinity(queries @ keys.T, self.beta_i) @ solved).split(n, dim=1)
            texts = [cache(embedding) for cache in caches]
            for g, beta in choices:
                row = betas.index(beta)
                weights = text_weights(torch.as_tensor(g).to(keys), rest.labels, n)
                yield g * image + weights * (texts[row] - explained[row]) if g else texts[row]

        return scores

    def _one_shot_ratio(self, support: Support, beta_t: float) -> float:
        """g from the share of support photos that the texts alone name right, over what chance would."""
        text = TextCache.standardised(support.texts, support.embedding, beta_t)
        right = (text(support.embedding).argmax(dim=1) == support.labels).sum().item() / len(support.labels)
        chance = 1 / support.n_classes
        return 1 / (1 + ONE_SHOT_TEXT * max(0.0, (right - chance) / (1 - chance)))

    # -- the solution -------------------------------------------------------------------------------------------------

    def _set(self, support: Support, setting: Setting, temperature: float) -> None:
        """Solve for a setting."""
        cache = TextCache.standardised(support.texts, support.embedding, setting.beta_t)
        self.texts_, self.gain_, self.shift_, self.offset_ = cache
        key = self._join(support.embedding, support.key, setting.aligned)
        nuisance = within_class(key, support.labels, support.n_classes, setting.shrinkage)
        self.mean_, self.directions_, self.damping_ = nuisance
        self.keys_, self.embeddings_, self.labels_ = nuisance.remove(key), support.embedding, support.labels
        self.ratio_, self.aligned_, self.temperature_ = (
            support.key.new_tensor(value) for value in (setting.ratio, setting.aligned, temperature)
        )
        self.coef_ = self._solve(self.keys_, cache(support.embedding), support.labels)

    def _solve(self, keys: Tensor, from_text: Tensor, labels: Tensor) -> Tensor:
        """a (M, N), for damped keys (M, f), the text cache's votes (M, N) and labels (M,)."""
        n_classes = from_text.shape[1]
        if not self.ratio_ > 0:
            return torch.zeros_like(from_text)
        target = functional.one_hot(labels, n_classes).to(keys)
        residual = target - text_weights(self.ratio_, labels, n_classes) / self.ratio_ * from_text
        ridge = self._ridge(labels, n_classes, keys)
        if self.eta:
            ridge = ridge / self._hard_sample_weights(keys, target, from_text, ridge)
        return solve(factorise(self._gram(keys), ridge), residual)

    def _hard_sample_weights(self, keys: Tensor, target: Tensor, from_text: Tensor, ridge: Tensor) -> Tensor:
        """w (M,) of mean one: larger where image and text cache give the true class different probabilities."""
        factor = factorise(self._gram(keys), ridge)
        unseen = target - solve(factor, target) / last_inverse(factor, len(keys)).diagonal()[:, None]
        p_image, p_text = ((self.temperature_ * votes).softmax(dim=1) for votes in (unseen, from_text))
        weights = 1 + self.eta * ((p_image - p_text) * target).sum(dim=1).abs()
        return weights / weights.mean()

    def _gram(self, keys: Tensor) -> Tensor:
        return gram(lambda i, j: affinity(keys[i] @ keys[j].T, self.beta_i), len(keys), keys)

    def _ridge(self, labels: Tensor, n_classes: int, like: Tensor) -> Tensor:
        return self.lam / vote_weights(labels, n_classes, balanced=self.balanced, dtype=like.dtype)

    # -- the caches ---------------------------------------------------------------------------------------------------

    def _text_cache(self) -> TextCache:
        return TextCache(self.texts_, self.gain_, self.shift_, self.offset_)

    def _join(self, embedding: Tensor, key: Tensor, aligned: float | Tensor) -> Tensor:
        """Unit embedding (n, d) and key (n, f) -> unit (n, w), w = f + d; `aligned` is the embedding's share.

        Where the embedding is its own key, that is all.
        """
        if self.n_features_in_ == embedding.shape[1]:
            return key
        return torch.cat([(1 - aligned) ** 0.5 * key, aligned**0.5 * embedding], dim=1)

    def _keys(self, embedding: Tensor, key: Tensor) -> Tensor:
        """Unit embedding (n, d) and key (n, f) -> cache keys (n, w)."""
        return Nuisance(self.mean_, self.directions_, self.damping_).remove(self._join(embedding, key, self.aligned_))

    def _affinities(self, embedding: Tensor, key: Tensor) -> Tensor:
        """A_I (n, M)."""
        return affinity(self._keys(embedding, key) @ self.keys_.T, self.beta_i)

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        image = self._affinities(embedding, key) @ self.coef_
        text = text_weights(self.ratio_, self.labels_, len(self.texts_)) * self._text_cache()(embedding)
        return self.temperature_ * (self.ratio_ * image + text)

    def _cache(self, embedding: Tensor, key: Tensor) -> Cache:
        weights = self._affinities(embedding, key)
        coef = self.temperature_ * self.ratio_ * self.coef_
        return Cache(
            weights @ coef,
            weights,
            self.labels_,
            lambda predicted: weights * coef[:, predicted].T,
            self.ratio_.expand(len(key)),
        )

    def _candidates(self) -> Iterator[Candidates]:
        shares = self._options("aligned", self.grid["aligned"])
        for shrinkage, aligned in product(self._options("shrinkage", self.grid["shrinkage"]), shares):
            setting = self._setting._replace(shrinkage=shrinkage, aligned=aligned)
            settings = [setting._replace(ratio=g, beta_t=beta) for g, beta in self._ratios_and_betas(setting)]
            yield Candidates([one._asdict() for one in settings], self._scorer(self._support, setting))

    def _search(self, embedding: Tensor, key: Tensor, labels: Tensor) -> None:
        super()._search(embedding, key, labels)
        # All that is in the grid is given now, so that only the temperature is left for the support to decide.
        self._learn(self._support)

    # -- one class more or less ---------------------------------------------------------------------------------------

    # What the support decided (ratio, nuisance, temperature, the text cache's scale) stays as it is.

    def _with_class(self, texts: Tensor, embedding: Tensor, key: Tensor) -> dict[str, Any]:
        return self._solved(
            torch.cat([self.keys_, self._keys(embedding, key)]),
            torch.cat([self.embeddings_, embedding]),
            torch.cat([self.labels_, self.labels_.new_full((len(key),), len(self.texts_))]),
            self._text_cache().with_class(texts),
        )

    def _without_class(self, row: int) -> dict[str, Any]:
        left = drop_class(self, row)
        cache = self._text_cache()._replace(texts=left["texts_"])
        return self._solved(left["keys_"], left["embeddings_"], left["labels_"], cache)

    def _solved(self, keys: Tensor, embeddings: Tensor, labels: Tensor, cache: TextCache) -> dict[str, Any]:
        coef = self._solve(keys, cache(embeddings), labels)
        return {"keys_": keys, "embeddings_": embeddings, "labels_": labels, "texts_": cache.texts, "coef_": coef}


def text_weights(ratio: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """What the text cache's votes count (N,) beside an image cache of samples with labels (M,).

    1 - g; for a class without a sample the larger of g and 1 - g, since its text is all it has, and the image cache,
    which aims at one, gives the others' true class about g.
    """
    seen = torch.bincount(labels, minlength=n_classes) > 0
    return torch.where(seen, 1 - ratio, torch.maximum(ratio, 1 - ratio))
