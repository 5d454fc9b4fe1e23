"""What XMAdapter's support decides: the ratio of its caches and their other constants, from held-out support photos.

From two photos a class on, one of every class is held out at a time, and the constants are those that make the held-out
photos likeliest. With one photo a class nothing can be held out of it; two questions can still be put to the support.
How noisy are the photos' votes, seen from the other classes' photos? And what do the other photos tell about a photo
whose class has no other: little more than its texts, or, through what texts share, the most (`coupling`)?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.fewshot.cache import affinity, kernel, ridge_of
from crossgraft.fewshot.coupling import groups_of, left_out_coupled, solve_coupled
from crossgraft.fewshot.features import Support
from crossgraft.fewshot.holdout import one_of_every_class
from crossgraft.fewshot.nuisance import Nuisance, within_class
from crossgraft.fewshot.ridge import LEFT_OUT, factorise, leave_one_out, solve
from crossgraft.fewshot.text_cache import TextCache

RATIOS = (1.0, 0.97, 0.94, 0.91, 0.87, 0.83, 0.77, 0.69, 0.6, 0.5)
SHRINKAGES = (5.0, 1.0)
ALIGNED = (0.0, 0.05, 0.15)
BETAS_T = (0.05, 0.25, 0.5)  # 0.05 is as good as linear
COUPLINGS = (0.0, 0.9, 0.98)
TEMPERATURES = tuple(2 ** (i / 2) for i in range(2, 13))  # 2 to 64

COUPLED = 2048  # samples beyond which classes have photos enough of their own


class Setting(NamedTuple):
    """What the support decides beside the temperature; the values are those for one photo a class.

    They, and the lists of values to choose from, were found on training and validation photos (docs/xmadapter.md).
    """

    ratio: float = 1.0
    shrinkage: float = 5.0
    aligned: float = 0.05
    beta_t: float = 0.1
    coupling: float = 0.0
    beta_i: float = 1.0


# With one photo a class: what the text cache counts beside the image cache, in units of the noise of the photos' votes,
# if a photo's own text is as far ahead as a typical best one; the least such noise; the temperature. If classes are
# coupled: the part of it that the text cache still counts, since the texts are at work in the coupling too; and the
# image affinity.
ONE_SHOT_TEXT, LEAST_NOISE, ONE_SHOT_TEMPERATURE = 8.0, 0.01, 24.0
COUPLED_TEXT, COUPLED_BETA_I = 0.25, 0.25


class Found(NamedTuple):
    """A setting and a temperature, and the cross-entropy of held-out photos under them."""

    loss: float
    setting: Setting
    temperature: float


class Texts(NamedTuple):
    """The text caches of a support, one for each beta_t to choose from, and what each says of its photos (M, N)."""

    caches: list[TextCache]
    own: list[Tensor]

    def __call__(self, embedding: Tensor) -> list[Tensor]:
        """What each says of queries (n, d): (n, N)."""
        return [cache(embedding) for cache in self.caches]


class Fold(NamedTuple):
    """A part of the support, held-out photos, the part's text caches and what each of them says of these (n, N)."""

    rest: Support
    held_out: Support
    texts: Texts
    told: list[Tensor]


