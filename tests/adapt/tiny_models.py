"""Small random backbones, one of every family, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from crossgraft.models.seq2seq import VisionSeq2Seq, VisionSeq2SeqConfig

WORDS = 60
LENGTH = 7
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
}
BART: dict[str, Any] = {
    "vocab_size": WORDS,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5: dict[str, Any] = {
    "vocab_size": WORDS,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def _causal(config: type[hf.PretrainedConfig], model: type[nn.Module]) -> Callable[[], nn.Module]:
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return lambda: model(config(vocab_size=WORDS, num_key_value_heads=2, **SMALL, **ids))


def _sighted(language: Callable[[], hf.PretrainedConfig]) -> Callable[[], nn.Module]:
    return lambda: VisionSeq2Seq(VisionSeq2SeqConfig(language(), feature_width=6, images=2))


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(vocab_size=WORDS, **SMALL)),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(vocab_size=WORDS, **SMALL)),
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)),
    "bart": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**BART)),
    "marian": lambda: hf.MarianMTModel(hf.MarianConfig(**BART)),
    "llama": _causal(hf.LlamaConfig, hf.LlamaForCausalLM),
    "qwen2": _causal(hf.Qwen2Config, hf.Qwen2ForCausalLM),
    "mistral": _causal(hf.MistralConfig, hf.MistralForCausalLM),
    "clip-text": lambda: hf.CLIPTextModelWithProjection(
        hf.CLIPTextConfig(vocab_size=WORDS, eos_token_id=2, **SMALL, projection_dim=8)
    ),
    "clip-vision": lambda: hf.CLIPVisionModelWithProjection(
        hf.CLIPVisionConfig(image_size=32, patch_size=16, **SMALL, projection_dim=8)
    ),
    "sighted-t5": _sighted(lambda: hf.T5Config(**T5)),
    "sighted-bart": _sighted(lambda: hf.BartConfig(**BART)),
}
GENERATORS = ("t5", "bart", "marian", "llama", "qwen2", "mistral", "sighted-t5", "sighted-bart")
CAUSAL = ("llama", "qwen2", "mistral")


def backbone(family: str, seed: int = 0) -> nn.Module:
    """A backbone in eval mode, with weights large enough that outputs differ."""
    return deepcopy(_made(family, seed))  # faster than making it


@cache
def _made(family: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = BACKBONES[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return model


def inputs(family: str, rows: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """What a backbone reads; the last text is padded where the family pads."""
    generator = torch.Generator().manual_seed(seed)
    if family == "clip-vision":
        return {"pixel_values": torch.randn(rows, 3, 32, 32, generator=generator)}
    ids = torch.randint(3, WORDS, (rows, LENGTH), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family in CAUSAL:
        batch["attention_mask"][-1, :2] = 0  # generation wants padding on the left
    else:
        batch["attention_mask"][-1, -2:] = 0
    if family == "clip-text":
        ids[:, -1] = 2
        batch["attention_mask"] = torch.ones_like(ids)
    if family.startswith("sighted"):
        batch["visual"] = torch.randn(rows, 2, 4, 6, generator=generator)
    return batch


def output(family: str, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The logits, or the embeds, of a forward pass."""
    if family.endswith(("t5", "bart", "marian")):
        rows = len(batch["input_ids"])
        batch = batch | {"decoder_input_ids": torch.arange(2, 6).expand(rows, 4)}
    result = model(**batch)
    for name in ("logits", "text_embeds", "image_embeds"):
        if getattr(result, name, None) is not None:
            return getattr(result, name)
    raise AssertionError(result.keys())
