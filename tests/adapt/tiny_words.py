"""Small random language models that name words, with tokenizers of the kinds that BERT, RoBERTa and LLaMA have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import decoders as _decoders
from torch import nn

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "initializer_range": 0.4,
    "max_position_embeddings": 64,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ONES = "red orange yellow green blue pink brown white black grey gray".split()  # noqa: SIM905
TEXT = "what is the usual typical common color of a an it has have usually are most q : ? ,".split()  # noqa: SIM905
THINGS = "banana coal sea snow blood cherry clouds elephant crow".split()  # noqa: SIM905
KINDS = {"bert": "masked", "roberta": "masked", "llama": "causal"}


def tokenizer_of(family: str, *, whole: bool = True) -> Any:
    """A tokenizer that knows the colours; `whole`: purple, too, as one token."""
    colors = [*ONES, "purple"] if whole else ONES
    if family == "bert":
        pieces = [*colors, *TEXT, *THINGS, ".", "pur", "##p", "##le", *(f"##{letter}" for letter in "abcdefgs")]
        words = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces])
        made = Tokenizer(models.WordPiece({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        return hf.PreTrainedTokenizerFast(tokenizer_object=made, mask_token="[MASK]", **names)
    # Words that are often there become one token, with the space before them.
    sentences = [f"it is {word} ." for word in [*colors, *TEXT, *THINGS] for _ in range(40)]
    if family == "roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>"]
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = _decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        made.train_from_iterator(
            sentences,
            trainers.BpeTrainer(vocab_size=520, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
        )
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        fast = hf.PreTrainedTokenizerFast(
            tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
        fast.add_special_tokens({"mask_token": AddedToken("<mask>", lstrip=True, special=True)})
        return fast
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        sentences, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return hf.PreTrainedTokenizerFast(  # like LLaMA's it has nothing to pad with
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def model_of(family: str, words: int, seed: int = 0) -> nn.Module:
    """A random model in eval mode, for so many words."""
    torch.manual_seed(seed)
    if family == "bert":
        return hf.BertForMaskedLM(hf.BertConfig(vocab_size=words, **SMALL, **NO_DROPOUT)).eval()
    if family == "roberta":
        return hf.RobertaForMaskedLM(hf.RobertaConfig(vocab_size=words, **SMALL, **NO_DROPOUT)).eval()
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    return hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=words, num_key_value_heads=2, **SMALL, **ids)).eval()


def save_words_model(folder: Path, family: str, *, whole: bool = True) -> Path:
    """Model and tokenizer as Hugging Face folders are."""
    tokenizer = tokenizer_of(family, whole=whole)
    tokenizer.save_pretrained(folder)
    model_of(family, len(tokenizer)).save_pretrained(folder)
    return folder
