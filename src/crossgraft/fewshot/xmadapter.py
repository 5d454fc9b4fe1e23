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
   alone, with weight g. Classes whose texts are alike may learn from each other's photos (`coupling`).
4. The ratio g, beta_t, `aligned`, the damping, the coupling and the temperature t are the support's choice, from photos
   of it that are held out (`support_choice`).
5. Hard samples: lam_m = lam / w_m with w_m = (1 + eta delta_m) / mean and delta_m = |p_I - p_T| of the true class, p_I
   from the image cache without the photo itself.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.errors import InputError
from crossgraft.fewshot.base import Candidates
from crossgraft.fewshot.cache import affinity, kernel, ridge_of
from crossgraft.fewshot.classes import drop_class
from crossgraft.fewshot.coupling import groups_of, solve_coupled
from crossgraft.fewshot.evidence import Cache, ExplainableClassifier
from crossgraft.fewshot.features import Support, mean_text
from crossgraft.fewshot.nuisance import Nuisance
from crossgraft.fewshot.registry import register
from crossgraft.fewshot.ridge import factorise, last_inverse, solve
from crossgraft.fewshot.support_choice import (
    ALIGNED,
    BETAS_T,
    COUPLINGS,
    RATIOS,
    Setting,
    SupportChoice,
    join,
    support_keys,
    text_weights,
)
from crossgraft.fewshot.text_cache import TextCache

LEARNED = "learned"


