"""A language model by name: its configuration, also where no weights and no hub are at hand, and its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from crossgraft.errors import InputError, first_line
from crossgraft.files import read_json
from crossgraft.pocket.resolve import model_folder
from crossgraft.pocket.sources import POCKET_MODELS

FOLDER = Path(__file__).parent / "architectures"
"""Configurations by the last part of a name; add a file to know another model without its weights."""


def known_architectures() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def language_config(name: str) -> PreTrainedConfig:
    """The configuration of a model by pocket name, folder or Hugging Face name.

    Raises:
        InputError: no such model, or its configuration cannot be read.
    """
    short = name.rsplit("/", 1)[-1]
    if not Path(name).is_dir() and (FOLDER / f"{short}.json").is_file() and name not in POCKET_MODELS:
        values: dict[str, Any] = read_json(FOLDER / f"{short}.json")
        return AutoConfig.for_model(values.pop("model_type"), **values)
    try:
        return AutoConfig.from_pretrained(model_folder(name))
    except InputError:
        raise
    except Exception as error:  # transformers meets absent hubs and damaged files with nearly any exception
        reason = first_line(error)
        raise InputError(
            f"backbone {name!r}: its configuration cannot be had ({reason}); known without weights: "
            f"{', '.join(known_architectures())}"
        ) from error


def pretrained(name: str, families: Sequence[str], kind: Any, *, whole: bool = False, **options: Any) -> Any:
    """A language model of one of some families, from a folder or by its Hugging Face name.

    Args:
        kind: transformers' class that loads it, such as `AutoModelForSeq2SeqLM`.
        whole: none of its weights may be new, such as those of a head that names words.

    Raises:
        InputError: no such model, or it is of another family; weights are missing.
    """
    try:
        config = AutoConfig.from_pretrained(name)
        if config.model_type not in families:
            raise InputError(f"{name} is a {config.model_type} model; sight is for {', '.join(families)}")
        model, loading = kind.from_pretrained(name, output_loading_info=True, **options)
    except InputError:
        raise
    except Exception as error:  # transformers meets damaged files and absent hubs with nearly any exception
        reason = first_line(error)
        raise InputError(f"cannot load {name!r} as a folder or Hugging Face name: {reason}") from error
    if whole and (absent := sorted(loading["missing_keys"])):  # transformers fills these with random numbers
        raise InputError(
            f"{name}: its weights lack {len(absent)} tensors of a {type(model).__name__}, such as {absent[0]}; choose "
            "a model that has them"
        )
    return model
