"""From a recipe to an adapted model: with weights to train it, or without any to count its parameters."""

from __future__ import annotations

from typing import Any

import torch

from crossgraft.adapt import AdaptedModel
from crossgraft.errors import InputError, first_line
from crossgraft.methods.attach import attach, parameter_counts
from crossgraft.models.architecture import language_config
from crossgraft.models.seq2seq import VisionSeq2Seq, VisionSeq2SeqConfig
from crossgraft.pocket.resolve import model_folder
from crossgraft.training.recipe import Recipe
from crossgraft.training.visual import known_width


def put_methods(model: AdaptedModel, recipe: Recipe) -> None:
    """The recipe's methods into a model, all active together; the first one also holds `also_train`."""
    names = []
    for number, (name, method) in enumerate(recipe.methods().items()):
        also = () if number or "all" in method.tunes else recipe.also_train
        attach(model, name, method, tasks=tuple(recipe.tasks), also_train=also)
        names.append(name)
    model.set_active(*names)


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
    language = language_config(recipe.backbone)
    language.vocab_size += recipe.extra_tokens
    with torch.device("meta"):
        config = VisionSeq2SeqConfig(language, feature_width, recipe.visual.images)
        model = AdaptedModel(VisionSeq2Seq(config))
        put_methods(model, recipe)
    return model


def build_backbone(recipe: Recipe, feature_width: int, device: torch.device) -> AdaptedModel:
    """The recipe's backbone without methods; its new visual embedding is drawn from the recipe's seed."""
    torch.manual_seed(recipe.training.seed)
    backbone = VisionSeq2Seq.from_language_model(
        model_folder(recipe.backbone),
        feature_width=feature_width,
        images=recipe.visual.images,
        extra_tokens=recipe.extra_tokens,
        scale_to_words=recipe.visual.scale_to_words,
        dtype=torch.float32,
    )
    backbone.config._name_or_path = recipe.backbone  # what adapters say that they are for
    return AdaptedModel(backbone.to(device))  # type: ignore[arg-type]


def load_tokenizer(name: str) -> Any:
    """The backbone's tokenizer.

    Raises:
        InputError: it has none that can be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model_folder(name))
    except InputError:
        raise
    except Exception as error:  # as for the model
        reason = first_line(error)
        raise InputError(f"backbone {name!r}: its tokenizer cannot be loaded ({reason})") from error
