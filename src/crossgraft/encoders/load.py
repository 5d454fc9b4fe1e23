"""`load_encoder`: a frozen dual encoder by pocket name, folder, or Hugging Face name."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from crossgraft.encoders.base import Encoder
from crossgraft.environment import check_environment, quiet_transformers
from crossgraft.errors import CrossgraftError, InputError, first_line

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.float32}
"""Name -> what the towers compute in; with int8, all but the image tower's big linear layers."""


def load_encoder(name: str, *, device: str = "auto", dtype: str = "float32", draft: bool = False) -> Encoder:
    """Load a frozen dual encoder.

    Args:
        name: a pocket model (pocket-clip, pocket-lite), a folder that holds a pocket or a Hugging Face model, or the
            name of a CLIP, SigLIP or fixed-size SigLIP 2 model that transformers can find.
        device: a torch device, or "auto": CUDA, then Apple's MPS, then the CPU.
        dtype: precision of the towers, "float32", "bfloat16", or "int8" (`quantize_encoder`: image towers with
            transformer blocks, on a CPU); features come out in float32.
        draft: decode photos at a fraction of their size, several times faster on large ones, with nearly the same
            pixels (`Preprocess`). It changes the fingerprint.

    Raises:
        InputError: no such model, one of another kind or a damaged one, or an unknown device or dtype.
        CrossgraftError: the environment has a torchvision that does not fit, or lacks a package that the model needs.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown: choose from {', '.join(DTYPES)}")
    where = device_of(device)
    check_environment()
    quiet_transformers()
    encoder = _load(name, where, DTYPES[dtype], draft)
    if dtype == "int8":
        from crossgraft.encoders.quantize import quantize_encoder

        quantize_encoder(encoder)
    return encoder


def _load(name: str, device: torch.device, dtype: torch.dtype, draft: bool) -> Encoder:
    from crossgraft.encoders.pocket import PocketEncoder, check_dual_encoder
    from crossgraft.pocket.resolve import model_folder
    from crossgraft.pocket.sources import MANIFEST, POCKET_MODELS

    if name in POCKET_MODELS:  # said before that it has to be pulled
        check_dual_encoder(name, POCKET_MODELS[name].model_type)
    folder = Path(model_folder(name))
    if os.path.isfile(folder / MANIFEST):  # False for a name no file system takes
        return PocketEncoder(name, folder, device=device, dtype=dtype, draft=draft)
    return _load_huggingface(name, device, dtype, draft)


def grid_width(name: str) -> int:
    """g of the grid of a Hugging Face encoder, by its configuration alone.

    Raises:
        InputError: no such model, or its configuration says no such thing.
    """
    from transformers import AutoConfig

    try:
        return int(AutoConfig.from_pretrained(name).vision_config.hidden_size)
    except Exception as error:  # transformers meets absent hubs and damaged files with nearly any exception
        raise InputError(
            f"encoder {name!r}: its configuration, which says how wide its grid is, cannot be had "
            f"({first_line(error)}); or set visual.feature_width"
        ) from error


def widths_of(name: str) -> dict[str, int]:
    """What is known of an encoder's widths without its weights: of an image's "embedding" and "feature", and of a
    "text" token.

    Raises:
        InputError: no such model, or its configuration says no such thing.
    """
    from transformers import AutoConfig

    from crossgraft.encoders.pocket import TEXT_WIDTH, TOWERS
    from crossgraft.pocket.sources import POCKET_MODELS

    if name in POCKET_MODELS:
        tower = TOWERS.get(POCKET_MODELS[name].wheels[0])
        return {} if tower is None else {"feature": tower.feature_dim, "text": TEXT_WIDTH}
    try:
        config = AutoConfig.from_pretrained(name)
        vision, text = config.vision_config.hidden_size, config.text_config.hidden_size
        return {"embedding": getattr(config, "projection_dim", vision), "feature": vision, "text": text}
    except Exception as error:  # as for `grid_width`
        raise InputError(
            f"encoder {name!r}: its configuration, which says how wide its features are, cannot be had "
            f"({first_line(error)}); or set knowledge.visual_width and knowledge.text_width"
        ) from error


def device_of(name: str) -> torch.device:
    """The device that a name means; "auto": CUDA, then Apple's MPS, then the CPU.

    Raises:
        InputError: it cannot be used here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.zeros(1, device=name)
        device.cpu()  # "meta" holds no numbers
        return device.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {name!r} cannot be used here ({first_line(error)}); choose auto, cpu, cuda, cuda:0, mps, ..."
        ) from None


def _load_huggingface(name: str, device: torch.device, dtype: torch.dtype, draft: bool) -> Encoder:
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.image_processing_base import ImageProcessingMixin

    from crossgraft.encoders.huggingface import FAMILIES, HuggingFaceEncoder
    from crossgraft.encoders.preprocess import Preprocess
    from crossgraft.pocket.sources import DUAL_ENCODERS

    try:
        config = AutoConfig.from_pretrained(name)
        if config.model_type not in FAMILIES:
            raise InputError(
                f"{name} is a {config.model_type} model, no dual encoder that crossgraft knows ({', '.join(FAMILIES)})"
            )
        processor, _ = ImageProcessingMixin.get_image_processor_dict(name)
        model, loading = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except ImportError as error:  # SigLIP's older tokenizers need sentencepiece
        raise CrossgraftError(f"{name} needs a package that is not installed: {first_line(error)}") from error
    except CrossgraftError:
        raise
    except Exception as error:  # transformers meets damaged files with nearly any exception
        raise InputError(
            f"cannot load {name!r}: it is no pocket model ({', '.join(DUAL_ENCODERS)}), and as a folder or "
            f"Hugging Face name it failed: {first_line(error)}"
        ) from error
    if absent := sorted(loading["missing_keys"]):  # transformers fills these with random numbers
        raise InputError(f"{name}: its weights lack {len(absent)} tensors of the model, such as {absent[0]}")
    words = model.config.text_config.vocab_size
    if len(tokenizer) < words // 2:  # without its files transformers makes a tokenizer of special tokens alone
        raise InputError(
            f"{name}: its tokenizer knows {len(tokenizer)} tokens, its text tower {words}; are files missing?"
        )
    preprocess = Preprocess.from_hf(processor, draft=draft)
    return HuggingFaceEncoder(name, model, tokenizer, preprocess, device=device, dtype=dtype)
