"""Probabilities that can be trusted, and when to say nothing: both from the support alone.

1. Out-of-fold logits. The support is cut into folds that hold the same part of every class; each in turn is left out,
   and a classifier of the rest scores it. Leaving out single samples instead would weaken their own class only, which
   at few shots makes every class look worse than it is.
2. One temperature t, by cross-entropy of t * logits (Guo et al., "On Calibration of Modern Neural Networks", ICML
   2017), towards Platt's targets, which keep it finite where every sample is right (Platt, "Probabilistic Outputs for
   Support Vector Machines", 1999).
3. A fold's classifier learns from fewer samples than the final one, and with their number the spread of some methods'
   logits changes (GDA, linear probe). The spread over the classes that a photo does not show can be had at the full
   number: samples of a few classes are left out, and the logits of all other classes are compared with those that the
   fold's classifier gave the same samples. t is multiplied by the ratio.
4. A threshold. Out-of-fold probabilities, surest first, are cut at fixed coverages. From the top fifth on, cuts are
   accepted while the lower bound of their accuracy (Clopper and Pearson) reaches the target; the first that fails ends
   it. The order of the tests is fixed beforehand, so their number needs no correction (fixed-sequence testing, as in
   Angelopoulos et al., "Learn then Test", 2021). The bound takes out-of-fold samples for independent, and photos to
   come for ones like them: equally many of each class, and none of an unknown class.

With one sample a class nothing can be left out. There t brings the spread of step 3 to `ONE_SHOT_SPREAD`, and there is
no threshold.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.stats import beta
from torch import Tensor

from crossgraft.errors import InputError
from crossgraft.fewshot.features import Support, class_means, unit
from crossgraft.fewshot.threads import threads_for

if TYPE_CHECKING:
    from crossgraft.fewshot.base import FewShotClassifier

FOLDS = 5
TRAINED_FOLDS = 2
"""How many of the `FOLDS` folds a method that trains is fitted for: training takes too long for all of them."""

CONFIDENCE = 0.9
"""How sure it is that what lies above a threshold is as accurate as asked."""

COVERAGES = tuple(i / 20 for i in range(4, 21))

ONE_SHOT_SPREAD = 1.8
"""Standard deviation over the wrong classes to which logits are brought at one shot. Of values from 1.3 to 2.1, those
around this one had the lowest calibration error on the validation photos of Caltech-101, over 5, 10, 30 and 100 of its
classes, five methods and two encoders."""

# The spread is measured with a quarter of the classes left out at a time, until so many or all have been.
_QUARTER, _ENOUGH = 4, 10
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 1e-5, 1e5
_HALVINGS = 20  # from 10 decades down to a factor of 1.00002


class Cut(NamedTuple):
    """The `kept` surest out-of-fold predictions: `correct` of them are right; `confidence` is the lowest of them."""

    kept: int
    correct: int
    confidence: float

    @property
    def bound(self) -> float:
        """The accuracy (0 to 1) that they show with `CONFIDENCE`: the lower bound of Clopper and Pearson (1934)."""
        wrong = self.kept - self.correct
        return float(beta.ppf(1 - CONFIDENCE, self.correct, wrong + 1)) if self.correct else 0.0

    @property
    def ceiling(self) -> float:
        """The bound that so many would have if all were right."""
        return float((1 - CONFIDENCE) ** (1 / self.kept))


@dataclass(frozen=True)
class Calibration:
    """What `FewShotClassifier.calibrate` found.

    Attributes:
        temperature: what logits are multiplied by before the softmax.
        samples: number of out-of-fold predictions; 0 where there are none, and so no threshold.
        cuts: those predictions at growing coverage.
    """

    temperature: float
    samples: int = 0
    cuts: tuple[Cut, ...] = ()

    def threshold(self, accuracy: float) -> float:
        """The probability from which on predictions are, with `CONFIDENCE`, at least so accurate (0 to 1).

        Raises:
            InputError: accuracy is not between 0 and 1, or the support cannot show it.
        """
        if not 0 < accuracy < 1:
            raise InputError(f"accuracy {accuracy} asked for; expected a number between 0 and 1, such as 0.95")
        if not self.cuts:
            raise InputError(
                "this classifier has no reject threshold: there was one photo a class, or a class was added or removed "
                "since; fit it again, with two photos a class or more"
            )
        found = None
        for cut in self.cuts:
            if cut.ceiling < accuracy:  # too few to show it even if all were right: not a test that it failed
                continue
            if cut.bound < accuracy:
                break
            found = cut.confidence
        if found is None:
            raise InputError(
                f"{self.samples} out-of-fold predictions cannot show an accuracy of {accuracy:.1%} above any "
                f"threshold; the most they show is {math.floor(1000 * self.attainable) / 10}%; ask for less, or fit "
                "with more photos"
            )
        return found

    @property
    def attainable(self) -> float:
        """The highest accuracy (0 to 1) for which there is a threshold."""
        best, before = 0.0, 0.0
        for cut in self.cuts:  # the first test of accuracies above `before`
            best = max(best, cut.bound) if cut.bound > before else best
            before = cut.ceiling
        return best

    def edited(self) -> Calibration:
        """That of the classifier with a class more or less: its logits keep their scale, its accuracy is not known."""
        return replace(self, samples=0, cuts=())

    def to_json(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "samples": self.samples, "cuts": [list(cut) for cut in self.cuts]}

    @classmethod
    def from_json(cls, value: Any) -> Calibration:
        """Read what `to_json` gives. Raises InputError for anything else."""
        if not isinstance(value, dict) or value.keys() != {"temperature", "samples", "cuts"}:
            raise InputError("expected temperature, samples and cuts")
        temperature, samples, cuts = value["temperature"], value["samples"], value["cuts"]
        if type(temperature) is not float or not 0 < temperature < math.inf:
            raise InputError(f"temperature: expected a number above 0, found {temperature!r:.40}")
        if type(samples) is not int or samples < 0 or not isinstance(cuts, list):
            raise InputError("samples: expected a whole number; cuts: a list")
        before = (0, 0, 1.0)
        for cut in cuts:
            if not isinstance(cut, list) or [type(part) for part in cut] != [int, int, float]:
                raise InputError("cuts: expected lists of kept, correct, confidence")
            kept, correct, confidence = cut
            if not (before[0] < kept <= samples and before[1] <= correct <= kept and 0 <= confidence <= before[2]):
                raise InputError("cuts: expected more kept, and less confidence, from one to the next")
            before = (kept, correct, confidence)
        return cls(temperature, samples, tuple(Cut(*cut) for cut in cuts))


def calibrate(classifier: FewShotClassifier, support: Support) -> Calibration:
    """Calibrate a classifier on the support that it was fitted on, by the steps of the module."""
    with torch.no_grad(), threads_for(support.key):
        if not classifier.state and classifier.text is not None:  # it has learned nothing from any sample
            scored, logits, scale = torch.arange(len(support.labels)), _score(classifier, support, slice(None)), 1.0
        else:
            fold = _folds(support)
            if fold is None:
                spread = _spreads(classifier, support, None)
                return Calibration(ONE_SHOT_SPREAD / spread if spread else 1.0)
            scored, logits = _out_of_fold(classifier, support, fold)
            everywhere = logits.new_full((len(fold), logits.shape[1]), math.nan)
            everywhere[scored] = logits
            scale = _spreads(classifier, support, (fold, everywhere)) or 1.0
    labels = support.labels.cpu()[scored]
    t = fit_temperature(logits, labels, support.counts.cpu() > 0)
    confidence, predicted = (t * logits).softmax(dim=1).max(dim=1)
    cuts = cut_by_coverage((predicted == labels).numpy(), confidence.numpy())
    return Calibration(t * scale, len(labels), cuts)


def fit_temperature(logits: Tensor, labels: Tensor, seen: Tensor) -> float:
    """The t from 1e-5 to 1e5 of lowest cross-entropy of t * logits (n, N), float64, towards Platt's targets.

    A sample's own class (n,) has the target (n + 1) / (n + 2), and the other classes of which there are samples, seen
    (N,) bool, share the rest. The loss is convex in t, so that its slope is bisected.
    """
    n, others = len(labels), max(int(seen.sum()) - 1, 1)
    z = logits - logits.amax(dim=1, keepdim=True)
    own = z.gather(1, labels[:, None])[:, 0]
    wanted = ((n + 1) * own + (z[:, seen].sum(dim=1) - own) / others) / (n + 2)
    low, high = math.log(_MIN_TEMPERATURE), math.log(_MAX_TEMPERATURE)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        slope = ((math.exp(middle) * z).softmax(dim=1) * z).sum(dim=1) - wanted
        low, high = (middle, high) if slope.mean() < 0 else (low, middle)
    return math.exp((low + high) / 2)


def cut_by_coverage(hits: np.ndarray, confidence: np.ndarray) -> tuple[Cut, ...]:
    """The surest of n predictions, hits (n,) bool and confidence (n,), at each of `COVERAGES`; ties stay together."""
    order = np.argsort(-confidence, kind="stable")
    hits, confidence = hits[order].cumsum(), confidence[order]
    cuts = {}
    for coverage in COVERAGES:
        lowest = confidence[max(math.ceil(coverage * len(hits)), 1) - 1]
        kept = int((confidence >= lowest).sum())
        cuts[kept] = Cut(kept, int(hits[kept - 1]), float(min(lowest, 1.0)))
    return tuple(cuts.values())


def _folds(support: Support) -> Tensor | None:
    """The fold (M,) of each sample, -1 for a class's only one; None if most classes have one only."""
    seen, labels = int((support.counts > 0).sum()), support.labels.cpu().numpy()
    counts = support.counts.cpu().numpy()
    if 2 * (counts > 1).sum() < seen:
        return None
    order = np.argsort(labels, kind="stable")
    rank = np.empty_like(labels)
    rank[order] = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels[order]]
    fold = rank % min(FOLDS, counts.max())
    return torch.from_numpy(np.where(counts[labels] > 1, fold, -1))


