"""A run's adapted language model as a scorer of words: what it is shown beside each text is found for that text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from crossgraft.adapt import Memory
from crossgraft.encoders.load import device_of
from crossgraft.environment import check_environment, quiet_transformers
from crossgraft.errors import InputError
from crossgraft.models.choice_scoring import KINDS, ChoiceScorer
from crossgraft.tasks.colors import SPELLINGS
from crossgraft.training.build import load_tokenizer
from crossgraft.training.knowledge import KnowledgeSource
from crossgraft.training.run import read_form, read_run, trained_model


class AdaptedScorer(NamedTuple):
    """A scorer of colours, and what its model is shown; None where it looks at nothing."""

    scorer: ChoiceScorer
    knowledge: KnowledgeSource | None


def adapted_scorer(
    model: str,
    folder: Path,
    *,
    kind: str = "auto",
    device: str = "auto",
    queries: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> AdaptedScorer:
    """A scorer of colours by the adapters of a finished run.

    Args:
        model: the backbone: a pocket model, a folder, or a Hugging Face name.
        folder: of the run, of a recipe with `model: causal` or `model: masked`.
        kind: masked or causal; auto: as the run has it.
        queries: text -> what images are looked for with; by default the text itself.

    Raises:
        InputError: no finished run, or one of another kind or backbone; it was trained with another dual encoder.
    """
    recipe = read_run(folder)
    if recipe.model not in KINDS:
        raise InputError(f"{folder}: a run with model={recipe.model} scores no words; adapt with causal or masked")
    if kind not in ("auto", recipe.model):
        raise InputError(f"{folder}: a {recipe.model} language model was adapted; leave --kind out, or say so")
    check_environment()
    quiet_transformers()
    recipe, where = replace(recipe, backbone=model), device_of(device)
    form = read_form(recipe, recipe.make_tasks(), folder)
    source = KnowledgeSource.open(recipe, device=str(where), say=say)
    if source is not None:
        source.restore(folder, say)
    adapted = trained_model(recipe, form, folder, recipe.visual.feature_width or 1, where)

    @contextmanager
    def looking(texts: Sequence[str]) -> Iterator[None]:
        found = {} if source is None else source.of(texts, [(queries or {}).get(text, text) for text in texts])
        memories: dict[str, Any] = {name: _moved(memory, where) for name, memory in found.items()}
        with adapted.remembering(**memories):
            yield

    tokenizer = load_tokenizer(model)
    scorer = ChoiceScorer(adapted, tokenizer, SPELLINGS, kind=recipe.model, looking=looking, say=say)  # type: ignore[arg-type]
    return AdaptedScorer(scorer, source)


def _moved(memory: Memory, device: torch.device) -> Memory:
    return Memory(memory.tokens.to(device), None if memory.mask is None else memory.mask.to(device))
