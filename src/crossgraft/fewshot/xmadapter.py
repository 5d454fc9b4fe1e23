"""XMAdapter: an image cache and a text cache vote together, solved in closed form and set by the support itself.

After "Cross-Modal Adapter: Parameter-Efficient Transfer Learning Approach for Vision-Language Models" (XMAdapter),
arXiv 2404.12588, of which `xmadapter_paper` is the reconstruction. What stays is its idea: two caches, a ratio between
them that adjusts itself, and hard samples told by where the caches differ. What is ours:

1. Text cache. Affinity of a photo to a class: A_T,c = mean over the class's texts p of exp(beta_t z_cp), z the
   image-text cosine standardised over the support, over the mean of the largest affinity of a support photo. So it has
   no unit left, whatever range an encoder's cosines have.
2. Image cache. Affinity of a photo to support photo m: A_I,m = exp(beta_i (cosine - 1)), after what photos of one class
   differ in has been damped in the keys (`nuisance`). The centred cosine has mean zero on any encoder.
3. Fusion. Scores S = g A_I a + (1 - g) A_T, with (A_I + diag(lam)) a = Y - (1 - g) / g A_T over the support (Y
   one-hot): the image cache learns what the text cache leaves over, by kernel ridge regression (as ProKeR does, Bendou
   et al., CVPR 2025, with cosines in the place of A_T). Logits are t S. A class without a sample counts by its texts
   alone, with weight g.
4. The ratio g, the damping and the temperature t are those under which held-out support photos are likeliest, one photo
   of every class held out together: leaving out one photo alone favours the classes that still have all of theirs.
   With one photo a class nothing can be held out, and g follows from how well the texts alone do on the support.
5. Hard samples: lam_m = lam / w_m with w_m = (1 + eta delta_m) / mean and delta_m = |p_I - p_T| of the true class, p_I
   from the image cache without the photo itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Self

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
SHRINKAGES = (5.0, 1.0)
TEMPERATURES = tuple(2 ** (i / 2) for i in range(2, 13))  # 2 to 64
# With one photo a class: the text cache's weight against the image cache's, for texts that name every support photo
# right; and the temperature. Found on Caltech-101's training photos, like the lists above (docs/xmadapter.md).
ONE_SHOT_TEXT, ONE_SHOT_TEMPERATURE = 0.33, 24.0


@register("xmadapter")
class XMAdapter(ExplainableClassifier):
    """Scores g A_I a + (1 - g) A_T; see the module for every step. Without `text` there is no text cache: g = 1.

    Parameters:
        ratio: g, from 0 (text cache alone) to 1 (image cache alone), or "learned" from held-out support photos.
        shrinkage: how far the nuisance within classes has to stand out to be damped; "learned", or a number (larger
            damps less).
        beta_i, beta_t: sharpness of the image and the text affinity. lam: strength of the ridge.
        eta: strength of the hard-sample weights; 0, because they have not helped (docs/xmadapter.md).
        balanced: a sample's ridge is scaled by (its class's count / mean count), as in ProKeR.

    Attributes (after `fit`): `keys_` (M, f) the support keys, nuisance damped; `embeddings_` (M, d); `labels_` (M,);
        `coef_` (M, N) = a; `ratio_` () = g; `temperature_` () = t; `mean_` (f,), `directions_` (r, f), `damping_` (r,)
        the nuisance; `texts_` (N, P, d), `gain_` (), `shift_` () the text cache.
    """

    paper = (
        "After: Cross-Modal Adapter: Parameter-Efficient Transfer Learning Approach for Vision-Language Models "
        "(XMAdapter), arXiv 2404.12588; solved in closed form"
    )
    grid: ClassVar[dict[str, tuple[float, ...]]] = {
        "ratio": RATIOS,
        "shrinkage": (*SHRINKAGES, 50.0),
        "lam": (0.03, 0.1, 0.3),
    }
    state: ClassVar[dict[str, tuple[str, ...]]] = {
        "keys_": ("M", "f"),
        "embeddings_": ("M", "d"),
        "labels_": ("M",),
        "coef_": ("M", "N"),
        "ratio_": (),
        "temperature_": (),
        "mean_": ("f",),
        "directions_": ("r", "f"),
        "damping_": ("r",),
        "texts_": ("N", "P", "d"),
        "gain_": (),
        "shift_": (),
    }

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        ratio: str | float = LEARNED,
        shrinkage: str | float = LEARNED,
        beta_i: float = 1.0,
        beta_t: float = 0.5,
        lam: float = 0.1,
        eta: float = 0.0,
        balanced: bool = True,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(text, classes, logit_scale, device)
        self.ratio = ratio
        self.shrinkage = shrinkage
        self.beta_i = beta_i
        self.beta_t = beta_t
        self.lam = lam
        self.eta = eta
        self.balanced = balanced

    def check_params(self) -> None:
        super().check_params()
        if not _learned_or(self.ratio, lambda g: 0 <= g <= 1):
            raise InputError(f"ratio={self.ratio!r}; expected 'learned' or a number from 0 to 1")
        if not _learned_or(self.shrinkage, lambda s: 0 < s < math.inf):
            raise InputError(f"shrinkage={self.shrinkage!r}; expected 'learned' or a number above 0")

    def _fit(self, support: Support) -> int:
        ratio, self._shrinkage, temperature = self._choose(support)
        self._set_text_cache(TextCache.standardised(support.texts, support.embedding, self.beta_t))
        self._set(support, ratio, self._shrinkage, self.lam, temperature)
        return 0

    # -- what the support decides -------------------------------------------------------------------------------------

    def _choose(self, support: Support) -> tuple[float, float, float]:
        """Ratio, shrinkage and temperature under which held-out support photos have the least cross-entropy."""
        folds = one_of_every_class(support)
        ratios = self._ratios()
        shrinkages = SHRINKAGES if self.shrinkage == LEARNED else [float(self.shrinkage)]
        if not folds:
            ratio = self._one_shot_ratio(support) if len(ratios) > 1 else ratios[0]
            return ratio, shrinkages[0], ONE_SHOT_TEMPERATURE
        labels = torch.cat([held_out.labels for _, held_out in folds])
        # Platt's targets: few photos, all named right, would otherwise ask for the highest temperature.
        smoothing = 1 / (len(labels) + 2)
        best = (math.inf, ratios[0], shrinkages[0], ONE_SHOT_TEMPERATURE)
        for shrinkage in shrinkages:
            parts = [self._parts(rest, held_out, shrinkage, ratios) for rest, held_out in folds]
            for ratio, scores in zip(ratios, zip(*parts, strict=True), strict=True):
                held_out_scores = torch.cat(scores)
                for t in TEMPERATURES:
                    loss = functional.cross_entropy(t * held_out_scores, labels, label_smoothing=smoothing).item()
                    best = min(best, (loss, ratio, shrinkage, t), key=lambda found: found[0])
        return best[1:]

    def _ratios(self) -> tuple[float, ...]:
        """The values of g to choose from."""
        if self.text is None:
            return (1.0,)
        return RATIOS if self.ratio == LEARNED else (float(self.ratio),)

    def _parts(self, rest: Support, held_out: Support, shrinkage: float, ratios: Sequence[float]) -> list[Tensor]:
        """Scores (n, N) of held-out samples from the rest of the support, one for each ratio, from one factor."""
        text = TextCache.standardised(rest.texts, rest.embedding, self.beta_t)
        nuisance = within_class(rest.key, rest.labels, rest.n_classes, shrinkage)
        keys = nuisance.remove(rest.key)
        factor = factorise(self._gram(keys), self._ridge(rest.labels, rest.n_classes, self.lam, keys))
        solved = solve(factor, torch.cat([_one_hot(rest), text(rest.embedding)], dim=1))
        votes = affinity(nuisance.remove(held_out.key) @ keys.T, self.beta_i) @ solved
        image, explained = votes[:, : rest.n_classes], votes[:, rest.n_classes :]
        from_text = text(held_out.embedding)
        return [g * image + (1 - g) * (from_text - explained) if g else from_text for g in ratios]

    def _one_shot_ratio(self, support: Support) -> float:
        """g from the share of support photos that the texts alone name right, over what chance would."""
        text = TextCache.standardised(support.texts, support.embedding, self.beta_t)
        right = (text(support.embedding).argmax(dim=1) == support.labels).double().mean().item()
        chance = 1 / support.n_classes
        return 1 / (1 + ONE_SHOT_TEXT * max(0.0, (right - chance) / (1 - chance)))

    # -- the solution -------------------------------------------------------------------------------------------------

    def _set(self, support: Support, ratio: float, shrinkage: float, lam: float, temperature: float) -> None:
        """Set the image cache for these settings; the text cache is set."""
        nuisance = within_class(support.key, support.labels, support.n_classes, shrinkage)
        self.mean_, self.directions_, self.damping_ = nuisance
        self.keys_, self.embeddings_, self.labels_ = nuisance.remove(support.key), support.embedding, support.labels
        self.ratio_, self.temperature_ = (support.key.new_tensor(value) for value in (ratio, temperature))
        from_text = self._text_cache()(support.embedding)
        self.coef_ = self._solve(self.keys_, from_text, support.labels, lam)

    def _solve(self, keys: Tensor, from_text: Tensor, labels: Tensor, lam: float) -> Tensor:
        """a (M, N), for damped keys (M, f), the text cache's votes (M, N) and labels (M,)."""
        n_classes = from_text.shape[1]
        if not self.ratio_ > 0:
            return torch.zeros_like(from_text)
        target = functional.one_hot(labels, n_classes).to(keys)
        residual = target - self._text_weights(labels, n_classes) / self.ratio_ * from_text
        ridge = self._ridge(labels, n_classes, lam, keys)
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

    def _ridge(self, labels: Tensor, n_classes: int, lam: float, like: Tensor) -> Tensor:
        return lam / vote_weights(labels, n_classes, balanced=self.balanced, dtype=like.dtype)

    # -- the caches ---------------------------------------------------------------------------------------------------

    def _text_weights(self, labels: Tensor, n_classes: int) -> Tensor:
        """What the text cache's votes count (N,): 1 - g; for a class without a sample g, since its text is all it has,
        and the image cache, which aims at one, gives the others' true class about g."""
        seen = torch.bincount(labels, minlength=n_classes) > 0
        return torch.where(seen, 1 - self.ratio_, self.ratio_.clamp(min=0.5))

    def _text_cache(self) -> TextCache:
        return TextCache(self.texts_, self.gain_, self.shift_)

    def _set_text_cache(self, cache: TextCache) -> None:
        self.texts_, self.gain_, self.shift_ = cache

    def _affinities(self, key: Tensor) -> Tensor:
        """A_I (n, M) of unit keys (n, f)."""
        nuisance = Nuisance(self.mean_, self.directions_, self.damping_)
        return affinity(nuisance.remove(key) @ self.keys_.T, self.beta_i)

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        image = self._affinities(key) @ self.coef_
        text = self._text_weights(self.labels_, len(self.texts_)) * self._text_cache()(embedding)
        return self.temperature_ * (self.ratio_ * image + text)

    def _cache(self, embedding: Tensor, key: Tensor) -> Cache:
        weights = self._affinities(key)
        coef = self.temperature_ * self.ratio_ * self.coef_
        return Cache(
            weights @ coef,
            weights,
            self.labels_,
            lambda predicted: weights * coef[:, predicted].T,
            self.ratio_.expand(len(key)),
        )

    def _candidates(self) -> Iterator[Candidates]:
        ratios = self._ratios()
        temperature = self.temperature_.item()
        for shrinkage in self.grid["shrinkage"]:
            for lam in self.grid["lam"]:
                for ratio in ratios:
                    other = copy.copy(self)
                    other._set(self._support, ratio, shrinkage, lam, temperature)
                    state = {name: getattr(other, name) for name in self.state}

                    def score(embedding: Tensor, key: Tensor, other: Self = other) -> Iterator[Tensor]:
                        yield other._logits(embedding, key)

                    yield Candidates([{"ratio": ratio, "shrinkage": shrinkage, "lam": lam}], score, state)

    # -- one class more or less ---------------------------------------------------------------------------------------

    # What the support decided (ratio, nuisance, temperature, the text cache's scale) stays as it is.

    def _with_class(self, texts: Tensor, embedding: Tensor, key: Tensor) -> dict[str, Any]:
        nuisance = Nuisance(self.mean_, self.directions_, self.damping_)
        return self._solved(
            torch.cat([self.keys_, nuisance.remove(key)]),
            torch.cat([self.embeddings_, embedding]),
            torch.cat([self.labels_, self.labels_.new_full((len(key),), len(self.texts_))]),
            self._text_cache().with_class(texts),
        )

    def _without_class(self, row: int) -> dict[str, Any]:
        left = drop_class(self, row)
        cache = self._text_cache()._replace(texts=left["texts_"])
        return self._solved(left["keys_"], left["embeddings_"], left["labels_"], cache)

    def _solved(self, keys: Tensor, embeddings: Tensor, labels: Tensor, cache: TextCache) -> dict[str, Any]:
        coef = self._solve(keys, cache(embeddings), labels, self.lam)
        return {"keys_": keys, "embeddings_": embeddings, "labels_": labels, "texts_": cache.texts, "coef_": coef}


def _learned_or(value: Any, allowed: Callable[[float], bool]) -> bool:
    """Whether a parameter is "learned", or an allowed number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return allowed(value)
    return isinstance(value, str) and value == LEARNED


def _one_hot(support: Support) -> Tensor:
    return functional.one_hot(support.labels, support.n_classes).to(support.key)
