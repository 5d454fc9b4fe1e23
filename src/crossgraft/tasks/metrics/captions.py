"""Caption metrics of the MS-COCO evaluation: CIDEr (document frequencies of the evaluated split), BLEU-1 to 4, ROUGE-L.

The scorers are those of `pycocoevalcap`, pure Python; tokenisation is `ptb.tokenize`, so that no Java is needed and
every machine gives the same figures.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Sequence
from typing import Any

from crossgraft.errors import CrossgraftError
from crossgraft.tasks.metrics.ptb import tokenize


def caption_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """CIDEr, BLEU-1 to BLEU-4 and ROUGE-L of a split, times 100.

    CIDEr weighs n-grams by how rare they are among the references of these very images, so it depends on which images
    are scored together; of a single image it is 0.

    Args:
        predictions: one caption an image; it may be empty.
        references: the captions that people gave, at least one an image.

    Raises:
        CrossgraftError: pycocoevalcap is not installed.
    """
    given = {row: [" ".join(tokenize(caption)) for caption in captions] for row, captions in enumerate(references)}
    made = {row: [" ".join(tokenize(caption))] for row, caption in enumerate(predictions)}
    scores = {"CIDEr": _score("cider.cider", "Cider", given, made)}
    scores |= {f"BLEU-{n}": value for n, value in enumerate(_score("bleu.bleu", "Bleu", given, made), 1)}
    scores["ROUGE-L"] = _score("rouge.rouge", "Rouge", given, made)
    return {name: 100 * float(value) for name, value in scores.items()}


def _score(module: str, scorer: str, given: dict[int, list[str]], made: dict[int, list[str]]) -> Any:
    """The corpus score of one scorer; its module alone is imported, since others of the package start Java."""
    try:
        found = importlib.import_module(f"pycocoevalcap.{module}")
    except ImportError as error:
        raise CrossgraftError(
            f"caption metrics need pycocoevalcap, which cannot be imported ({error}); "
            "install it with: pip install 'crossgraft[metrics]' (or: pip install pycocoevalcap)"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):  # they print their counts
        value, _ = getattr(found, scorer)().compute_score(given, made)
    return value
