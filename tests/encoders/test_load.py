"""`load_encoder`: what it finds, and what it says of what it cannot use."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, CLIPVisionConfig, Siglip2Config

from conftest import tower
from crossgraft.encoders.load import grid_width, load_encoder
from crossgraft.errors import CrossgraftError, InputError


def test_the_best_device_is_found(tiny_clip: Path) -> None:
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert load_encoder(str(tiny_clip)).device.type == best


@pytest.mark.parametrize("device", ["gpu0", "", "cuda:99", "cpu,cuda"])
def test_a_device_that_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=f"device {device!r} cannot be used here .*choose auto, cpu, cuda"):
        load_encoder("pocket-lite", device=device)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(InputError, match="dtype 'float16' is unknown: choose from float32, bfloat16, int8"):
        load_encoder("pocket-lite", dtype="float16")


@pytest.mark.parametrize("name", ["nobody/no-such-model", "./nowhere", "a b", "", "x" * 300])
def test_a_name_that_nothing_has_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(InputError, match="no pocket model \\(pocket-clip, pocket-lite\\)"):
        load_encoder(name, device="cpu")


def test_a_misspelt_pocket_model_is_recognised() -> None:
    with pytest.raises(InputError, match="no model 'pocket_clip': did you mean pocket-clip"):
        load_encoder("pocket_clip", device="cpu")


@pytest.mark.parametrize("config", [BertConfig(), CLIPVisionConfig(), Siglip2Config()], ids=lambda c: c.model_type)
def test_models_of_other_kinds_are_refused(tmp_path: Path, config: BertConfig) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"is a {config.model_type} model, no dual encoder"):
        load_encoder(str(tmp_path), device="cpu")


def truncate(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def remove(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def drop_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def wrong_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= tower(hidden_size=16)
    (folder / "config.json").write_text(json.dumps(config))


def nonsense(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": 5}))


DAMAGE = {
    "no configuration": remove("config.json"),
    "half a configuration": truncate("config.json"),
    "a nonsense configuration": nonsense,
    "no weights": remove("model.safetensors"),
    "half the weights": truncate("model.safetensors"),
    "a tensor less": drop_tensor,
    "weights of another shape": wrong_shape,
    "no preprocessing": remove("preprocessor_config.json"),
    "half the preprocessing": truncate("preprocessor_config.json"),
    "no tokenizer": remove("tokenizer.json", "tokenizer_config.json"),
    "half a tokenizer": truncate("tokenizer.json"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_folder_is_refused_by_name(tiny_clip: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    copy = Path(shutil.copytree(tiny_clip, tmp_path / "damaged-clip"))
    damage(copy)
    with pytest.raises(InputError, match="damaged-clip"):
        load_encoder(str(copy), device="cpu")


def test_a_processor_that_cannot_be_expressed_is_refused(tiny_clip: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_clip, tmp_path / "clip"))
    config = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps(config | {"do_pad": True}))
    with pytest.raises(InputError, match="do_pad"):
        load_encoder(str(copy), device="cpu")


def test_the_width_of_a_grid_needs_no_weights(tiny_clip: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_clip / "config.json", tmp_path / "config.json")
    assert grid_width(str(tmp_path)) == load_encoder(str(tiny_clip), device="cpu").grid_shape[1]
    with pytest.raises(InputError, match=r"cannot be had .* set visual\.feature_width"):
        grid_width(str(tmp_path / "none"))


def test_a_processor_saved_as_a_whole_is_read_too(tiny_clip: Path, tmp_path: Path) -> None:
    """transformers 5 nests the image processor in processor_config.json."""
    copy = Path(shutil.copytree(tiny_clip, tmp_path / "clip"))
    image_processor = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").unlink()
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": image_processor}))
    assert load_encoder(str(copy), device="cpu").fingerprint == load_encoder(str(tiny_clip), device="cpu").fingerprint


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
def test_a_tokenizer_whose_package_is_absent_says_which(tiny_clip: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_clip, tmp_path / "clip"))
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "SiglipTokenizer"}))
    with pytest.raises(CrossgraftError, match=r"needs a package that is not installed: .*SentencePiece") as error:
        load_encoder(str(copy), device="cpu")
    assert error.value.exit_code == 1
