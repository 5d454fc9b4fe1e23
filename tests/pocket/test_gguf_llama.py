"""What is read out of a GGUF file: weights, config and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fake_gguf import CHAT, CONTROL, HEADS, HIDDEN, IDS, KV_HEADS, LACKING, LAYERS, TOKENS, WIDTH, llama_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from crossgraft.errors import CrossgraftError
from crossgraft.pocket.gguf_llama import GgufLlama


@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_of_a_llama_come_back_under_their_names(tmp_path: Path, tied: bool) -> None:
    weights = llama_file(tmp_path / "llama.gguf", tied=tied)
    source = GgufLlama(tmp_path / "llama.gguf")
    state = source.state()
    assert state.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(state[name], weight, rtol=1e-6, atol=1e-7)
        assert state[name].is_contiguous()
    assert source.config()["tie_word_embeddings"] is tied


def test_transformers_reader_of_such_files_makes_the_same_model(tmp_path: Path) -> None:
    """Rows in llama.cpp's order, rotations, the base of the rotations: one error in them and the logits differ."""
    llama_file(tmp_path / "llama.gguf")
    source = GgufLlama(tmp_path / "llama.gguf")
    ours = LlamaForCausalLM(LlamaConfig(**source.config())).eval()
    assert ours.load_state_dict(source.state(), strict=False).missing_keys == ["lm_head.weight"]
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="llama.gguf", dtype=torch.float32).eval()
    ids = torch.randint(0, len(TOKENS), (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs(ids).logits
        torch.testing.assert_close(ours(ids).logits, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.05  # something to compare


def test_the_config_is_the_file_s(tmp_path: Path) -> None:
    llama_file(tmp_path / "llama.gguf")
    assert GgufLlama(tmp_path / "llama.gguf").config() == {
        "vocab_size": len(TOKENS),
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": WIDTH // HEADS,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": IDS["bos"],
        "eos_token_id": IDS["eos"],
        "pad_token_id": IDS["pad"],
    }


def test_the_tokenizer_splits_as_smollm_s_and_gives_back_what_it_took(tmp_path: Path) -> None:
    llama_file(tmp_path / "llama.gguf")
    tokenizer = GgufLlama(tmp_path / "llama.gguf").tokenizer()
    row = {token: i for i, token in enumerate(TOKENS)}
    assert tokenizer("bird bird").input_ids == [row["bird"], row["Ġbird"]]
    assert tokenizer("12").input_ids == [row["1"], row["2"]]
    for text in ("a  bird .", " In 2024:\n\t3.14 ", "café 日本語 🦔", "don't", "<|im_start|>user\nhi<|im_end|>", ""):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer("<|im_start|>bird<|im_end|>").input_ids == [IDS["bos"], row["bird"], IDS["eos"]]
    assert tokenizer(f"a{chr(LACKING)}b").input_ids == [row["a"], row["b"]]
    assert {name: getattr(tokenizer, f"{name}_token_id") for name in IDS} == IDS
    assert len(tokenizer) == len(TOKENS)
    assert tokenizer.model_max_length == 512
    assert tokenizer.decode([*range(len(CONTROL)), row["bird"]], skip_special_tokens=True) == "bird"
    assert tokenizer.chat_template == CHAT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "falcon"}, "general.architecture is 'falcon', expected 'llama'"),
        ({"split": "llama-bpe"}, "tokenizer.ggml.pre is 'llama-bpe', expected 'smollm'"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    llama_file(tmp_path / "other.gguf", **change)
    with pytest.raises(CrossgraftError, match=rf"other\.gguf: {message}"):
        GgufLlama(tmp_path / "other.gguf")


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.attn_q.bias", "blk.0.token_embd.weight"])
def test_a_tensor_that_no_module_has_is_refused(tmp_path: Path, name: str) -> None:
    llama_file(tmp_path / "llama.gguf", more=name)
    with pytest.raises(CrossgraftError, match=f"nothing says which module {name} belongs to"):
        GgufLlama(tmp_path / "llama.gguf").state()
