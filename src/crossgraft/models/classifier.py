"""A language model with a classification head: BERT, RoBERTa, T5 or a causal model that chooses among known answers.

"Adapting Pre-trained Language Models to Vision-Language Tasks via Dynamic Visual Prompting" (arXiv 2306.00409) answers
VQA, GQA and SNLI-VE this way. The head reads the first token's state of BERT ([CLS]), the state of T5's decoder at its
start token, the last real token's of a causal model. Images come in by adapters (`dvp`, `visual-tokens`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from crossgraft.adapt.prefix import Prefix, capture, resumed
from crossgraft.adapt.sites import find_stacks
from crossgraft.errors import InputError
from crossgraft.models.architecture import pretrained
from crossgraft.models.configuration import one_of

ENCODERS, CROSSING, CAUSAL = ("bert", "roberta"), ("t5",), ("llama", "mistral", "qwen2", "qwen3")
FAMILIES = (*ENCODERS, *CROSSING, *CAUSAL)


class VisionClassifierConfig(PreTrainedConfig):
    """Configuration of `VisionClassifier`.

    Args:
        language_model: the configuration of the language model, as a dict or an object.
        classes: how many answers the head tells apart.
        answers: what they are, in order; empty where it is not said.
    """

    model_type = "crossgraft-vision-classifier"

    def __init__(
        self,
        language_model: PreTrainedConfig | dict[str, Any] | None = None,
        classes: int = 2,
        answers: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        if isinstance(language_model, PreTrainedConfig):
            language_model = language_model.to_dict()
        self.language_model = language_model or AutoConfig.for_model("bert").to_dict()
        self.classes, self.answers = classes, list(answers)
        super().__init__(**kwargs)

    def language_config(self) -> PreTrainedConfig:
        """The language model's configuration as an object.

        Raises:
            InputError: it is of no family that is known here.
        """
        return one_of(FAMILIES, self.language_model)


class VisionClassifier(PreTrainedModel):
    """A language model and a head.

    Make one with `from_language_model`; `from_pretrained` and `save_pretrained` are Hugging Face's.
    """

    config_class = VisionClassifierConfig
    base_model_prefix = "language_model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: VisionClassifierConfig, language_model: Any = None) -> None:
        super().__init__(config)
        language = config.language_config()
        given = language_model is not None
        self.language_model: Any = language_model if given else AutoModel.from_config(language)
        self.family = language.model_type
        self.start = getattr(language, "decoder_start_token_id", None)
        self.head = answer_head(language.hidden_size, config.classes)
        stacks = find_stacks(self)
        self.encoder_stack = stacks["decoder" if self.family in CAUSAL else "encoder"]
        for part in (self.head, self.language_model) if given else (self.head,):
            for module in part.modules():
                module._is_hf_initialized = True  # post_init draws all other weights anew
        self.post_init()

    @classmethod
    def from_language_model(
        cls, name: str, *, classes: int, answers: Sequence[str] = (), seed: int | None = None, **kwargs: Any
    ) -> VisionClassifier:
        """A pretrained language model with a new head.

        Args:
            name: a folder or a Hugging Face name.
            classes, answers: as in `VisionClassifierConfig`.
            seed: the head is drawn from it, so that it is the same whatever loading draws; None: it is not set.
            **kwargs: for `AutoModel.from_pretrained`, such as dtype.

        Raises:
            InputError: no such model, or it is of another family.
        """
        language_model = pretrained(name, FAMILIES, AutoModel, **kwargs)
        if seed is not None:
            torch.manual_seed(seed)
        return cls(VisionClassifierConfig(language_model.config, classes, answers), language_model).eval()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        prefix: Prefix | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """input_ids, attention_mask (B, L) -> logits (B, classes). `prefix`, instead of the ids, starts from the states
        that an earlier pass left (`capture`). `kwargs`: the language model's, such as BERT's token_type_ids."""
        if prefix is not None:
            with resumed(self, self.encoder_stack, prefix.layers, prefix.states):
                # Layers that are passed over only ask for something of that shape.
                state = self._state(prefix.mask, inputs_embeds=prefix.states, **kwargs)
        elif input_ids is not None:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            state = self._state(mask, input_ids=input_ids, **kwargs)
        else:
            raise InputError("give input_ids or a prefix")
        return SequenceClassifierOutput(logits=self.head(state))

    def _state(self, mask: Tensor, **inputs: Any) -> Tensor:
        """The state (B, d) that the head reads."""
        if self.family in CROSSING:
            start = torch.full((len(mask), 1), self.start or 0, device=mask.device)
            inputs["decoder_input_ids"] = start
        if self.family in CAUSAL:
            inputs["use_cache"] = False
        states = self.language_model(attention_mask=mask, **inputs).last_hidden_state
        if self.family in ENCODERS:
            return states[:, 0]
        if self.family in CROSSING:
            return states[:, -1]
        last = mask.shape[1] - 1 - mask.int().flip(1).argmax(1)
        return states[torch.arange(len(mask), device=mask.device), last]

    def capture(self, layers: int, input_ids: Tensor, attention_mask: Tensor | None = None, **more: Tensor) -> Prefix:
        """The states after the first `layers` layers of the encoder (of a causal model's decoder), without dropout.
        `more`: what `forward` takes of a text beside these two, such as BERT's token_type_ids."""
        return capture(self, self.encoder_stack, layers, input_ids, attention_mask, **more)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)


def answer_head(width: int, classes: int) -> nn.Sequential:
    """A state (B, d) -> logits (B, classes): two layers, as the paper and LXMERT before it have them."""
    return nn.Sequential(nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, classes))
