"""XMAdapter as published: an image cache and a text cache vote together, and are trained. A reconstruction.

"Cross-Modal Adapter: Parameter-Efficient Transfer Learning Approach for Vision-Language Models" (XMAdapter),
arXiv 2404.12588. No code was released, and the paper's body was not at hand. Below, [C] is confirmed by its abstract or
by reviews of it, [I] is inherited from the released code that it builds on (Tip-Adapter-F, CoCoOp), and [R] is this
project's reconstruction.

1. Image cache [C]: keys K_I (M, f), the unit support keys; values V, their one-hot labels.
2. Text cache [C] by a MetaNet and an Img2TxtNet [C], here two bottleneck MLPs with a zero-initialised last layer [R]:
   keys K_T,i = unit(W[y_i] + meta(f_i)), queries q = unit(f + img2txt(f)).
3. Affinities [I]: A_I = exp(-beta_i (1 - key K_I^T)), A_T = exp(-beta_t (1 - z)), where z is q K_T^T moved to the mean
   and spread that image-image cosines have on the support, since image-text cosines lie in another range [R].
4. Fusion by a dynamically adjusted affinity ratio [C]: A = g A_I + (1 - g) A_T, with one learned g = sigmoid(a), a_0 =
   0, or one per query from the entropies of the two votes, g = H_T / (H_I + H_T) [R].
5. Logits [I]: s f W^T + alpha A V.
6. Hard samples: the difference of the cross-modal affinities sets the learning intensity [C]: with p the row-normalised
   votes, delta_i = |p_I[i, y_i] - p_T[i, y_i]|, w_i = (1 + eta delta_i) / mean, loss = mean(w_i CE_i) [R].
7. Trained: K_I, both MLPs, a; AdamW and cosine [I], the final epoch is the model.
8. A training sample does not see its own entry in the caches [R]: it would match itself with cosine 1.
9. Without step 7 it is training-free.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.errors import InputError
from crossgraft.fewshot.base import Candidates
from crossgraft.fewshot.cache import affinity, entropy_ratio, shares, vote_weights, votes
from crossgraft.fewshot.evidence import Cache, ExplainableClassifier, own_class_only
from crossgraft.fewshot.features import Support, blocks, unit
from crossgraft.fewshot.registry import register
from crossgraft.fewshot.trained_cache import TrainedCache
from crossgraft.fewshot.training import seeded, train
from crossgraft.fewshot.zero_shot import zero_shot_logits


class Bottleneck(NamedTuple):
    """x (n, d) -> up relu(down x) (n, d), with width h = max(1, d // reduction)."""

    down: Tensor  # (h, d)
    down_bias: Tensor  # (h,)
    up: Tensor  # (d, h)
    up_bias: Tensor  # (d,)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.relu(x @ self.down.T + self.down_bias) @ self.up.T + self.up_bias


def init_bottleneck(d: int, reduction: int, generator: torch.Generator, like: Tensor) -> Bottleneck:
    """A bottleneck that returns zero: uniform down-projection (as `torch.nn.Linear`), zero up-projection."""
    h, bound = max(1, d // reduction), 1 / math.sqrt(d)
    down, down_bias = (
        torch.empty(shape, dtype=torch.float64).uniform_(-bound, bound, generator=generator).to(like)
        for shape in ((h, d), (h,))
    )
    return Bottleneck(down, down_bias, like.new_zeros(d, h), like.new_zeros(d))


@torch.no_grad()
def hard_sample_weights(image_votes: Tensor, text_votes: Tensor, labels: Tensor, eta: float) -> Tensor:
    """w_i = (1 + eta delta_i) / mean for votes (n, N) and labels (n,) -> (n,), of mean one."""
    true = labels[:, None]
    delta = (shares(image_votes).gather(1, true) - shares(text_votes).gather(1, true)).abs().squeeze(1)
    weights = 1 + eta * delta
    return weights / weights.mean()


@torch.no_grad()
def standardisation(image_keys: Tensor, text_queries: Tensor, text_keys: Tensor) -> tuple[Tensor, Tensor]:
    """Gain () and shift () that give image-text cosines the mean and spread of image-image cosines.

    Over all pairs of two different support samples: image_keys (M, f), text_queries (M, d), text_keys (M, d).
    """
    m = len(image_keys)
    moments = torch.zeros(4, dtype=torch.float64)  # on the CPU: not every device has float64
    for cut in blocks(m, m):
        own = torch.arange(cut.start, cut.stop, device=image_keys.device)
        image, text = image_keys[cut] @ image_keys.T, text_queries[cut] @ text_keys.T
        for similarity in (image, text):
            similarity[own - cut.start, own] = 0
        sums = (image.sum(), image.square().sum(), text.sum(), text.square().sum())
        moments += torch.stack(sums).cpu()
    image_mean, image_square, text_mean, text_square = moments / max(m * (m - 1), 1)
    image_std = (image_square - image_mean.square()).clamp(min=0).sqrt()
    text_std = (text_square - text_mean.square()).clamp(min=0).sqrt()
    gain = image_std / text_std if text_std > 1e-6 and image_std > 1e-6 else torch.ones_like(text_std)
    return gain.to(image_keys), (image_mean - gain * text_mean).to(image_keys)


@register("xmadapter-paper")
class XMAdapterPaper(TrainedCache, ExplainableClassifier):
    """Logits s f W^T + alpha (g A_I + (1 - g) A_T) V; see the module for every step and what of it is reconstructed.

    With ratio 1, eta 0 and no mask it is Tip-Adapter-F.

    Parameters:
        alpha: weight of the caches' votes. beta_i, beta_t: sharpness of the image and the text affinity.
        ratio: "learned", "entropy" (per query), or a fixed g from 0 (text cache) to 1 (image cache).
        eta: strength of the hard-sample weights. mask: hide a training sample from itself.
        train: False gives the training-free form, in which "learned" stays at 1/2.
        reduction: d over the width of the bottlenecks.
        balanced: as in TipAdapter. epochs, lr, batch_size, random_state: see `training.train`.

    Attributes (after `fit`): `keys_` (M, f), `text_keys_` (M, d), `labels_` (M,), `weights_` (M,), `gain_`, `shift_`,
        `ratio_logit_` (), and img2txt's `down_` (h, d), `down_bias_` (h,), `up_` (d, h), `up_bias_` (d,).
        `n_parameters_` = M f + 2 (2 d h + h + d) + 1 with h = max(1, d // reduction), about M f + d^2 / 4 at reduction
        16; the 1 is a, only where ratio is "learned". 0 if training-free.
    """

    paper = (
        "Cross-Modal Adapter: Parameter-Efficient Transfer Learning Approach for Vision-Language Models (XMAdapter), "
        "arXiv 2404.12588; a reconstruction"
    )
    grid: ClassVar[dict[str, tuple[float, ...]]] = {
        "alpha": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
        "beta_i": (1.0, 2.0, 3.0, 5.5, 10.0, 20.0),
        "beta_t": (1.0, 2.0, 3.0, 5.5, 10.0, 20.0),
        "ratio": (0.0, 0.25, 0.5, 0.75, 1.0),  # searched only where `ratio` is a number
    }
    state: ClassVar[dict[str, tuple[str, ...]]] = {
        "keys_": ("M", "f"),
        "text_keys_": ("M", "d"),
        "labels_": ("M",),
        "weights_": ("M",),
        "gain_": (),
        "shift_": (),
        "ratio_logit_": (),
        "down_": ("h", "d"),
        "down_bias_": ("h",),
        "up_": ("d", "h"),
        "up_bias_": ("d",),
    }

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        alpha: float = 1.0,
        beta_i: float = 5.5,
        beta_t: float = 5.5,
        ratio: str | float = "learned",
        eta: float = 1.0,
        mask: bool = True,
        train: bool = True,
        reduction: int = 16,
        balanced: bool = True,
        epochs: int = 20,
        lr: float = 1e-3,
        batch_size: int = 256,
        random_state: int | np.random.RandomState | None = 0,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(text, classes, logit_scale, device)
        self.alpha = alpha
        self.beta_i = beta_i
        self.beta_t = beta_t
        self.ratio = ratio
        self.eta = eta
        self.mask = mask
        self.train = train
        self.reduction = reduction
        self.balanced = balanced
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.random_state = random_state

    def check_params(self) -> None:
        super().check_params()
        named = self.ratio in ("learned", "entropy")
        if not named and not (isinstance(self.ratio, int | float) and 0 <= self.ratio <= 1):
            raise InputError(f"ratio={self.ratio!r}; expected 'learned', 'entropy' or a number from 0 to 1")

    def _build(self, support: Support) -> tuple[Bottleneck, torch.Generator]:
        """Both caches before training -> the MetaNet and the source of batches that training goes on with."""
        key, labels, d = support.key, support.labels, support.text.shape[1]
        self.keys_, self.labels_ = key, labels
        self.weights_ = vote_weights(labels, support.n_classes, balanced=self.balanced, dtype=key.dtype)
        # The nets draw from their own stream, so that the batches are those of Tip-Adapter-F.
        stream = seeded(self.random_state)
        batches = torch.Generator().manual_seed(stream.initial_seed())
        meta = init_bottleneck(d, self.reduction, stream, key)
        self._set_img2txt(init_bottleneck(d, self.reduction, stream, key))
        self.text_keys_ = unit(support.text[labels] + meta(support.embedding))
        self.gain_, self.shift_ = standardisation(key, self._text_query(support.embedding), self.text_keys_)
        self.ratio_logit_ = key.new_zeros(())
        return meta, batches

    def _train(self, support: Support, built: tuple[Bottleneck, torch.Generator]) -> int:
        if not self.train:
            return 0
        meta, batches = built
        self.keys_ = support.key.clone()
        parameters = [self.keys_, *meta, *self._img2txt()]
        if self.ratio == "learned":
            parameters.append(self.ratio_logit_)
        for parameter in parameters:
            parameter.requires_grad_()
        own_text = support.text[support.labels]

        def loss(batch: Tensor) -> Tensor:
            embedding, key, labels = support.embedding[batch], support.key[batch], support.labels[batch]
            self.text_keys_ = unit(own_text + meta(support.embedding))
            image, text = self._affinities(embedding, key)
            if self.mask:
                image, text = (each.scatter(1, batch[:, None], 0.0) for each in (image, text))
            image_votes, text_votes = self._votes(image), self._votes(text)
            each = functional.cross_entropy(self._fuse(embedding, image_votes, text_votes), labels, reduction="none")
            return (hard_sample_weights(image_votes, text_votes, labels, self.eta) * each).mean()

        train(
            parameters,
            loss,
            len(support.labels),
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            generator=batches,
        )
        for parameter in parameters:
            parameter.requires_grad_(False)
        self.text_keys_ = unit(own_text + meta(support.embedding))
        return sum(parameter.numel() for parameter in parameters)

    def _img2txt(self) -> Bottleneck:
        return Bottleneck(self.down_, self.down_bias_, self.up_, self.up_bias_)

    def _set_img2txt(self, net: Bottleneck) -> None:
        self.down_, self.down_bias_, self.up_, self.up_bias_ = net

    def _text_query(self, embedding: Tensor) -> Tensor:
        return unit(embedding + self._img2txt()(embedding))

    def _similarities(self, embedding: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines (n, M) with the image keys, and those with the text keys in the image cosines' range."""
        return key @ self.keys_.T, self.shift_ + self.gain_ * (self._text_query(embedding) @ self.text_keys_.T)

    def _affinities(self, embedding: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """A_I and A_T, each (n, M)."""
        image, text = self._similarities(embedding, key)
        return affinity(image, self.beta_i), affinity(text, self.beta_t)

    def _votes(self, affinities: Tensor) -> Tensor:
        """A V of the affinities A (n, M) -> (n, N)."""
        return votes(affinities, self.weights_, self.labels_, len(self.text_))

    def _gate(self, image_votes: Tensor, text_votes: Tensor) -> Tensor | float:
        """g: () or (n, 1) or a number."""
        if self.ratio == "learned":
            return torch.sigmoid(self.ratio_logit_)
        return entropy_ratio(image_votes, text_votes) if self.ratio == "entropy" else float(self.ratio)

    def _fuse(self, embedding: Tensor, image_votes: Tensor, text_votes: Tensor) -> Tensor:
        g = self._gate(image_votes, text_votes)
        cache = g * image_votes + (1 - g) * text_votes
        return zero_shot_logits(embedding, self.text_, self.logit_scale) + self.alpha * cache

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        image, text = self._affinities(embedding, key)
        return self._fuse(embedding, self._votes(image), self._votes(text))

    def _cache(self, embedding: Tensor, key: Tensor) -> Cache:
        image, text = self._affinities(embedding, key)
        image_votes, text_votes = self._votes(image), self._votes(text)
        g = torch.as_tensor(self._gate(image_votes, text_votes)).to(key).expand(len(key), 1)
        weights = g * image + (1 - g) * text
        own = own_class_only(self.alpha * weights * self.weights_, self.labels_)
        return Cache(self.alpha * g * image_votes, weights, self.labels_, own, g[:, 0])

    def _candidates(self) -> Iterator[Candidates]:
        grid, fixed = self.grid, not isinstance(self.ratio, str)
        names = ("beta_i", "beta_t", "ratio", "alpha") if fixed else ("beta_i", "beta_t", "alpha")
        params = [dict(zip(names, values, strict=True)) for values in product(*(grid[name] for name in names))]

        def score(embedding: Tensor, key: Tensor) -> Iterator[Tensor]:
            text_logits = zero_shot_logits(embedding, self.text_, self.logit_scale)
            image, text = self._similarities(embedding, key)
            image_all = [self._votes(affinity(image, beta)) for beta in grid["beta_i"]]
            text_all = [self._votes(affinity(text, beta)) for beta in grid["beta_t"]]
            for image_votes in image_all:
                for text_votes in text_all:
                    gates = grid["ratio"] if fixed else (self._gate(image_votes, text_votes),)
                    for g in gates:
                        cache = g * image_votes + (1 - g) * text_votes
                        for alpha in grid["alpha"]:
                            yield text_logits + alpha * cache

        yield Candidates(params, score)
