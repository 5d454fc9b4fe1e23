"""Which memories a recipe's methods look at, and what is known of them before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crossgraft.encoders.load import widths_of
from crossgraft.errors import InputError
from crossgraft.methods.xadapter import READ, RETRIEVED
from crossgraft.training.recipe import Recipe
from crossgraft.training.settings import Knowledge


def looked_at(recipe: Recipe) -> tuple[str, ...]:
    """Names of the memories that the recipe's methods look at."""
    return tuple(dict.fromkeys(name for method in recipe.methods().values() for name in method.memories))


def check_knowledge(recipe: Recipe) -> None:
    """Raises:
    InputError: methods look at memories, and the recipe does not say what to make them of."""
    wanted, settings = looked_at(recipe), recipe.knowledge
    if wanted and settings.encoder is None:
        raise InputError(
            f"{recipe.name}: knowledge.encoder is needed: {', '.join(recipe.methods())} looks at what a dual encoder "
            "knows of a text; name one, such as pocket-lite"
        )
    if RETRIEVED in wanted and not settings.images:
        raise InputError(
            f"{recipe.name}: knowledge.images is needed: folders of images among which some are found for each text"
        )


def known_widths(settings: Knowledge, wanted: Sequence[str]) -> Mapping[str, int]:
    """`KnowledgeSource.widths`, of an encoder that is not loaded.

    Raises:
        InputError: they are not known.
    """
    found = {}
    for name, option, kind in ((RETRIEVED, "visual_width", settings.features), (READ, "text_width", "text")):
        if name in wanted:
            width = getattr(settings, option) or widths_of(str(settings.encoder)).get(kind)
            if width is None:
                raise InputError(
                    f"knowledge.{option} is needed: it is not known of {settings.encoder} without loading it"
                )
            found[option] = width
    return found