def _used_folds(classifier: FewShotClassifier, fold: Tensor) -> int:
    folds = int(fold.max()) + 1
    return min(folds, TRAINED_FOLDS) if classifier.n_parameters_ else folds


def _out_of_fold(classifier: FewShotClassifier, support: Support, fold: Tensor) -> tuple[Tensor, Tensor]:
    """Which samples (n,) are scored by a classifier that has not learned from them, and its logits (n, N)."""
    scored, logits = [], []
    for number in range(_used_folds(classifier, fold)):
        left_out = fold == number
        scored.append(torch.nonzero(left_out)[:, 0])
        logits.append(_score(_without(classifier, support, left_out), support, left_out))
    return torch.cat(scored), torch.cat(logits)


def _spreads(classifier: FewShotClassifier, support: Support, folds: tuple[Tensor, Tensor] | None) -> float:
    """Step 3: the spread of logits in the folds over that at the full number of samples; 0 where it has no meaning.

    `folds` are the fold of each sample (M,) and the out-of-fold logits (M, N). Without, the latter spread alone.
    """
    labels, seen = support.labels.cpu(), support.counts.cpu() > 0
    in_fold, full = 0.0, 0.0
    for number, group in enumerate(_groups(support, least=1 if folds is None else 2)):
        left_out = torch.isin(labels, group)
        others = seen.clone()
        others[group] = False
        if others.sum() < 2:
            return 0.0
        if folds is not None:
            fold, logits = folds
            left_out &= fold == number % support.counts.cpu()[labels].clamp(1, _used_folds(classifier, fold))
            in_fold += logits[left_out][:, others].var(dim=1).mean().item()
        full += _score(_without(classifier, support, left_out), support, left_out)[:, others].var(dim=1).mean().item()
        if classifier.n_parameters_ and number + 1 == TRAINED_FOLDS:
            break
    if not full:
        return 0.0
    return math.sqrt(full / (number + 1)) if folds is None else math.sqrt(in_fold / full)


