"""From a recipe to an adapted model: with weights to train it, or without any to count its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from crossgraft.adapt import AdaptedModel
from crossgraft.errors import InputError, first_line
from crossgraft.methods.attach import attach, parameter_counts
from crossgraft.methods.base import Method
from crossgraft.pocket.resolve import model_folder
from crossgraft.training.forms import Form, form_of
from crossgraft.training.memories import check_knowledge, known_widths, looked_at
from crossgraft.training.recipe import Recipe
from crossgraft.training.visual import known_width, looks_at_images


def put_methods(model: AdaptedModel, recipe: Recipe, form: Form, widths: Mapping[str, int]) -> None:
    """The recipe's methods into a model, all active together; the first one also holds `also_train`.

    Args:
        widths: of what methods are fed: option -> width (`Data.widths`).
    """
    names = []
    trained = form.also_train if recipe.also_train is None else recipe.also_train
    for number, (name, method) in enumerate(recipe.methods().items()):
        also = () if number or "all" in method.tunes else trained
        attach(model, name, fed(method, widths), tasks=tuple(recipe.tasks), also_train=also)
        names.append(name)
    model.set_active(*names)


def fed(method: Method, widths: Mapping[str, int]) -> Method:
    """A method told how wide what it looks at is, where its options do not say it."""
    return replace(method, **{name: width for name, width in widths.items() if getattr(method, name, 0) is None})


def count_parameters(recipe: Recipe) -> dict[str, Any]:
    """{"trainable", "total", "percent"}, without weights.

    Raises:
        InputError: the backbone's configuration or the features' width cannot be known, or a method does not fit.
        CrossgraftError: a package that a method needs is not installed.
    """
    width = known_width(recipe.visual, needed=recipe.model == "seq2seq" or looks_at_images(recipe))
    memories = known_widths(recipe.knowledge, looked_at(recipe))
    return parameter_counts(_laid_out(recipe, {"feature_width": width, **memories}))


def check_methods(recipe: Recipe) -> None:
    """Whether the recipe's methods can be put into its backbone, before any weights or data are read.

    Raises:
        InputError: the backbone's configuration cannot be had, or a method does not fit.
        CrossgraftError: a package that a method needs is not installed.
    """
    for name, task in recipe.make_tasks().items():
        if task.cloze != (recipe.model == "masked") and not (task.cloze and recipe.model == "causal"):
            raise InputError(
                f"{recipe.name}: tasks.{name}: {task.name} cannot be learned with model={recipe.model}; masked words "
                "are for model=masked and model=causal, and model=masked is for them alone"
            )
    check_knowledge(recipe)
    _laid_out(recipe, {"feature_width": recipe.visual.feature_width or 1, "visual_width": 1, "text_width": 1})


def _laid_out(recipe: Recipe, widths: Mapping[str, int]) -> AdaptedModel:
    """The recipe's model on PyTorch's meta device: modules and shapes, no numbers."""
    form = form_of(recipe, recipe.make_tasks())
    with torch.device("meta"):
        model = AdaptedModel(form.laid_out(widths["feature_width"]))
        put_methods(model, recipe, form, widths)
    return model


def build_backbone(recipe: Recipe, form: Form, feature_width: int, device: torch.device) -> AdaptedModel:
    """The recipe's backbone without methods; what is new in it is drawn from the recipe's seed."""
    torch.manual_seed(recipe.training.seed)
    backbone = form.pretrained(model_folder(recipe.backbone), feature_width)
    backbone.config._name_or_path = recipe.backbone  # type: ignore[union-attr]  # what adapters say that they are for
    return AdaptedModel(backbone.to(device))


def load_tokenizer(name: str, form: Form | None = None) -> Any:
    """The backbone's tokenizer, which pads as the form wants it.

    Raises:
        InputError: it has none that can be loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_folder(name))
    except InputError:
        raise
    except Exception as error:  # as for the model
        reason = first_line(error)
        raise InputError(f"backbone {name!r}: its tokenizer cannot be loaded ({reason})") from error
    if tokenizer.pad_token is None:  # LLaMA's have none; what is padded is masked
        tokenizer.pad_token = tokenizer.eos_token
    if form is not None:
        tokenizer.padding_side = form.padding
    return tokenizer
