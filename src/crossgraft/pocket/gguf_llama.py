"""What a GGUF file (llama.cpp's format) says of a LLaMA: its weights, its config and its tokenizer.

Needs `gguf` (the `pull` extra) to read the file and to dequantise its blocks. transformers reads GGUF files too, but
splits text for this tokenizer as GPT-2 does, and asks for accelerate.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossgraft.errors import CrossgraftError

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}  # ours -> GGUF's
CONTROL = 3  # the token type of what is never text, such as <|im_end|>


class GgufLlama:
    """A GGUF file of a LLaMA with SmolLM's tokenizer.

    Raises:
        CrossgraftError: it holds another architecture or another kind of tokenizer.
    """

    def __init__(self, file: Path) -> None:
        import gguf

        self.file = file
        self._reader = gguf.GGUFReader(file)
        self.metadata: dict[str, Any] = {key: field.contents() for key, field in self._reader.fields.items()}
        for key, expected in (
            ("general.architecture", "llama"),
            ("tokenizer.ggml.model", "gpt2"),  # byte-level BPE
            ("tokenizer.ggml.pre", "smollm"),  # how text is split before it
        ):
            if self.metadata.get(key) != expected:
                raise CrossgraftError(f"{file}: {key} is {self.metadata.get(key)!r}, expected {expected!r}")

    def state(self) -> dict[str, Tensor]:
        """The dequantised weights of a `LlamaForCausalLM`, float32, without an output layer if it is the embedding.

        Raises:
            CrossgraftError: a tensor that no module of a LLaMA has.
        """
        import gguf

        heads = {"attn_q": self._llama("attention.head_count"), "attn_k": self._llama("attention.head_count_kv")}
        state: dict[str, Tensor] = {}
        for tensor in self._reader.tensors:
            found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", tensor.name)
            number, leaf = found.groups() if found else (None, "")
            module = (TOP if number is None else BLOCK).get(leaf)
            if module is None:
                raise CrossgraftError(f"{self.file}: nothing says which module {tensor.name} belongs to")
            weight = gguf.dequantize(tensor.data, tensor.tensor_type)
            if leaf in heads:
                # llama.cpp rotates neighbouring pairs, transformers a head's first half with its second: rows
                # (head, pair, 2) become (head, 2, pair).
                pairs = weight.reshape(heads[leaf], -1, 2, weight.shape[-1])
                weight = pairs.swapaxes(1, 2).reshape(weight.shape)
            name = module if number is None else f"model.layers.{number}.{module}"
            state[f"{name}.weight"] = torch.from_numpy(np.array(weight, dtype=np.float32, order="C"))
        return state

    def config(self) -> dict[str, Any]:
        """The arguments of a `LlamaConfig`."""
        return {
            "vocab_size": len(self.metadata["tokenizer.ggml.tokens"]),
            "hidden_size": self._llama("embedding_length"),
            "intermediate_size": self._llama("feed_forward_length"),
            "num_hidden_layers": self._llama("block_count"),
            "num_attention_heads": self._llama("attention.head_count"),
            "num_key_value_heads": self._llama("attention.head_count_kv"),
            "head_dim": self._llama("rope.dimension_count"),
            "max_position_embeddings": self._llama("context_length"),
            "rope_parameters": {"rope_type": "default", "rope_theta": self._llama("rope.freq_base")},
            # A float32 in the file: 1e-5, not 9.999999747378752e-06.
            "rms_norm_eps": float(str(np.float32(self._llama("attention.layer_norm_rms_epsilon")))),
            "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in self._reader.tensors),
            **{f"{name}_token_id": self.special_id(name) for name in ("bos", "eos", "pad")},
        }

    def special_id(self, name: str) -> int:
        """The id of the bos, eos, pad or unk token."""
        return int(self.metadata[f"tokenizer.ggml.{SPECIAL[name]}_token_id"])

    def tokenizer(self) -> Any:
        """A `PreTrainedTokenizerFast` with the file's special tokens and chat template.

        Text is split as llama.cpp splits it for the kind "smollm": each digit alone, the rest as GPT-2 does. A byte
        that the vocabulary lacks is left out of the ids.
        """
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        tokens = self.metadata["tokenizer.ggml.tokens"]
        merges = [tuple(merge.split(" ")) for merge in self.metadata["tokenizer.ggml.merges"]]
        backend = Tokenizer(models.BPE({token: row for row, token in enumerate(tokens)}, merges))
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        backend.decoder = decoders.ByteLevel()
        kinds = self.metadata["tokenizer.ggml.token_type"]
        control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
        backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            model_max_length=self._llama("context_length"),
            chat_template=self.metadata.get("tokenizer.chat_template"),
            **{f"{name}_token": tokens[self.special_id(name)] for name in SPECIAL},
        )

    def _llama(self, key: str) -> Any:
        return self.metadata[f"llama.{key}"]
