"""Exported files give what PyTorch gives, say what they are, and do not appear if they do not agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

from conftest import Cli, save_tokenizer, tower
from crossgraft.encoders.load import load_encoder
from crossgraft.errors import CrossgraftError, InputError
from crossgraft.fewshot import METHODS, load_classifier, save_classifier
from crossgraft.fewshot.predictor import Predictor
from crossgraft.serving import onnx_export
from crossgraft.serving.heads import Head
from crossgraft.serving.onnx_export import export_onnx, probe_pixels

CLASSES = ["ant", "bee", "cat", "dog"]
D, F = 6, 10


def features(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, D + F, generator=torch.Generator().manual_seed(seed))


def save_head(method: str, folder: Path, **params: Any) -> Path:
    text = torch.randn(len(CLASSES), D, generator=torch.Generator().manual_seed(5))
    classifier = METHODS[method](text=text, classes=CLASSES, **params).fit(features(16, 1), np.repeat(CLASSES, 4))
    return save_classifier(classifier, folder)


def run(file: Path, values: torch.Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    outputs = [each.name for each in session.get_outputs()]
    assert outputs == ["logits", "probabilities"]
    return dict(zip(outputs, session.run(outputs, {name: values.numpy()}), strict=True))


def operators(file: Path) -> list[str]:
    return [node.op_type for node in onnx.load(file).graph.node]


@pytest.mark.parametrize("method", METHODS)
def test_the_head_of_every_method_on_batches_of_any_size(method: str, tmp_path: Path) -> None:
    adapter = save_head(method, tmp_path / "adapter")
    report = export_onnx(adapter, tmp_path / "head.onnx", head_only=True)
    classifier = load_classifier(adapter)
    for n in (1, 2, 33):
        outputs = run(tmp_path / "head.onnx", features(n, n))
        np.testing.assert_allclose(outputs["probabilities"], classifier.predict_proba(features(n, n)), atol=1e-4)
        logits = classifier.logits(features(n, n)).numpy()
        np.testing.assert_allclose(outputs["logits"], logits, atol=1e-4 * max(1, np.abs(logits).max()))
    products = [name for name in operators(tmp_path / "head.onnx") if name in ("Gemm", "MatMul")]
    assert (products == ["Gemm"]) == report["linear"]
    assert report["agreement"]["max_probability_difference"] < report["agreement"]["tolerance"] == 1e-4


@pytest.mark.parametrize("method", ["xmadapter", "auto"])
def test_a_head_with_an_empty_tensor_as_wide_as_its_features(method: str, tmp_path: Path) -> None:
    # One photo a class shows no nuisance, and auto holds no linear head; the embedding is its own key.
    X = features(4, 1)
    classifier = METHODS[method](text=features(4, 5), classes=CLASSES).fit(X, CLASSES)
    assert any(not len(getattr(classifier, name)) for name, of in classifier.state.items() if of)
    export_onnx(save_classifier(classifier, tmp_path / "a"), tmp_path / "head.onnx", head_only=True)
    outputs = run(tmp_path / "head.onnx", X)
    np.testing.assert_allclose(outputs["probabilities"], classifier.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("opset", [18, 23])
def test_another_opset(tmp_path: Path, opset: int) -> None:
    export_onnx(save_head("xmadapter", tmp_path / "a"), tmp_path / "head.onnx", head_only=True, opset=opset)
    (imported,) = onnx.load(tmp_path / "head.onnx").opset_import
    assert imported.version == opset


def test_calibrated_probabilities_are_exported(tmp_path: Path) -> None:
    text = torch.randn(len(CLASSES), D, generator=torch.Generator().manual_seed(5))
    classifier = METHODS["gda"](text=text, classes=CLASSES).fit(features(16, 1), np.repeat(CLASSES, 4)).calibrate()
    assert classifier.calibration_ is not None
    report = export_onnx(save_classifier(classifier, tmp_path / "a"), tmp_path / "head.onnx", head_only=True)
    assert report["calibration_temperature"] == pytest.approx(classifier.calibration_.temperature)
    outputs = run(tmp_path / "head.onnx", features(7, 3))
    np.testing.assert_allclose(outputs["probabilities"], classifier.predict_proba(features(7, 3)), atol=1e-4)
    plain = torch.from_numpy(outputs["logits"]).softmax(1).numpy()
    assert np.abs(outputs["probabilities"] - plain).max() > 1e-3


def save_siglip(folder: Path) -> Path:
    words = save_tokenizer(folder, pad="<pad>")
    text = tower(
        vocab_size=words, max_position_embeddings=9, projection_size=32, eos_token_id=words - 1, pad_token_id=0
    )
    config = SiglipConfig(text_config=text | {"bos_token_id": 0}, vision_config=tower(image_size=32, patch_size=8))
    torch.manual_seed(0)
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


Adapter = Callable[..., Path]


@pytest.fixture(scope="module")
def adapter_of(cli: Cli, colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """Train `method` on the colours with an encoder; returns the adapter folder."""

    def train(model: object, method: str, *options: object) -> Path:
        out = tmp_path_factory.mktemp("run")
        arguments = ("--model", model, "--out", out / "out", "--store", out / "store", "--device", "cpu")
        outcome = cli("fewshot", colours, *arguments, "--method", method, "--shots", 3, "--seeds", 1, *options)
        assert outcome.code == 0, outcome.err
        return out / "out" / "adapters" / method

    return train


@dataclass(frozen=True)
class Exported:
    """An export of a kernel method on the tiny CLIP."""

    adapter: Path
    file: Path
    report: dict[str, Any]


@pytest.fixture(scope="module")
def exported(adapter_of: Adapter, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Exported once for all tests that look at the result: it takes seconds."""
    adapter, file = adapter_of(tiny_clip, "proker"), tmp_path_factory.mktemp("export") / "model.onnx"
    return Exported(adapter, file, export_onnx(adapter, file))


