"""CLIP and SigLIP encoders give what transformers gives; the fingerprint says when two do not agree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, SiglipConfig, SiglipImageProcessorPil, SiglipModel

from conftest import save_tokenizer, tower
from crossgraft.encoders.base import Encoder
from crossgraft.encoders.load import load_encoder
from crossgraft.errors import InputError

TEXTS = [
    "a photo of a bird .",
    "fruit",
    "the red heart in the photo of a blue bird in a green style .",
    "an unknown word",
]
POSITIONS = 12  # of the tiny CLIP


@pytest.fixture(scope="module")
def tiny_siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SigLIP (a fixed-size SigLIP 2 is the same model), with a tokenizer that gives a needless mask."""
    folder = tmp_path_factory.mktemp("models") / "tiny-siglip"
    words = save_tokenizer(folder, pad="<pad>")
    text = tower(
        vocab_size=words, max_position_embeddings=9, projection_size=32, eos_token_id=words - 1, pad_token_id=0
    )
    config = SiglipConfig(text_config=text | {"bos_token_id": 0}, vision_config=tower(image_size=32, patch_size=8))
    torch.manual_seed(0)
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(params=["tiny_clip", "tiny_siglip"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def encoder_of(folder: Path, dtype: str = "float32") -> Encoder:
    return load_encoder(str(folder), device="cpu", dtype=dtype)


def pixels(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_image_embeddings_features_and_grids_are_those_of_transformers(folder: Path) -> None:
    encoder, plain = encoder_of(folder), AutoModel.from_pretrained(folder)
    with torch.no_grad():
        embedding = plain.get_image_features(pixel_values=pixels()).pooler_output
        vision = plain.vision_model(pixel_values=pixels())
    output = encoder.encode_images(pixels(), grid=True)
    exact: dict[str, Any] = {"rtol": 0.0, "atol": 1e-5}
    torch.testing.assert_close(output.embedding, functional.normalize(embedding, dim=-1), **exact)
    torch.testing.assert_close(output.feature, vision.pooler_output, **exact)
    torch.testing.assert_close(output.grid, vision.last_hidden_state, **exact)
    assert output.embedding.shape == (3, encoder.embedding_dim)
    assert output.feature.shape == (3, encoder.feature_dim)
    assert output.grid is not None
    assert output.grid.shape[1:] == encoder.grid_shape
    assert encoder.encode_images(pixels()).grid is None


def test_what_it_says_of_itself(folder: Path) -> None:
    encoder, plain = encoder_of(folder), AutoModel.from_pretrained(folder)
    assert encoder.name == str(folder)
    assert encoder.n_parameters == plain.num_parameters()
    assert encoder.logit_scale == pytest.approx(plain.logit_scale.exp().item())
    assert encoder.preprocess.output_size == (32, 32)
    assert (encoder.device.type, encoder.dtype) == ("cpu", torch.float32)


def test_clip_texts_are_those_of_transformers_with_or_without_trimmed_padding(tiny_clip: Path) -> None:
    plain, tokenizer = AutoModel.from_pretrained(tiny_clip), AutoTokenizer.from_pretrained(tiny_clip)
    ours = encoder_of(tiny_clip).encode_texts(TEXTS)
    for text, vector in zip(TEXTS, ours, strict=True):
        for padding in ("max_length", False):
            tokens = tokenizer([text], padding=padding, truncation=True, max_length=POSITIONS, return_tensors="pt")
            with torch.no_grad():
                theirs = plain.get_text_features(**tokens).pooler_output
            torch.testing.assert_close(vector, functional.normalize(theirs, dim=-1)[0], rtol=0, atol=1e-5)


def test_siglip_texts_are_padded_to_full_length_and_unmasked_as_in_training(tiny_siglip: Path) -> None:
    plain, tokenizer = AutoModel.from_pretrained(tiny_siglip), AutoTokenizer.from_pretrained(tiny_siglip)
    tokens = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=9, return_tensors="pt")
    assert "attention_mask" in tokens
    with torch.no_grad():
        theirs = functional.normalize(plain.get_text_features(input_ids=tokens.input_ids).pooler_output, dim=-1)
        masked = functional.normalize(plain.get_text_features(**tokens).pooler_output, dim=-1)
    torch.testing.assert_close(encoder_of(tiny_siglip).encode_texts(TEXTS), theirs, rtol=0, atol=1e-5)
    assert not torch.allclose(masked, theirs, atol=1e-3)


def test_tokens_of_texts_are_the_last_states_of_the_text_tower(folder: Path) -> None:
    encoder = load_encoder(str(folder))
    texts = ["a red star", "dog"]
    states, mask = encoder.encode_text_tokens(texts)
    assert states.shape == (2, mask.shape[1], encoder.text_width)
    assert states.dtype == torch.float32
    alone, real = encoder.encode_text_tokens(texts[1:])
    length = int(real.sum())
    torch.testing.assert_close(states[1, :length], alone[0, :length], rtol=1e-4, atol=1e-5)
    assert mask[1].sum() == length
    with pytest.raises(InputError, match="text number 2 is empty"):
        encoder.encode_text_tokens(["a", " "])


def test_bfloat16_is_close_and_comes_out_in_float32(folder: Path) -> None:
    exact, half = encoder_of(folder), encoder_of(folder, "bfloat16")
    assert half.dtype == torch.bfloat16
    for ours, theirs in (
        (half.encode_images(pixels()).embedding, exact.encode_images(pixels()).embedding),
        (half.encode_texts(TEXTS), exact.encode_texts(TEXTS)),
    ):
        assert ours.dtype == torch.float32
        assert not torch.equal(ours, theirs)
        assert functional.cosine_similarity(ours, theirs).min() > 0.999


def edit_json(file: str, edit: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        edit(content)
        (folder / file).write_text(json.dumps(content))

    return change


def change_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["vision_model.post_layernorm.bias"][3] += 1e-3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


CHANGES = {
    "a weight": change_weight,
    "preprocessing": edit_json("preprocessor_config.json", lambda config: config.update(image_mean=[0.5, 0.5, 0.4])),
    "activation": edit_json("config.json", lambda config: config["vision_config"].update(hidden_act="relu")),
    "heads": edit_json("config.json", lambda config: config["vision_config"].update(num_attention_heads=4)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_fingerprint_changes_with_what_changes_features(
    folder: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    change(copy)
    assert encoder_of(copy).fingerprint != encoder_of(folder).fingerprint


def test_the_fingerprint_does_not_change_with_place_or_precision(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    fingerprint = encoder_of(folder).fingerprint
    assert len(fingerprint) == 64
    assert encoder_of(copy).fingerprint == encoder_of(folder, "bfloat16").fingerprint == fingerprint


def test_the_fingerprint_changes_with_the_vocabulary(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    text = (copy / "tokenizer.json").read_text()
    swapped = text.replace('"red"', '"#"').replace('"green"', '"red"').replace('"#"', '"green"')
    assert swapped != text
    (copy / "tokenizer.json").write_text(swapped)
    assert encoder_of(copy).fingerprint != encoder_of(folder).fingerprint
