"""A tiny language model in a folder, features as arrays, and recipes that train in a second or two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

COLOURS = ("red", "green", "blue", "grey")
SHAPES = ("circle", "square", "star")
WIDTH = 8  # of features
WORDS = [
    "<pad>",
    "</s>",
    "<unk>",
    "vqa:",
    "caption:",
    "what",
    "colour",
    "shape",
    "is",
    "it",
    "?",
    "a",
    *COLOURS,
    *SHAPES,
]
T5: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "dropout_rate": 0.1,
}
BART: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 1,
    "bos_token_id": 1,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "forced_eos_token_id": None,
    "init_std": 0.2,
}

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.2,
    "max_position_embeddings": 64,
}


def save_language_model(folder: Path, family: str = "t5", seed: int = 0, **config: Any) -> Path:
    """A random T5, BART, BERT, LLaMA, or masked language model, with a word tokenizer, as Hugging Face folders are."""
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    special |= {"mask_token": "<mask>"} if family == "masked" else {}
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(seed)
    if family in ("bert", "masked", "llama"):
        kind, config_class = {
            "bert": (hf.BertModel, hf.BertConfig),
            "masked": (hf.BertForMaskedLM, hf.BertConfig),
            "llama": (hf.LlamaForCausalLM, hf.LlamaConfig),
        }[family]
        ids: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
        if family != "llama":
            ids |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        kind(config_class(vocab_size=48, **SMALL | ids | config)).save_pretrained(folder)
    elif family == "t5":
        hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=48, **T5 | config)).save_pretrained(folder)
    else:
        hf.BartForConditionalGeneration(hf.BartConfig(vocab_size=48, **BART | config)).save_pretrained(folder)
    return folder


def save_data(folder: Path, count: int = 40) -> Path:
    """Images as feature arrays (4, WIDTH) that show a colour and a shape; questions.csv and captions.json on them."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows, captions = ["image,question,answer,split"], []
    for number in range(count):
        colour, shape = number % len(COLOURS), (number // len(COLOURS)) % len(SHAPES)
        features = rng.normal(scale=0.1, size=(4, WIDTH)).astype(np.float32)
        features[:, colour] += 2
        features[:, 4 + shape] += 2
        name = f"{number}.npy"
        np.save(folder / "images" / name, features)
        split = ("train", "train", "train", "val", "test")[number % 5]
        rows += [
            f"{name},what colour is it ?,{COLOURS[colour]},{split}",
            f"{name},what shape is it ?,{SHAPES[shape]},{split}",
        ]
        captions.append({"image": name, "captions": [f"a {COLOURS[colour]} {SHAPES[shape]}"], "split": split})
    (folder / "questions.csv").write_text("\n".join(rows) + "\n")
    (folder / "captions.json").write_text(json.dumps(captions))
    return folder


def recipe(model: Path, data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Values of a recipe with two tasks."""
    values: dict[str, Any] = {
        "name": "tiny",
        "backbone": str(model),
        "visual": {"side": 2, "feature_width": WIDTH},
        "method": {"name": "adapter", "reduction": 4},
        "tasks": {
            "vqa": {"task": "vqa-csv", "file": str(data / "questions.csv"), "images": str(data / "images")},
            "caption": {
                "task": "caption-json",
                "file": str(data / "captions.json"),
                "images": str(data / "images"),
                "max_new_tokens": 6,
                "num_beams": 2,
            },
        },
        "training": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "answer_length": 8, "log_steps": 1},
        "out": str(out),
    }
    training = changes.pop("training", {})
    values["training"] |= training
    return values | changes