def check_whole(exported: Exported, photos: list[Path]) -> None:
    """The file gives what the float32 predictor gives, on photos that the export's own check has not seen."""
    predictor = Predictor.load(exported.adapter, device="cpu", dtype="float32")
    pixels = torch.stack([predictor.encoder.preprocess(photo) for photo in photos])
    classes = exported.report["classes"]
    for n in (1, len(photos)):
        outputs = run(exported.file, pixels[:n])
        for row, prediction in zip(outputs["probabilities"], predictor(photos[:n], top=99), strict=True):
            assert classes[row.argmax()] == prediction.label
            assert prediction.probabilities == pytest.approx(dict(zip(classes, row.tolist(), strict=True)), abs=1e-4)


def test_a_whole_classifier_of_clip(exported: Exported, tiny_clip: Path, colours: Path) -> None:
    check_whole(exported, sorted(colours.glob("*/0_6.png")))
    assert exported.report["agreement"]["checked_on"] == "8 support photos"
    size = sum(value.numel() for value in load_encoder(str(tiny_clip), device="cpu").image_tower.parameters()) * 4
    assert exported.report["bytes"] < 2 * size + 100_000  # no text tower in it


def test_siglip_in_int8_is_exported_in_float32(adapter_of: Adapter, colours: Path, tmp_path: Path) -> None:
    (tmp_path / "siglip").mkdir()
    adapter = adapter_of(save_siglip(tmp_path / "siglip"), "linear-probe", "--dtype", "int8")
    report = export_onnx(adapter, tmp_path / "m.onnx")
    assert report["encoder"]["dtype"] == "int8"
    check_whole(Exported(adapter, tmp_path / "m.onnx", report), sorted(colours.glob("*/0_6.png")))


def test_the_file_says_what_it_is(exported: Exported, tiny_clip: Path) -> None:
    report = exported.report
    assert json.loads(exported.file.with_name("model.onnx.json").read_text()) == report
    model = onnx.load(exported.file)
    onnx.checker.check_model(model)
    about = {entry.key: entry.value for entry in model.metadata_props}
    encoder = load_encoder(str(tiny_clip), device="cpu")
    assert json.loads(about["preprocess"]) == encoder.preprocess.to_dict()
    assert json.loads(about["classes"]) == ["blue", "green", "red"]
    assert json.loads(about["encoder"])["fingerprint"] == encoder.fingerprint
    assert about["method"] == "proker"
    assert set(about) == set(report) - {"bytes", "sha256", "agreement"}
    assert str(Path(onnx_export.__file__).parent).encode() not in exported.file.read_bytes()  # nor whose it is
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]] == [3, 32, 32]


