"""From images to class probabilities with a saved classifier and its encoder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from conftest import save_clip
from crossgraft.encoders.load import load_encoder
from crossgraft.encoders.prompts import Prompts
from crossgraft.errors import InputError
from crossgraft.fewshot import get_method, load_classifier, save_classifier
from crossgraft.fewshot.data import ImageSplit, load_data
from crossgraft.fewshot.predictor import Predictor, adapter_folder

METHODS = ("zero-shot", "linear-probe", "xmadapter")


@pytest.fixture(scope="module")
def split(colours: Path) -> ImageSplit:
    return load_data(colours).train


def features(model: Path, paths: list[Path], key: str, dtype: str = "float32") -> torch.Tensor:
    encoder = load_encoder(str(model), device="cpu", dtype=dtype)
    output = encoder.encode_images(torch.stack([encoder.preprocess(path) for path in paths]))
    return output.embedding if key == "embedding" else torch.cat([output.embedding, output.feature], dim=1)


def save(
    model: Path, split: ImageSplit, folder: Path, method: str, key: str = "feature", dtype: str = "float32"
) -> Path:
    """Fit a method on three pictures a class and save it as `crossgraft fewshot` does."""
    encoder = load_encoder(str(model), device="cpu", dtype=dtype)
    classes = ["blue", "green", "red"]
    rows = [i for i in range(len(split)) if i % 7 < 3]
    support = split.take(rows)
    classifier = get_method(method)(text=Prompts().encode(encoder, classes).numpy(), classes=classes)
    classifier.fit(features(model, list(support.paths), key, dtype), [classes[label] for label in support.labels])
    described = {"name": encoder.name, "fingerprint": encoder.fingerprint, "dtype": dtype}
    extra = {"key": key, "support": [str(path) for path in support.paths]}
    return save_classifier(classifier, folder / method, encoder=described, extra=extra)


@pytest.fixture(scope="module")
def adapters(tiny_clip: Path, split: ImageSplit, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("run") / "adapters"
    return {method: save(tiny_clip, split, folder, method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_the_classifiers_own(
    adapters: dict[str, Path], tiny_clip: Path, split: ImageSplit, method: str
) -> None:
    paths = list(split.paths)
    predictor = Predictor.load(adapters[method], device="cpu")
    expected = load_classifier(adapters[method]).predict_proba(features(tiny_clip, paths, "feature"))
    predictions = predictor(paths, top=3)
    for path, row, prediction in zip(paths, expected, predictions, strict=True):
        assert prediction.image == str(path)
        values = dict(zip(["blue", "green", "red"], row.tolist(), strict=True))
        assert prediction.probabilities == pytest.approx(values, abs=1e-5)
        assert list(prediction.probabilities.values()) == sorted(prediction.probabilities.values(), reverse=True)
        assert (prediction.label, prediction.error, prediction.evidence) == (
            max(values, key=values.__getitem__),
            None,
            None,
        )
        assert prediction.probability == pytest.approx(max(row), abs=1e-5)
    assert [len(p.probabilities) for p in predictor(paths[:1], top=2) + predictor(paths[:1], top=99)] == [2, 3]


def test_a_broken_image_costs_itself_wherever_it_stands(
    adapters: dict[str, Path], split: ImageSplit, tmp_path: Path
) -> None:
    broken, absent = tmp_path / "broken.png", tmp_path / "absent.png"
    broken.write_bytes(split.paths[0].read_bytes()[:300])
    predictor = Predictor.load(adapters["xmadapter"], device="cpu")
    good = list(split.paths[:6])
    alone = predictor(good, explain=True)
    mixed = predictor([broken, *good[:3], absent, *good[3:], broken], explain=True)
    read = [p for p in mixed if p.error is None]
    assert [p.image for p in read] == [str(path) for path in good]
    for ours, theirs in zip(read, alone, strict=True):  # other batches: equal up to rounding
        assert (ours.label, ours.probabilities) == (theirs.label, pytest.approx(theirs.probabilities, abs=1e-4))
        assert ours.evidence.supports[0].weight == pytest.approx(theirs.evidence.supports[0].weight, abs=1e-4)
    failed = [(p.image, p.label, p.probability, p.probabilities, p.evidence) for p in mixed if p.error]
    assert failed == [(str(path), None, None, {}, None) for path in (broken, absent, broken)]
    assert [p.error for p in mixed if p.error][1] == "no such file"
    assert predictor([]) == []


def test_open_images_and_names_are_taken_as_paths_are(adapters: dict[str, Path], split: ImageSplit) -> None:
    predictor = Predictor.load(adapters["linear-probe"], device="cpu")
    path = split.paths[0]
    by_path, by_name, opened = predictor([path, str(path), Image.open(path)])
    assert by_path == by_name
    assert opened.image == "image 2"
    assert opened.probabilities == by_path.probabilities


def test_evidence_is_the_classifiers_own(adapters: dict[str, Path], tiny_clip: Path, split: ImageSplit) -> None:
    predictor = Predictor.load(adapters["xmadapter"], device="cpu")
    (prediction,) = predictor(list(split.paths[3:4]), explain=True)
    (own,) = predictor.classifier.explain(features(tiny_clip, list(split.paths[3:4]), "feature"))
    assert (prediction.evidence.label, prediction.evidence.probability) == (own.label, pytest.approx(own.probability))
    assert [vote.index for vote in prediction.evidence.supports] == [vote.index for vote in own.supports]
    with pytest.raises(InputError, match="linear-probe keeps no evidence"):
        Predictor.load(adapters["linear-probe"], device="cpu")(split.paths[:1], explain=True)


def test_key_and_precision_are_those_of_training(tiny_clip: Path, split: ImageSplit, tmp_path: Path) -> None:
    folder = save(tiny_clip, split, tmp_path, "linear-probe", key="embedding", dtype="bfloat16")
    predictor = Predictor.load(folder, device="cpu")
    assert predictor.encoder.dtype == torch.bfloat16
    path = split.paths[5]
    expected = load_classifier(folder).predict_proba(features(tiny_clip, [path], "embedding", "bfloat16"))
    assert predictor([path])[0].probability == pytest.approx(expected.max(), abs=1e-5)
    assert Predictor.load(folder, device="cpu", dtype="float32").encoder.dtype == torch.float32


def test_the_folder_may_be_the_adapter_or_a_run_of_one(adapters: dict[str, Path], tmp_path: Path) -> None:
    run = adapters["xmadapter"].parent.parent
    assert adapter_folder(adapters["xmadapter"]) == adapters["xmadapter"]
    with pytest.raises(InputError, match=r"holds 3 adapters; name one: .*linear-probe, .*xmadapter, .*zero-shot"):
        adapter_folder(run)
    shutil.copytree(adapters["xmadapter"], tmp_path / "adapters" / "mine")
    assert adapter_folder(tmp_path) == tmp_path / "adapters" / "mine"
    for nothing in (tmp_path / "adapters", tmp_path / "absent"):
        with pytest.raises(InputError, match="no adapter here"):
            adapter_folder(nothing)


def test_an_encoder_may_move_but_not_change(
    adapters: dict[str, Path], tiny_clip: Path, split: ImageSplit, tmp_path: Path
) -> None:
    moved = shutil.copytree(tiny_clip, tmp_path / "moved")
    here, there = (Predictor.load(adapters["xmadapter"], model=m, device="cpu") for m in (None, str(moved)))
    assert here(split.paths[:2]) == there(split.paths[:2])
    other = save_clip(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"adapter_config\.json: encoder\.fingerprint: made for .*tiny-clip"):
        Predictor.load(adapters["xmadapter"], model=str(other), device="cpu")


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def edit(config: dict[str, Any]) -> None:
        for key in keys[:-1]:
            config = config[key]
        del config[keys[-1]]

    return edit


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no encoder": without("encoder"),
    "no extra": without("extra"),
    "an encoder without a name": without("encoder", "name"),
    "an encoder without a precision": without("encoder", "dtype"),
    "an encoder without a fingerprint": without("encoder", "fingerprint"),
    "no key": without("extra", "key"),
    "an encoder of no text": lambda config: config.update(encoder=["tiny"]),
    "a number as name": lambda config: config["encoder"].update(name=3),
    "an unknown precision": lambda config: config["encoder"].update(dtype="int4"),
    "an unknown encoder": lambda config: config["encoder"].update(name="/nowhere/at/all"),
    "an unknown key": lambda config: config["extra"].update(key="pixels"),
    "a key of no text": lambda config: config["extra"].update(key=["feature"]),
    "a support of no list": lambda config: config["extra"].update(support=7),
    "an edited fingerprint": lambda config: config["encoder"].update(fingerprint="0" * 64),
}


@pytest.mark.parametrize("edit", HOSTILE.values(), ids=HOSTILE.keys())
def test_an_edited_configuration_is_refused(
    adapters: dict[str, Path], tmp_path: Path, edit: Callable[[dict[str, Any]], Any]
) -> None:
    folder = Path(shutil.copytree(adapters["xmadapter"], tmp_path / "edited"))
    config = json.loads((folder / "adapter_config.json").read_text())
    edit(config)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"adapter_config\.json|cannot load|dtype"):
        Predictor.load(folder, device="cpu")


def test_an_adapter_of_another_width_is_refused(
    adapters: dict[str, Path], tiny_clip: Path, split: ImageSplit, tmp_path: Path
) -> None:
    """A key that does not go with the tensors: found when the first image is predicted, and said."""
    folder = Path(shutil.copytree(adapters["xmadapter"], tmp_path / "edited"))
    config = json.loads((folder / "adapter_config.json").read_text())
    config["extra"]["key"] = "embedding"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="16 features"):
        Predictor.load(folder, device="cpu")(split.paths[:1])


def test_one_image_has_to_be_in_a_list(adapters: dict[str, Path], colours: Path) -> None:
    predictor = Predictor.load(adapters["zero-shot"], device="cpu")
    photo = colours / "red" / "0_6.png"
    for one in (photo, str(photo), Image.open(photo)):
        with pytest.raises(InputError, match="expected a list of images"):
            predictor(one)  # type: ignore[arg-type]
    assert [p.image for p in predictor([Image.open(photo)] * 6)] == [f"image {i}" for i in range(6)]


def test_an_output_folder_means_the_adapter_of_its_last_run(adapters: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(adapters["zero-shot"].parent, tmp_path / "adapters")
    (tmp_path / "adapters" / ".proker.0.tmp").mkdir()
    (tmp_path / "adapters" / ".proker.0.tmp" / "adapter_config.json").touch()
    (tmp_path / "results.json").write_text('{"method": "linear-probe"}')
    assert adapter_folder(tmp_path) == tmp_path / "adapters" / "linear-probe"