def _groups(support: Support, least: int) -> Sequence[Tensor]:
    """Quarters of the classes with `least` samples or more: so many that they hold ten classes, or all."""
    classes = torch.nonzero(support.counts.cpu() >= least)[:, 0]
    number = min(_QUARTER, len(classes))
    groups = [classes[start::number] for start in range(number)]
    return groups[: -(-_ENOUGH // len(groups[0]))]


def _without(classifier: FewShotClassifier, support: Support, left_out: Tensor) -> FewShotClassifier:
    """The classifier, learned again without the samples left_out (M,) bool."""
    kept = ~left_out.to(support.labels.device)
    embedding, labels = support.embedding[kept], support.labels[kept]
    text, texts = support.text, support.texts
    if classifier.text is None:  # the class means stand in for texts
        text = unit(class_means(embedding, labels, support.n_classes))
        texts = text[:, None]
    twin = copy.copy(classifier)
    twin._learn(Support(embedding, support.key[kept], labels, text, texts))
    if "temperature_" in classifier.state:  # a factor of all logits, which is better found from all samples
        twin.temperature_ = classifier.temperature_  # type: ignore[attr-defined]
    return twin


def _score(classifier: FewShotClassifier, support: Support, chosen: Tensor | slice) -> Tensor:
    """The classifier's logits (n, N) of the chosen samples, float64 on the CPU."""
    if isinstance(chosen, Tensor):
        chosen = chosen.to(support.labels.device)
    embedding, key = support.embedding[chosen], support.key[chosen]
    return (
        torch.cat([classifier._logits(embedding[cut], key[cut]) for cut in classifier._blocks(len(key))]).cpu().double()
    )