@pytest.mark.parametrize("photo", ["red/0_6.png", "green/0_5.png", "blue/0_4.png"])
def test_the_documented_lines_predict_what_crossgraft_does(
    exported: Exported, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: str
) -> None:
    (tmp_path / "model.onnx").symlink_to(exported.file)
    (tmp_path / "photo.webp").symlink_to(colours / photo)
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "export.md"
    lines = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    found: dict[str, Any] = {}
    exec(lines, found)
    predictor = Predictor.load(exported.adapter, device="cpu")
    np.testing.assert_allclose(found["pixels"][0], predictor.encoder.preprocess(colours / photo), atol=1e-5)
    (prediction,) = predictor([colours / photo])
    assert found["label"] == prediction.label
    assert found["probabilities"].max() == pytest.approx(prediction.probability, abs=1e-4)


def test_support_photos_that_are_gone_give_way_to_random_pictures(colours: Path, tiny_clip: Path) -> None:
    preprocess = load_encoder(str(tiny_clip), device="cpu").preprocess
    there, gone = str(colours / "red" / "0_6.png"), str(colours / "gone.png")
    pixels, said = probe_pixels(preprocess, [gone, there])
    assert (tuple(pixels.shape), said) == ((1, 3, 32, 32), "1 support photos")
    pixels, said = probe_pixels(preprocess, [gone])
    assert (tuple(pixels.shape), said) == ((8, 3, 32, 32), "8 random pictures")


def test_a_graph_that_does_not_agree_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = save_head("gda", tmp_path / "adapter")

    class Off(Head):
        def forward(self, X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits, _ = super().forward(X)
            return logits + 2e-3 * X[:, :1].abs(), (logits * 1.01).softmax(1)

    monkeypatch.setattr(onnx_export, "Head", Off)
    (tmp_path / "out").mkdir()
    with pytest.raises(CrossgraftError, match="does not give what PyTorch gives") as error:
        export_onnx(adapter, tmp_path / "out" / "head.onnx", head_only=True)
    assert error.value.exit_code == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_a_method_that_cannot_be_traced_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """len() of a batch is a number to a tracer, and so would only serve batches of that number."""
    adapter = save_head("proker", tmp_path / "adapter")
    monkeypatch.setattr(METHODS["proker"], "_logits", lambda self, embedding, key: key.new_ones(len(key), 4).cumsum(1))
    monkeypatch.setattr("crossgraft.serving.heads.linear_form", lambda classifier: None)
    with pytest.raises(CrossgraftError, match=r"proker .*cannot be traced for ONNX: .*static shape of 2"):
        export_onnx(adapter, tmp_path / "head.onnx", head_only=True)
    assert not (tmp_path / "head.onnx").exists()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("head.pt", {}, "ends in .onnx"),
        ("head.onnx", {"opset": 9}, "opset 9 cannot be written; choose 18 to 23"),
        ("head.onnx", {"head_only": False}, "encoder and extra do not say what made the features"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, name: str, options: dict[str, Any], said: str) -> None:
    adapter = save_head("gda", tmp_path / "adapter")
    with pytest.raises(InputError, match=said):
        export_onnx(adapter, tmp_path / name, **{"head_only": True} | options)
    assert not (tmp_path / name).exists()


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "head.onnx").mkdir()
    with pytest.raises(InputError, match="not a folder"):
        export_onnx(save_head("gda", tmp_path / "adapter"), tmp_path / "head.onnx", head_only=True)


def test_an_encoder_too_large_for_one_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "ONE_FILE", 100)
    with pytest.raises(InputError, match="export the head only"):
        export_onnx(save_head("gda", tmp_path / "adapter"), tmp_path / "head.onnx", head_only=True)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = onnx_export.importlib.util.find_spec
    monkeypatch.setattr(
        onnx_export.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    with pytest.raises(InputError, match=r"export needs onnxruntime: run `pip install crossgraft\[onnx\]`"):
        export_onnx(tmp_path, tmp_path / "m.onnx")
