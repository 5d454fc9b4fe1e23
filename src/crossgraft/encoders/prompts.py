"""From class names to class text embeddings: templates, a user's own templates, or descriptions per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from crossgraft.encoders.base import Encoder
from crossgraft.errors import InputError
from crossgraft.files import read_json

DEFAULT_TEMPLATES = ("a photo of a {}.",)


@dataclass(frozen=True)
class Prompts:
    """What is said about each class. Class embedding = unit mean over the unit embeddings of its texts (Radford et al.,
    section 3.1.4).

    `templates` have one `{}` for the class name. `descriptions` (class name -> texts, as CuPL writes them, Pratt et
    al., arXiv 2209.03320) are added to the templates' texts.
    """

    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    descriptions: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for template in self.templates:
            if template.count("{}") != 1:
                raise InputError(f"template {template!r} needs exactly one {{}}, where the class name goes")
        if not self.templates and not self.descriptions:
            raise InputError("prompts need templates, descriptions, or both")

    @classmethod
    def read(cls, path: Path) -> Prompts:
        """From a JSON file: a list of templates, a mapping class -> descriptions (CuPL), or {"templates": ...,
        "descriptions": ...}.

        A plain mapping of descriptions leaves the default template in. Raises InputError for anything else.
        """
        value: Any = read_json(path)
        if isinstance(value, list):
            value = {"templates": value}
        elif isinstance(value, dict) and not value.keys() & {"templates", "descriptions"}:
            value = {"descriptions": value}
        if not isinstance(value, dict) or value.keys() - {"templates", "descriptions"}:
            raise InputError(f"{path}: expected a list of templates, or a mapping from class names to descriptions")
        templates, descriptions = value.get("templates", list(DEFAULT_TEMPLATES)), value.get("descriptions", {})
        if not _texts(templates):
            raise InputError(f"{path}: templates must be a list of texts")
        if not isinstance(descriptions, dict) or not all(_texts(texts) and texts for texts in descriptions.values()):
            raise InputError(f"{path}: descriptions must map each class name to a list of at least one text")
        return cls(tuple(templates), {name: tuple(texts) for name, texts in descriptions.items()})

    def texts(self, classes: Sequence[str]) -> list[list[str]]:
        """The texts of each class, underscores in names read as spaces.

        Raises:
            InputError: descriptions for none of the classes, or a class that has no text at all.
        """
        known = {_plain(name): texts for name, texts in self.descriptions.items()}
        if known and not any(_plain(name) in known for name in classes):
            raise InputError(f"no description fits any class: they are for {', '.join(sorted(known)[:5])}, ...")
        result = [
            [template.replace("{}", prompt_name(name)) for template in self.templates]
            + list(known.get(_plain(name), ()))
            for name in classes
        ]
        if empty := [name for name, texts in zip(classes, result, strict=True) if not texts]:
            raise InputError(f"no templates, and no description for: {', '.join(empty[:5])}")
        return result

    def undescribed(self, classes: Sequence[str]) -> list[str]:
        """The classes that only templates speak for, though other classes have descriptions."""
        known = {_plain(name) for name in self.descriptions}
        return [name for name in classes if known and _plain(name) not in known]

    def encode(self, encoder: Encoder, classes: Sequence[str]) -> Tensor:
        """Class text embeddings (N, d), unit length, on the encoder's device."""
        return functional.normalize(self.encode_each(encoder, classes).sum(1), dim=-1)

    def encode_each(self, encoder: Encoder, classes: Sequence[str]) -> Tensor:
        """The embedding of each text (N, P, d), unit length; rows of zeros for a class with fewer than P texts."""
        texts = self.texts(classes)
        vectors = encoder.encode_texts([text for group in texts for text in group])
        return pad_sequence(list(vectors.split([len(group) for group in texts])), batch_first=True)


def prompt_name(class_name: str) -> str:
    """The class name as it goes into a prompt: "car_side" -> "car side"."""
    return " ".join(class_name.replace("_", " ").split())


def _plain(name: str) -> str:
    return prompt_name(name).casefold()


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)
