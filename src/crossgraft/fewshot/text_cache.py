"""The text cache: class texts as keys, whose affinities to a photo have no unit of their own."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import pad


class TextCache(NamedTuple):
    """A_T (n, N) of unit embeddings (n, d): the mean over a class's texts of exp(gain * cosine + shift) - offset.

    `texts` (N, P, d) unit, rows of zeros where a class has fewer than P; `gain` (), `shift` (), `offset` ().
    """

    texts: Tensor
    gain: Tensor
    shift: Tensor
    offset: Tensor

    @classmethod
    def standardised(cls, texts: Tensor, embedding: Tensor, beta: float) -> Self:
        """The cache in which affinities exp(beta z) count from their mean, in units of what the best are above it.

        z is the cosine less its mean, over its standard deviation, over all pairs of a support photo, embedding (M, d),
        and a text. The best is the mean over photos of the largest affinity. Where all texts are alike, A_T is zero.
        """
        there = texts.any(dim=-1)  # (N, P)
        mean = embedding.mean(dim=0) @ texts.sum(dim=(0, 1)) / there.sum()
        squares, highest = embedding.new_zeros(()), mean
        for p in range(texts.shape[1]):
            z = torch.where(there[:, p], embedding @ texts[:, p].T - mean, 0)  # centred first: it may be far from zero
            squares, highest = squares + z.square().sum(), torch.maximum(highest, mean + z.max())
        deviation = (squares / (len(embedding) * there.sum())).sqrt()
        gain = torch.where(deviation > 1e-6, beta / deviation.clamp(min=1e-6), 0.0)
        # From the highest affinity, so that none overflows, however sharp.
        votes = cls(texts, gain, -gain * highest, torch.zeros_like(gain))(embedding)
        lead, level = (votes.amax(dim=1) - votes.mean(dim=1)).mean(), votes.mean()
        if not lead > 1e-5 * level:  # what float32 leaves of equal affinities
            return cls(texts, torch.zeros_like(gain), torch.zeros_like(gain), torch.ones_like(gain))
        return cls(texts, gain, -gain * highest - lead.log(), level / lead)

    def __call__(self, embedding: Tensor) -> Tensor:
        there = self.texts.any(dim=-1).to(embedding)  # (N, P)
        total = torch.zeros_like(embedding @ self.texts[:, 0].T)
        for p in range(self.texts.shape[1]):
            total = total + self._affinity(embedding, p) * there[:, p]
        return total / there.sum(dim=1).clamp(min=1) - self.offset

    def _affinity(self, embedding: Tensor, p: int) -> Tensor:
        """exp(gain * cosine + shift) (n, N) with every class's text p."""
        # A photo unlike the support may be far above it; the bound keeps its logits finite.
        return torch.exp((self.gain * (embedding @ self.texts[:, p].T) + self.shift).clamp(max=60))

    def with_class(self, texts: Tensor) -> Self:
        """The cache with one more class, of unit texts (P', d)."""
        width = max(self.texts.shape[1], len(texts))
        grown = [pad(each, (0, 0, 0, width - each.shape[1])) for each in (self.texts, texts[None])]
        return self._replace(texts=torch.cat(grown))