@dataclass(frozen=True)
class SupportChoice:
    """The choice, for the constants that are given as numbers.

    Attributes:
        given: these, by their names in `Setting`.
        lam, balanced: XMAdapter's ridge.
        has_text: whether there is a text cache.
        shared: whether the embedding is its own key.
    """

    given: Mapping[str, float]
    lam: float
    balanced: bool
    has_text: bool
    shared: bool

    def choose(self, support: Support) -> tuple[Setting, float]:
        """The setting and temperature under which held-out support photos have the least cross-entropy."""
        setting = Setting(**self.given)
        if not self.has_text:
            setting = setting._replace(ratio=1.0)
        parts = one_of_every_class(support)
        if not parts:
            return self._one_shot(support, setting) if self.has_text else setting, ONE_SHOT_TEMPERATURE
        folds = []
        for rest, held_out in parts:
            texts = self.texts(rest)
            folds.append(Fold(rest, held_out, texts, texts(held_out.embedding)))
        # Each in turn: they hardly depend on each other, and every pair of values costs a factorisation a fold.
        found = self._best(
            folds, [setting._replace(shrinkage=value) for value in self.options("shrinkage", SHRINKAGES)]
        )
        shares = () if self.shared else ALIGNED
        couplings = COUPLINGS if self.has_text and len(support.labels) <= COUPLED else ()
        for name, values in (("aligned", shares), ("coupling", couplings)):
            others = [value for value in self.options(name, values) if value != getattr(setting, name)]
            if others:
                found = min(found, self._best(folds, [found.setting._replace(**{name: value}) for value in others]))
        return found.setting, found.temperature

    def options(self, name: str, learned: tuple[float, ...]) -> tuple[float, ...]:
        """The values of a constant to choose from: one, if it is given."""
        return (self.given[name],) if name in self.given else learned

    def _betas(self) -> tuple[float, ...]:
        return self.options("beta_t", BETAS_T if self.has_text else BETAS_T[:1])

    def ratios_and_betas(self) -> list[tuple[float, float]]:
        """All (g, beta_t) to choose from."""
        return list(product(self.options("ratio", RATIOS) if self.has_text else (1.0,), self._betas()))

    def texts(self, support: Support) -> Texts:
        """For `scorer`; they depend on nothing else that is chosen."""
        caches = [TextCache.standardised(support.texts, support.embedding, beta) for beta in self._betas()]
        return Texts(caches, [cache(support.embedding) for cache in caches])

    def scorer(self, rest: Support, setting: Setting, texts: Texts) -> Callable[..., Iterator[Tensor]]:
        """A support solved once -> a function that scores queries for each of `ratios_and_betas`.

        It takes embedding (n, d), key (n, f), and what the texts say of them if that is known, and yields scores
        (n, N). Hard-sample weights, which would need a factor each, are left out.
        """
        n = rest.n_classes
        nuisance, keys = support_keys(rest, setting, shared=self.shared)
        targets = [functional.one_hot(rest.labels, n).to(keys), *texts.own]
        groups, ridge = groups_of(rest.text, setting.coupling), self._ridge(rest)
        votes = solve_coupled(kernel(keys, setting.beta_i), ridge, groups, torch.stack(targets, dim=1)).flatten(1)

        def scores(embedding: Tensor, key: Tensor, told: list[Tensor] | None = None) -> Iterator[Tensor]:
            told = texts(embedding) if told is None else told
            queries = nuisance.remove(join(embedding, key, setting.aligned, shared=self.shared))
            image, *explained = (affinity(queries @ keys.T, setting.beta_i) @ votes).split(n, dim=1)
            unexplained = dict(zip(self._betas(), zip(told, explained, strict=True), strict=True))
            for g, beta in self.ratios_and_betas():
                text, known = unexplained[beta]
                weights = text_weights(torch.as_tensor(g).to(keys), rest.labels, n)
                yield g * image + weights * (text - known) if g else text

        return scores

    def _best(self, folds: Sequence[Fold], settings: Sequence[Setting]) -> Found:
        """The least cross-entropy over these settings and all ratios, beta_t and temperatures, and where it is."""
        labels = torch.cat([fold.held_out.labels for fold in folds])
        # Platt's targets: few photos, all named right, would otherwise ask for the highest temperature.
        smoothing = 1 / (len(labels) + 2)
        best = Found(math.inf, settings[0], ONE_SHOT_TEMPERATURE)
        for setting in settings:
            scores = [
                self.scorer(rest, setting, texts)(out.embedding, out.key, told) for rest, out, texts, told in folds
            ]
            for (ratio, beta_t), parts in zip(self.ratios_and_betas(), zip(*scores, strict=True), strict=True):
                held_out_scores = torch.cat(parts)
                for t in TEMPERATURES:
                    loss = functional.cross_entropy(t * held_out_scores, labels, label_smoothing=smoothing).item()
                    if loss < best.loss:
                        best = Found(loss, setting._replace(ratio=ratio, beta_t=beta_t), t)
        return best

    def _one_shot(self, support: Support, setting: Setting) -> Setting:
        """g, and whether classes are coupled, for one photo a class."""
        from_text = TextCache.standardised(support.texts, support.embedding, setting.beta_t)(support.embedding)
        own = functional.one_hot(support.labels, support.n_classes) == 1
        lead = max(0.0, (from_text[own].mean() - from_text[~own].mean()).item())
        _, keys = support_keys(support, setting, shared=self.shared)
        counts = ONE_SHOT_TEXT * lead * self._noise(support, setting, keys)
        alone = setting._replace(**{"ratio": 1 / (1 + counts), **self.given})
        coupled = alone._replace(ratio=1 / (1 + counts * COUPLED_TEXT), coupling=COUPLINGS[-1], beta_i=COUPLED_BETA_I)
        coupled = coupled._replace(**self.given)
        if "coupling" in self.given or len(support.labels) > COUPLED or not alone.ratio:
            return coupled if self.given.get("coupling") else alone
        known = self._known_of_a_lost_class(support, alone._replace(coupling=coupled.coupling), keys, from_text)
        without = self._known_of_a_lost_class(support, alone, keys, from_text)
        return coupled if known - without > known / 3 else alone

    def _noise(self, support: Support, setting: Setting, keys: Tensor) -> float:
        """The standard deviation of the image cache's votes for classes that a photo is not of, without that photo."""
        target = functional.one_hot(support.labels, support.n_classes).to(keys)
        factor = factorise(kernel(keys, setting.beta_i), self._ridge(support))
        told = target[-LEFT_OUT:]
        votes = told - leave_one_out(factor, solve(factor, target), len(told))
        return max(LEAST_NOISE, votes[told == 0].std(correction=0).item())

    def _known_of_a_lost_class(self, support: Support, setting: Setting, keys: Tensor, from_text: Tensor) -> float:
        """What the texts and the other photos say about a photo whose class has no other, in nats; 0 is chance."""
        target = functional.one_hot(support.labels, support.n_classes).to(keys)
        counted = text_weights(keys.new_tensor(setting.ratio), support.labels, support.n_classes) / setting.ratio
        residual = (target - counted * from_text)[:, None]
        groups, ridge = groups_of(support.text, setting.coupling), self._ridge(support)
        scores = target - left_out_coupled(kernel(keys, setting.beta_i), ridge, groups, residual)
        losses = [functional.cross_entropy(t * scores, support.labels).item() for t in TEMPERATURES]
        return max(0.0, math.log(support.n_classes) - min(losses))

    def _ridge(self, support: Support) -> Tensor:
        return ridge_of(self.lam, support.labels, support.n_classes, support.key.dtype, balanced=self.balanced)


def join(embedding: Tensor, key: Tensor, aligned: float | Tensor, *, shared: bool) -> Tensor:
    """Unit embedding (n, d) and key (n, f) -> unit (n, w), w = f + d; `aligned` is the embedding's share.

    If the embedding is its own key (`shared`), that is all.
    """
    if shared:
        return key
    return torch.cat([(1 - aligned) ** 0.5 * key, aligned**0.5 * embedding], dim=1)


def support_keys(support: Support, setting: Setting, *, shared: bool) -> tuple[Nuisance, Tensor]:
    """The nuisance of a support, and its cache keys (M, w), in which it is damped."""
    joined = join(support.embedding, support.key, setting.aligned, shared=shared)
    nuisance = within_class(joined, support.labels, support.n_classes, setting.shrinkage)
    return nuisance, nuisance.remove(joined)


def text_weights(ratio: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """What the text cache's votes count (N,) beside an image cache of samples with labels (M,).

    1 - g; for a class without a sample the larger of g and 1 - g, since its text is all it has, and the image cache,
    which aims at one, gives the others' true class about g.
    """
    seen = torch.bincount(labels, minlength=n_classes) > 0
    return torch.where(seen, 1 - ratio, torch.maximum(ratio, 1 - ratio))
