"""A small random LLaMA in a GGUF file, in the layout of the real one: blocks of 4 and 8 bits, SmolLM's tokenizer."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode

WIDTH, HIDDEN, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2  # multiples of a block's 32 weights; heads of 16
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"]
IDS = {"unk": 0, "bos": 1, "eos": 2, "pad": 3}
MERGES = ["i r", "b ir", "bir d", "Ġ bird", "1 2"]  # the last one never comes to pass: digits stay alone
CHAT = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
LACKING = 4  # a byte (end of transmission) that the vocabulary has no token for
TOKENS = [
    *CONTROL,
    *(character for byte, character in bytes_to_unicode().items() if byte != LACKING),
    *(merge.replace(" ", "") for merge in MERGES),
]
LINEAR = {  # module: name in the file, width out, width in
    "self_attn.q_proj": ("attn_q", WIDTH, WIDTH),
    "self_attn.k_proj": ("attn_k", WIDTH // HEADS * KV_HEADS, WIDTH),
    "self_attn.v_proj": ("attn_v", WIDTH // HEADS * KV_HEADS, WIDTH),
    "self_attn.o_proj": ("attn_output", WIDTH, WIDTH),
    "mlp.gate_proj": ("ffn_gate", HIDDEN, WIDTH),
    "mlp.up_proj": ("ffn_up", HIDDEN, WIDTH),
    "mlp.down_proj": ("ffn_down", WIDTH, HIDDEN),
}
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def four_bits(rng: np.random.Generator, out: int, wide: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of Q4_1 (out, bytes), and the weights they mean (out, wide): level x scale + minimum."""
    levels = rng.integers(0, 16, (out, wide // 32, 32)).astype(np.uint8)
    numbers = rng.uniform([0.01, -0.3], [0.03, -0.1], (out, wide // 32, 2)).astype(np.float16)
    packed = levels[..., :16] | levels[..., 16:] << 4
    blocks = np.concatenate([numbers.view(np.uint8), packed], axis=-1)
    weights = levels * numbers[..., :1].astype(np.float32) + numbers[..., 1:].astype(np.float32)
    return blocks.reshape(out, -1), weights.reshape(out, wide)


def eight_bits(rng: np.random.Generator, out: int, wide: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of Q8_0 (out, bytes), and the weights they mean (out, wide): level x scale."""
    levels = rng.integers(-127, 128, (out, wide // 32, 32)).astype(np.int8)
    scale = rng.uniform(0.001, 0.003, (out, wide // 32, 1)).astype(np.float16)
    blocks = np.concatenate([scale.view(np.uint8), levels.view(np.uint8)], axis=-1)
    return blocks.reshape(out, -1), (levels * scale.astype(np.float32)).reshape(out, wide)


def llama_file(
    path: Path, *, architecture: str = "llama", split: str = "smollm", more: str | None = None, tied: bool = True
) -> dict[str, Tensor]:
    """Write a GGUF file (with one tensor `more`, if asked) -> its weights under the names of a `LlamaForCausalLM`."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(TOKENS)
    kinds = [gguf.TokenType.CONTROL] * len(CONTROL) + [gguf.TokenType.NORMAL] * (len(TOKENS) - len(CONTROL))
    writer.add_token_types(kinds)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(IDS["bos"])
    writer.add_eos_token_id(IDS["eos"])
    writer.add_pad_token_id(IDS["pad"])
    writer.add_unk_token_id(IDS["unk"])
    writer.add_chat_template(CHAT)

    state: dict[str, Tensor] = {}

    def add(name: str, stored: str, blocks: np.ndarray, weights: np.ndarray, kind: str) -> None:
        writer.add_tensor(f"{stored}.weight", blocks, raw_dtype=gguf.GGMLQuantizationType[kind])
        state[f"{name}.weight"] = torch.from_numpy(weights)

    def norm() -> np.ndarray:
        return rng.uniform(0.5, 1.5, WIDTH).astype(np.float32)

    add("model.embed_tokens", "token_embd", *eight_bits(rng, len(TOKENS), WIDTH), "Q8_0")
    for layer in range(LAYERS):
        for module, name in NORMS.items():
            weights = norm()
            add(f"model.layers.{layer}.{module}", f"blk.{layer}.{name}", weights, weights, "F32")
        for module, (name, out, wide) in LINEAR.items():
            blocks, weights = four_bits(rng, out, wide)
            if name in ("attn_q", "attn_k"):
                # llama.cpp's `permute`: the rows of a head's two halves alternate in the file.
                heads = HEADS if name == "attn_q" else KV_HEADS
                blocks = blocks.reshape(heads, 2, -1, blocks.shape[-1]).swapaxes(1, 2).reshape(blocks.shape)
            add(f"model.layers.{layer}.{module}", f"blk.{layer}.{name}", blocks, weights, "Q4_1")
    weights = norm()
    add("model.norm", "output_norm", weights, weights, "F32")
    if not tied:
        add("lm_head", "output", *eight_bits(rng, len(TOKENS), WIDTH), "Q8_0")
    if more is not None:
        writer.add_tensor(more, norm())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return state
