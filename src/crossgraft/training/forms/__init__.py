"""Kinds of language models that see, by the name that a recipe's `model` has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from crossgraft.tasks import Task
from crossgraft.training.forms.base import Form, Lesson

if TYPE_CHECKING:
    from crossgraft.training.recipe import Recipe

__all__ = ["Form", "Lesson", "form_of"]


def form_of(recipe: Recipe, tasks: Mapping[str, Task]) -> Form:
    """The form of a recipe's model."""
    # Each imports transformers' classes of its own, which a recipe of another kind need not wait for.
    if recipe.model == "classifier":
        from crossgraft.training.forms.classifier import ClassifierForm

        return ClassifierForm(recipe, tasks)
    if recipe.model == "masked":
        from crossgraft.training.forms.cloze import MaskedForm

        return MaskedForm(recipe, tasks)
    if recipe.model == "causal":
        from crossgraft.training.forms.causal import CausalForm

        return CausalForm(recipe, tasks)
    from crossgraft.training.forms.seq2seq import Seq2SeqForm

    return Seq2SeqForm(recipe, tasks)
