"""From a recipe to an adapted model: with weights to train it, or without any to count its parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from crossgraft.adapt import AdaptedModel
from crossgraft.errors import InputError, first_line
from crossgraft.methods.attach import attach, parameter_counts
from crossgraft.methods.base import Method
from crossgraft.pocket.resolve import model_folder
from crossgraft.training.forms import Form, form_of
from crossgraft.training.recipe import Recipe
from crossgraft.training.visual import known_width


def put_methods(model: AdaptedModel, recipe: Recipe, form: Form, feature_width: int) -> None:
    """The recipe's methods into a model, all active together; the first one also holds `also_train`."""
    names = []
    trained = form.also_train if recipe.also_train is None else recipe.also_train
    for number, (name, method) in enumerate(recipe.methods().items()):
        also = () if number or "all" in method.tunes else trained
        attach(model, name, fed(method, feature_width), tasks=tuple(recipe.tasks), also_train=also)
        names.append(name)
    model.set_active(*names)


def fed(method: Method, feature_width: int) -> Method:
    """A method that looks at images, told how wide their features are."""
    if getattr(method, "feature_width", 0) is None:
        return replace(method, feature_width=feature_width)  # type: ignore[call-arg]
    return method


def count_parameters(recipe: Recipe) -> dict[str, Any]:
    """{"trainable", "total", "percent"}, without weights.

    Raises:
        InputError: the backbone's configuration or the features' width cannot be known, or a method does not fit.
        CrossgraftError: a package that a method needs is not installed.
    """
    return parameter_counts(_laid_out(recipe, known_width(recipe.visual)))


def check_methods(recipe: Recipe) -> None:
    """Whether the recipe's methods can be put into its backbone, before any weights or data are read.

    Raises:
        InputError: the backbone's configuration cannot be had, or a method does not fit.
        CrossgraftError: a package that a method needs is not installed.
    """
    _laid_out(recipe, recipe.visual.feature_width or 1)


def _laid_out(recipe: Recipe, feature_width: int) -> AdaptedModel:
    """The recipe's model on PyTorch's meta device: modules and shapes, no numbers."""
    form = form_of(recipe, recipe.make_tasks())
    with torch.device("meta"):
        model = AdaptedModel(form.laid_out(feature_width))
        put_methods(model, recipe, form, feature_width)
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