@register("xmadapter")
class XMAdapter(ExplainableClassifier):
    """Scores g A_I a + (1 - g) A_T; see the module for every step. Without `text` there is no text cache: g = 1.

    Parameters:
        ratio: g, from 0 (text cache alone) to 1 (image cache alone), or "learned" from held-out support photos.
        shrinkage: how far the nuisance within classes has to stand out to be damped; "learned", or a number (larger
            damps less).
        coupling: how far classes learn from each other's photos as their texts are alike, from 0 (not) to 1; "learned".
        aligned: share of the embedding in the image cache's keys, beside the feature; "learned", or from 0 to 1.
        beta_t: sharpness of the text affinity; "learned", or a number above 0. beta_i: of the image affinity;
            "learned", which is 1, or less for one photo a class and coupled classes; or a number above 0.
        lam: strength of the ridge.
        eta: strength of the hard-sample weights; 0, because they have not helped (docs/xmadapter.md).
        balanced: a sample's ridge is scaled by (its class's count / mean count), as in ProKeR.

    Attributes (after `fit`), with w the keys' size: `keys_` (M, w) the support keys, nuisance damped;
        `embeddings_` (M, d); `labels_` (M,); `coef_` (M, N) = a; `ratio_` () = g; `aligned_` (), `coupling_` (),
        `beta_i_` (); `temperature_` () = t; `mean_` (w,), `directions_` (r, w), `damping_` (r,) the nuisance;
        `texts_` (N, P, d), `gain_` (), `shift_` (), `offset_` () the text cache.
    """

    paper = (
        "After: Cross-Modal Adapter: Parameter-Efficient Transfer Learning Approach for Vision-Language Models "
        "(XMAdapter), arXiv 2404.12588; solved in closed form"
    )
    grid: ClassVar[dict[str, tuple[float, ...]]] = {
        "ratio": RATIOS,
        "shrinkage": (1.0, 5.0, 50.0),
        "aligned": ALIGNED,
        "beta_t": BETAS_T,
        "coupling": COUPLINGS,
    }
    state: ClassVar[dict[str, tuple[str, ...]]] = {
        "keys_": ("M", "w"),
        "embeddings_": ("M", "d"),
        "labels_": ("M",),
        "coef_": ("M", "N"),
        "ratio_": (),
        "aligned_": (),
        "coupling_": (),
        "beta_i_": (),
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
        coupling: str | float = LEARNED,
        beta_i: str | float = LEARNED,
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
        self.coupling = coupling
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
            ("beta_i", "above 0", lambda b: 0 < b < math.inf),
            ("coupling", "from 0 to 1", lambda share: 0 <= share <= 1),
        ):
            value: Any = getattr(self, name)
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not (allowed(value) if number else isinstance(value, str) and value == LEARNED):
                raise InputError(f"{name}={value!r}; expected 'learned' or a number {expected}")

    def _fit(self, support: Support) -> int:
        self._setting, temperature = self._choice().choose(support)
        self._set(support, self._setting, temperature)
        return 0

    def _choice(self) -> SupportChoice:
        """What the support may decide: all that is not given as a number."""
        values = {name: getattr(self, name) for name in Setting._fields}
        given = {name: float(value) for name, value in values.items() if value != LEARNED}
        return SupportChoice(given, self.lam, self.balanced, has_text=self.text is not None, shared=self._shared)

    # -- the solution -------------------------------------------------------------------------------------------------

    def _set(self, support: Support, setting: Setting, temperature: float) -> None:
        """Solve for a setting."""
        cache = TextCache.standardised(support.texts, support.embedding, setting.beta_t)
        self.texts_, self.gain_, self.shift_, self.offset_ = cache
        nuisance, self.keys_ = support_keys(support, setting, shared=self._shared)
        self.mean_, self.directions_, self.damping_ = nuisance
        self.embeddings_, self.labels_ = support.embedding, support.labels
        self.ratio_, self.aligned_, self.coupling_, self.beta_i_, self.temperature_ = (
            support.key.new_tensor(value)
            for value in (setting.ratio, setting.aligned, setting.coupling, setting.beta_i, temperature)
        )
        self.coef_ = self._solve(self.keys_, support.embedding, support.labels, cache)

    def _solve(self, keys: Tensor, embeddings: Tensor, labels: Tensor, cache: TextCache) -> Tensor:
        """a (M, N), for damped keys (M, w), embeddings (M, d), labels (M,) and the text cache."""
        from_text, n_classes = cache(embeddings), len(cache.texts)
        if not self.ratio_ > 0:
            return torch.zeros_like(from_text)
        target = functional.one_hot(labels, n_classes).to(keys)
        residual = target - text_weights(self.ratio_, labels, n_classes) / self.ratio_ * from_text
        return self._solve_for(residual, keys, from_text, labels, mean_text(cache.texts))

    def _solve_for(self, residual: Tensor, keys: Tensor, from_text: Tensor, labels: Tensor, text: Tensor) -> Tensor:
        """The votes (M, N) that explain a residual (M, N), for the text cache's votes (M, N) and texts (N, d)."""
        ridge = ridge_of(self.lam, labels, len(text), keys.dtype, balanced=self.balanced)
        if self.eta:
            ridge = ridge / self._hard_sample_weights(keys, from_text, labels, ridge)
        groups = groups_of(text, self.coupling_.item())
        return solve_coupled(kernel(keys, self.beta_i_.item()), ridge, groups, residual[:, None])[:, 0]

    def _hard_sample_weights(self, keys: Tensor, from_text: Tensor, labels: Tensor, ridge: Tensor) -> Tensor:
        """w (M,) of mean one: larger where image and text cache give the true class different probabilities."""
        target = functional.one_hot(labels, from_text.shape[1]).to(keys)
        factor = factorise(kernel(keys, self.beta_i_.item()), ridge)
        unseen = target - solve(factor, target) / last_inverse(factor, len(keys)).diagonal()[:, None]
        p_image, p_text = ((self.temperature_ * votes).softmax(dim=1) for votes in (unseen, from_text))
        weights = 1 + self.eta * ((p_image - p_text) * target).sum(dim=1).abs()
        return weights / weights.mean()

    # -- the caches ---------------------------------------------------------------------------------------------------

    def _text_cache(self) -> TextCache:
        return TextCache(self.texts_, self.gain_, self.shift_, self.offset_)

    def _keys(self, embedding: Tensor, key: Tensor) -> Tensor:
        """Unit embedding (n, d) and key (n, f) -> cache keys (n, w)."""
        joined = join(embedding, key, self.aligned_, shared=self._shared)
        return Nuisance(self.mean_, self.directions_, self.damping_).remove(joined)

    def _affinities(self, embedding: Tensor, key: Tensor) -> Tensor:
        """A_I (n, M)."""
        return affinity(self._keys(embedding, key) @ self.keys_.T, self.beta_i_)

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        image = self._affinities(embedding, key) @ self.coef_
        text = text_weights(self.ratio_, self.labels_, len(self.texts_)) * self._text_cache()(embedding)
        return self.temperature_ * (self.ratio_ * image + text)

    def _cache(self, embedding: Tensor, key: Tensor) -> Cache:
        weights = self._affinities(embedding, key)
        votes = self.temperature_ * self.ratio_ * self._photo_votes()
        return Cache(
            weights @ votes,
            weights,
            self.labels_,
            lambda predicted: weights * votes[:, predicted].T,
            self.ratio_.expand(len(key)),
        )

    def _photo_votes(self) -> Tensor:
        """What each photo votes (M, N) by its label. a is that, less what makes up for the texts' votes (M, N).

        A photo makes up for a text that speaks against its class, so that a says nothing of why a class was chosen.
        Solved when first asked for.
        """
        solved_for, votes = getattr(self, "_votes_of", (None, None))
        if solved_for is not self.coef_ or votes is None:
            from_text = self._text_cache()(self.embeddings_)
            target = functional.one_hot(self.labels_, len(self.texts_)).to(self.keys_)
            votes = self._solve_for(target, self.keys_, from_text, self.labels_, mean_text(self.texts_))
            self._votes_of = (self.coef_, votes)
        return votes

    def _candidates(self) -> Iterator[Candidates]:
        choice, names = self._choice(), ("shrinkage", "aligned", "coupling")
        texts = choice.texts(self._support)
        for values in product(*(choice.options(name, self.grid[name]) for name in names)):
            setting = self._setting._replace(**dict(zip(names, values, strict=True)))
            settings = [setting._replace(ratio=g, beta_t=beta) for g, beta in choice.ratios_and_betas()]
            yield Candidates([one._asdict() for one in settings], choice.scorer(self._support, setting, texts))

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
        coef = self._solve(keys, embeddings, labels, cache)
        return {"keys_": keys, "embeddings_": embeddings, "labels_": labels, "texts_": cache.texts, "coef_": coef}
