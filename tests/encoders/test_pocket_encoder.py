"""The pocket encoders, on their real weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from conftest import EMOJI
from crossgraft.encoders.alignment import Alignment
from crossgraft.encoders.base import Encoder
from crossgraft.encoders.drawn_text import draw_text
from crossgraft.encoders.load import load_encoder
from crossgraft.encoders.pocket import ClipLiteTower, LiteTower
from crossgraft.encoders.prompts import Prompts
from crossgraft.errors import InputError

SENTENCES = ["a dog", "a photo of a small dog that plays in the snow", "a truck"]


def photos(encoder: Encoder, *names: str) -> Tensor:
    return torch.stack([encoder.preprocess(EMOJI / "noto" / f"{name}.webp") for name in names])


def test_without_its_files_it_says_how_to_get_them() -> None:
    with pytest.raises(
        InputError, match=r"pocket-lite is not on this machine yet: run `crossgraft models pull pocket-lite`"
    ):
        load_encoder("pocket-lite")


@pytest.fixture(scope="module")
def lite(pocket_home: Path) -> Encoder:
    return load_encoder("pocket-lite", device="cpu")


@pytest.mark.pocket
def test_lite_gives_what_it_announces(lite: Encoder) -> None:
    pixels = photos(lite, "bird/owl", "fruit/apple", "heart/heart")
    output = lite.encode_images(pixels, grid=True)
    assert output.embedding.shape == (3, lite.embedding_dim) == (3, 1000)
    assert output.feature.shape == (3, lite.feature_dim) == (3, 1280)
    assert output.grid is not None
    assert output.grid.shape == (3, *lite.grid_shape) == (3, 49, 1280)
    torch.testing.assert_close(output.grid.mean(1), output.feature)
    torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones(3))
    assert all(part.dtype == torch.float32 for part in output)
    assert lite.encode_images(pixels[:1]).grid is None


@pytest.mark.pocket
def test_an_image_does_not_depend_on_its_batch(lite: Encoder) -> None:
    pixels = photos(lite, "bird/owl", "fruit/apple", "heart/heart")
    together, alone = lite.encode_images(pixels), lite.encode_images(pixels[1:2])
    torch.testing.assert_close(together.embedding[1:2], alone.embedding, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.feature[1:2], alone.feature, rtol=0, atol=1e-4)


@pytest.mark.pocket
def test_it_names_what_emoji_show(lite: Encoder) -> None:
    """Zero-shot, six classes: far above chance (1 in 6)."""
    classes = ["bird", "building", "clothing", "fruit", "music", "vehicle"]
    listed = json.loads((EMOJI / "noto.json").read_text(encoding="utf-8"))["test"]
    shown = [(path.removeprefix("noto/").removesuffix(".webp"), name) for path, _, name in listed if name in classes]
    images = torch.cat([lite.encode_images(photos(lite, name)).embedding for name, _ in shown])
    predicted = (images @ Prompts().encode(lite, classes).T).argmax(1).tolist()
    right = [classes[row] == name for row, (_, name) in zip(predicted, shown, strict=True)]
    assert sum(right) / len(right) > 0.6, sum(right) / len(right)


@pytest.mark.pocket
def test_texts_mean_what_they_say_whatever_their_batch(lite: Encoder) -> None:
    together = lite.encode_texts(SENTENCES)
    alone = torch.cat([lite.encode_texts([text]) for text in SENTENCES])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    cosine = together @ together.T
    assert cosine[0, 1] > cosine[0, 2] + 0.05


def minilm(folder: Path, text: str) -> Tensor:
    """The plain model's mean over all tokens (1, 384), also of a text beyond the tokenizer file's own limit."""
    plain, tokenizer = AutoModel.from_pretrained(folder / "text"), AutoTokenizer.from_pretrained(folder / "text")
    with torch.no_grad():
        states = plain(input_ids=tokenizer(text, truncation=False, return_tensors="pt").input_ids).last_hidden_state
    return functional.normalize(states.mean(1), dim=-1)


def alignment(folder: Path) -> Alignment:
    settings = json.loads((folder / "crossgraft.json").read_text())["alignment"]
    return Alignment(load_file(folder / "alignment.safetensors"), settings)


@pytest.mark.pocket
@pytest.mark.parametrize("text", ["a truck", "every word counts here " * 40])
def test_texts_are_minilm_s_aligned(lite: Encoder, pocket_home: Path, text: str) -> None:
    folder = pocket_home / "models" / "pocket-lite"
    expected = alignment(folder).text(minilm(folder, text))
    torch.testing.assert_close(lite.encode_texts([text]), expected, rtol=0, atol=1e-5)


@pytest.mark.pocket
def test_a_folder_is_as_good_as_the_name_and_bfloat16_is_close(lite: Encoder, pocket_home: Path) -> None:
    half = load_encoder(str(pocket_home / "models" / "pocket-lite"), device="cpu", dtype="bfloat16")
    assert half.fingerprint == lite.fingerprint
    assert len(lite.fingerprint) == 64
    pixels = photos(lite, "bird/owl", "fruit/apple")
    for ours, theirs in (
        (half.encode_images(pixels).feature, lite.encode_images(pixels).feature),
        (half.encode_texts(SENTENCES), lite.encode_texts(SENTENCES)),
    ):
        assert ours.dtype == torch.float32
        assert functional.cosine_similarity(ours, theirs).min() > 0.99


def edit_manifest(**values: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "crossgraft.json").read_text())
        (folder / "crossgraft.json").write_text(json.dumps(manifest | values))

    return damage


def cut(name: str) -> Callable[[Path], None]:
    """Half the file, in place of the link to the real one."""

    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def missing(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def narrow_alignment(folder: Path) -> None:
    tensors = load_file(folder / "alignment.safetensors")
    (folder / "alignment.safetensors").unlink()
    save_file({"text_mean": tensors["text_mean"]}, folder / "alignment.safetensors")


DAMAGE = {
    "a list as manifest": lambda folder: (folder / "crossgraft.json").write_text("[]"),
    "another tower": edit_manifest(vision="resnet"),
    "no alignment settings": edit_manifest(alignment={}),
    "settings of the first alignments": edit_manifest(alignment={"temperature": 1.5, "logit_scale": 16}),
    "a word as logit scale": edit_manifest(alignment={"temperature": 1, "sharpness": 5, "logit_scale": "large"}),
    "half an alignment": cut("alignment.safetensors"),
    "an alignment without class names": narrow_alignment,
    "no alignment": missing("alignment.safetensors"),
    "half an image tower": cut("vision/model.safetensors"),
    "no preprocessing": missing("vision/preprocessor_config.json"),
    "half a text tower": cut("text/model.safetensors"),
    "no text tower": missing("text/model.safetensors"),
    "no tokenizer": missing("text/tokenizer.json"),
    "half a tokenizer": cut("text/tokenizer.json"),
}


@pytest.mark.pocket
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_folder_is_refused_by_name(pocket_home: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(pocket_home / "models" / "pocket-lite", folder, copy_function=lambda a, b: Path(b).symlink_to(a))
    manifest = (folder / "crossgraft.json").read_bytes()
    (folder / "crossgraft.json").unlink()
    (folder / "crossgraft.json").write_bytes(manifest)
    damage(folder)
    with pytest.raises(InputError, match=str(folder)):
        load_encoder(str(folder), device="cpu")


@pytest.fixture(scope="module")
def clip(pocket_home: Path) -> Encoder:
    return load_encoder("pocket-clip", device="cpu")


@pytest.mark.pocket
def test_clip_gives_what_it_announces(clip: Encoder) -> None:
    output = clip.encode_images(photos(clip, "bird/owl", "fruit/apple"), grid=True)
    assert output.embedding.shape == (2, clip.embedding_dim) == (2, 1000 + 384 + 512)
    assert output.feature.shape == (2, clip.feature_dim) == (2, 768)
    assert output.grid is not None
    assert output.grid.shape == (2, *clip.grid_shape) == (2, 197, 768)
    torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(clip.encode_texts(SENTENCES).norm(dim=1), torch.ones(3))


@pytest.mark.pocket
def test_its_features_tell_classes_apart(clip: Encoder) -> None:
    """Two birds look more alike than a bird and a house; so the real weights are where they belong."""
    features = clip.encode_images(photos(clip, "bird/eagle", "bird/duck", "building/house")).feature
    alike, other = functional.cosine_similarity(features[0], features[1:]).tolist()
    assert alike > other + 0.03


@pytest.mark.pocket
def test_lite0_sees_the_same_pixels_in_its_own_normalisation(clip: Encoder, pocket_home: Path) -> None:
    vision = pocket_home / "models" / "pocket-clip" / "vision"
    pixels = photos(clip, "fruit/apple")
    mean, std = (torch.tensor(part)[:, None, None] for part in (clip.preprocess.mean, clip.preprocess.std))
    levels = (pixels * std + mean) * 255  # grey levels again
    with torch.inference_mode():
        _, feature, views = ClipLiteTower(vision, clip.preprocess).eval()(pixels)
        _, _, lite = LiteTower(vision / "lite", clip.preprocess).eval()((levels - 127) / 128)
    torch.testing.assert_close(views["imagenet"], lite["imagenet"], rtol=0, atol=1e-2)
    assert views["clip"].shape == (1, 512)
    torch.testing.assert_close(clip.encode_images(pixels).feature, feature, rtol=0, atol=1e-3)


@pytest.mark.pocket
def test_clip_reads_drawn_texts(clip: Encoder, pocket_home: Path) -> None:
    """Texts are MiniLM's and CLIP's aligned, and the drawn words alone tell pictures apart."""
    folder = pocket_home / "models" / "pocket-clip"
    words, names = ["owl", "apple", "house"], ("bird/owl", "fruit/apple", "building/house")
    pixels = torch.stack([clip.preprocess(draw_text(word)) for word in words])
    with torch.inference_mode():
        _, _, read = ClipLiteTower(folder / "vision", clip.preprocess).eval()(pixels)
        _, _, seen = ClipLiteTower(folder / "vision", clip.preprocess).eval()(photos(clip, *names))
    align = alignment(folder)
    expected = align.text(torch.cat([minilm(folder, word) for word in words]), read["clip"])
    torch.testing.assert_close(clip.encode_texts(words), expected, rtol=0, atol=1e-3)
    drawn = align.text_parts(torch.ones(3, 384), read["clip"])[2]
    assert (align.image_parts(seen)[2] @ drawn.T).argmax(1).tolist() == [0, 1, 2]
