"""Configuration of a sequence-to-sequence language model that sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from crossgraft.errors import InputError

FAMILIES = ("t5", "bart", "mbart")


class VisionSeq2SeqConfig(PreTrainedConfig):
    """Configuration of `VisionSeq2Seq`.

    Args:
        language_model: the configuration of the language model (T5 or BART family), as a dict or an object.
        feature_width: g, of the visual features.
        images: how many images an input may hold.
    """

    model_type = "crossgraft-vision-seq2seq"
    is_encoder_decoder = True

    def __init__(
        self,
        language_model: PreTrainedConfig | dict[str, Any] | None = None,
        feature_width: int = 2048,
        images: int = 2,
        **kwargs: Any,
    ) -> None:
        if isinstance(language_model, PreTrainedConfig):
            language_model = language_model.to_dict()
        self.language_model = language_model or AutoConfig.for_model("t5").to_dict()
        self.feature_width = feature_width
        self.images = images
        kwargs["is_encoder_decoder"] = True
        super().__init__(**kwargs)

    def language_config(self) -> PreTrainedConfig:
        """The language model's configuration as an object.

        Raises:
            InputError: it is of no family that can get sight.
        """
        return one_of(FAMILIES, self.language_model)


def one_of(families: Sequence[str], language_model: Mapping[str, Any]) -> PreTrainedConfig:
    """A language model's configuration as an object.

    Raises:
        InputError: it is of none of these families.
    """
    values = dict(language_model)
    family = values.pop("model_type", "of no named family")
    if family not in families:
        raise InputError(f"the language model is {family}; sight is for {', '.join(families)}")
    return AutoConfig.for_model(family, **values)
