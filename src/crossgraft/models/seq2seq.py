"""A sequence-to-sequence language model that sees: T5 or BART with visual tokens behind the text.

Sung, Cho and Bansal, "VL-Adapter: Parameter-Efficient Transfer Learning for Vision-and-Language Tasks", CVPR 2022. The
encoder reads [prompt; text; images]. BART's position embedding and embedding norm are for the text alone (the norm for
the prompt too); T5's relative position bias is zero wherever no two text positions meet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.t5.modeling_t5 import T5LayerNorm

from crossgraft.adapt.prefix import Prefix, resumed, states_entering
from crossgraft.adapt.sites import find_stacks
from crossgraft.errors import InputError
from crossgraft.models.architecture import pretrained
from crossgraft.models.configuration import FAMILIES, VisionSeq2SeqConfig
from crossgraft.models.visual_embedding import VisualEmbedding

__all__ = ["FAMILIES", "VisionSeq2Seq", "VisionSeq2SeqConfig"]


class VisionSeq2Seq(PreTrainedModel, GenerationMixin):
    """T5 or BART with visual tokens.

    Make one with `from_language_model`; `from_pretrained` and `save_pretrained` are Hugging Face's.
    """

    config_class = VisionSeq2SeqConfig
    base_model_prefix = "language_model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: VisionSeq2SeqConfig, language_model: Any = None) -> None:
        super().__init__(config)
        language = config.language_config()
        given = language_model is not None
        self.language_model: Any = language_model if given else AutoModelForSeq2SeqLM.from_config(language)
        self.visual_embedding = VisualEmbedding(config.feature_width, language.d_model, config.images, _norm(language))
        self.encoder_stack = find_stacks(self)["encoder"]
        self._text_length = self._visual_length = self._length = 0  # of the batch that is being encoded
        encoder = self.language_model.get_encoder()
        if language.model_type == "t5":
            bias = encoder.block[0].layer[0].SelfAttention.relative_attention_bias
            bias.register_forward_hook(self._bias_between_text)
        else:
            encoder.embed_positions.register_forward_pre_hook(self._places_of_text)
            encoder.embed_positions.register_forward_hook(self._positions_of_text)
            encoder.layernorm_embedding.register_forward_hook(self._norm_before_images)
        for part in (self.visual_embedding, self.language_model) if given else (self.visual_embedding,):
            for module in part.modules():
                module._is_hf_initialized = True  # post_init draws all other weights anew
        self.post_init()

    @classmethod
    def from_language_model(
        cls,
        name: str,
        *,
        feature_width: int,
        images: int = 2,
        extra_tokens: int = 0,
        scale_to_words: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> VisionSeq2Seq:
        """A pretrained T5 or BART with a new visual embedding.

        Args:
            name: a folder or a Hugging Face name.
            feature_width: g, of the visual features.
            images: how many images an input may hold.
            extra_tokens: rows to add to the word embedding (the authors add 200 to BART's, 72 to T5's).
            scale_to_words: a T5's visual tokens start as large as its words (`VisualEmbedding.scale_to`; ours). The
                authors' start at the size that a layer norm gives; so do BART's, whose words are normed too.
            seed: what is new is drawn from it, so that it is the same whatever loading draws; None: it is not set.
            **kwargs: for `AutoModelForSeq2SeqLM.from_pretrained`, such as dtype.

        Raises:
            InputError: no such model, or it is of another family.
        """
        language_model = pretrained(name, FAMILIES, AutoModelForSeq2SeqLM, **kwargs)
        if seed is not None:
            torch.manual_seed(seed)
        if extra_tokens:
            # T5's configuration says "tied" whatever the file held, and resizing would go by it.
            output = language_model.get_output_embeddings().weight
            tied = output is language_model.get_input_embeddings().weight
            language_model.config.tie_word_embeddings = tied
            words = language_model.get_input_embeddings().weight.shape[0]
            language_model.resize_token_embeddings(words + extra_tokens, mean_resizing=False)
            draw_rows(language_model, words)
        model = cls(VisionSeq2SeqConfig(language_model.config, feature_width, images), language_model)
        if scale_to_words and language_model.config.model_type == "t5":
            model.visual_embedding.scale_to(language_model.get_input_embeddings())
        return model.eval()

    # ---------------------------------------------------------------- forward

    def embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        visual: Tensor | None = None,
        visual_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the encoder reads: text (B, L) and visual features (B, I, T, g) -> embeddings (B, L + I * T, d), mask.

        visual_mask (B, I, T) is 1 for what is there; by default all is. Without `visual` the text stands alone.
        """
        encoder = self.language_model.get_encoder()
        embeds = encoder.embed_tokens(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self._text_length, self._visual_length = input_ids.shape[1], 0
        if visual is None:
            return embeds, mask
        words = encoder.embed_tokens
        tokens = self.visual_embedding(visual, words).to(embeds.dtype)  # (B, I * T, d)
        self._visual_length = tokens.shape[1]
        seen = mask.new_ones(tokens.shape[:2]) if visual_mask is None else visual_mask.flatten(1).to(mask.dtype)
        return torch.cat((embeds, tokens), 1), torch.cat((mask, seen), 1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        visual: Tensor | None = None,
        visual_mask: Tensor | None = None,
        labels: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        prefix: Prefix | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Shapes as in `embed`; labels (B, M), -100 where there is nothing to predict.

        Without labels give `decoder_input_ids`, as for the language model. `prefix`, instead of the inputs, starts the
        encoder from states that an earlier pass left (`capture`).
        """
        if prefix is not None:
            encoder_outputs, attention_mask = self.resume(prefix)
        if encoder_outputs is not None:
            return self.language_model(
                encoder_outputs=encoder_outputs, attention_mask=attention_mask, labels=labels, **kwargs
            )
        if input_ids is None:
            raise InputError("give input_ids, or encoder_outputs, or a prefix")
        embeds, mask = self.embed(input_ids, attention_mask, visual, visual_mask)
        return self.language_model(inputs_embeds=embeds, attention_mask=mask, labels=labels, **kwargs)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        visual: Tensor | None = None,
        visual_mask: Tensor | None = None,
    ) -> tuple[BaseModelOutput, Tensor]:
        """The encoder's states for inputs as in `embed`, and the mask that `forward` and `generate` want with them."""
        embeds, mask = self.embed(input_ids, attention_mask, visual, visual_mask)
        return self.language_model.get_encoder()(inputs_embeds=embeds, attention_mask=mask, return_dict=True), mask

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        visual: Tensor | None = None,
        visual_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        prefix: Prefix | None = None,
        **kwargs: Any,
    ) -> Any:
        """Hugging Face's `generate` on the language model, once the encoder has read text and images."""
        if prefix is not None:
            encoder_outputs, attention_mask = self.resume(prefix)
        if encoder_outputs is None:
            if input_ids is None:
                raise InputError("give input_ids, or encoder_outputs, or a prefix")
            encoder_outputs, attention_mask = self.encode(input_ids, attention_mask, visual, visual_mask)
        return self.language_model.generate(encoder_outputs=encoder_outputs, attention_mask=attention_mask, **kwargs)

    # ---------------------------------------------------------------- frozen layers once a sample

    @torch.no_grad()
    def capture(
        self,
        layers: int,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        visual: Tensor | None = None,
        visual_mask: Tensor | None = None,
    ) -> Prefix:
        """The states after the first `layers` layers of the encoder, for inputs as in `embed`; without dropout."""
        embeds, mask = self.embed(input_ids, attention_mask, visual, visual_mask)
        encoder = self.language_model.get_encoder()
        states = states_entering(
            self, self.encoder_stack, layers, lambda: encoder(inputs_embeds=embeds, attention_mask=mask)
        )
        return Prefix(layers, states, mask, self._text_length)

    def resume(self, prefix: Prefix) -> tuple[BaseModelOutput, Tensor]:
        """The encoder's states from where a prefix left off, and the mask, as `encode` gives them."""
        self._text_length = prefix.text_length
        self._visual_length = prefix.states.shape[1] - prefix.text_length
        with resumed(self, self.encoder_stack, prefix.layers, prefix.states):
            encoder = self.language_model.get_encoder()
            states = encoder(inputs_embeds=prefix.states, attention_mask=prefix.mask, return_dict=True)
        return states, prefix.mask

    # ---------------------------------------------------------------- text and images apart

    def _text_span(self, length: int) -> tuple[int, int]:
        """Where the text is in an encoder input of this length: between a prompt, if there is one, and the images."""
        stop = length - self._visual_length
        return stop - self._text_length, stop

    def _bias_between_text(self, module: nn.Module, args: Any, bias: Tensor) -> Tensor:
        """T5: (S, S, heads), zero where not both are text."""
        start, stop = self._text_span(bias.shape[0])
        text = torch.zeros(bias.shape[0], dtype=bias.dtype, device=bias.device)
        text[start:stop] = 1
        return bias * (text[:, None] * text)[..., None]

    def _places_of_text(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """BART: of an encoder input (B, S) the text, since images and prompts need no positions."""
        self._length = args[0].shape[1]
        start, stop = self._text_span(self._length)
        most: int = self.language_model.config.max_position_embeddings
        if stop - start > most:
            raise InputError(
                f"a text has {stop - start} tokens, and this model has {most} positions; cut texts shorter"
            )
        return (args[0][:, start:stop], *args[1:])

    def _positions_of_text(self, module: nn.Module, args: Any, positions: Tensor) -> Tensor:
        """BART: (B, L, d), counted from the start of the text -> (B, S, d), zero elsewhere."""
        start, stop = self._text_span(self._length)
        return functional.pad(positions, (0, 0, start, self._length - stop))

    def _norm_before_images(self, module: nn.Module, args: Any, normed: Tensor) -> Tensor:
        """BART: prompt and text are normed, images have norms of their own."""
        _, stop = self._text_span(normed.shape[1])
        return torch.cat((normed[:, :stop], args[0][:, stop:]), 1)

    # ---------------------------------------------------------------- what transformers asks for

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def get_encoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        return self.language_model.get_encoder()

    def get_decoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        return self.language_model.get_decoder()


@torch.no_grad()
def draw_rows(language_model: Any, words: int) -> None:
    """Draw the rows that were added behind the first `words` of the embedding, and of an output layer of its own: as
    large as the others, the same in every version of every library. Frozen rows are part of what an adapter is for.
    """
    generator = torch.Generator().manual_seed(0)
    rows = language_model.get_input_embeddings().weight
    outputs = language_model.get_output_embeddings().weight
    for weight in (rows,) if outputs is rows else (rows, outputs):
        drawn = torch.randn(weight[words:].shape, generator=generator)
        weight[words:] = (drawn * weight[:words].float().std()).to(weight)


def _norm(language: PreTrainedConfig) -> Callable[[int], nn.Module]:
    """The layer norm of a family: T5's has no bias and no mean."""
    if language.model_type == "t5":
        return lambda width: T5LayerNorm(width, eps=language.layer_norm_epsilon)
    return nn.LayerNorm
