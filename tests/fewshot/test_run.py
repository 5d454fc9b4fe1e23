"""The few-shot experiment: what is drawn, encoded once, fitted and scored."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from conftest import make_colours
from crossgraft.encoders.base import Encoder
from crossgraft.encoders.load import load_encoder
from crossgraft.encoders.prompts import Prompts
from crossgraft.encoders.store import FeatureStore
from crossgraft.errors import InputError
from crossgraft.fewshot import METHODS, get_method
from crossgraft.fewshot.data import ImageData, ImageSplit, TestImages, load_data, load_test_data
from crossgraft.fewshot.run import FewShotRun, Fit, run_fewshot


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(str(tiny_clip), device="cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: each picture is encoded once."""
    return tmp_path_factory.mktemp("features") / "store"


@pytest.fixture(scope="module")
def data(colours: Path) -> ImageData:
    return load_data(colours)


def start(data: ImageData, encoder: Encoder, store: Path, **options: Any) -> FewShotRun:
    defaults: dict[str, Any] = {"methods": ["nearest-mean"], "shots": [2], "seeds": [1], "progress": False}
    return run_fewshot(data, encoder, store, **defaults | options)


def with_splits(data: ImageData) -> ImageData:
    """Four pictures a class to train, two to validate, one to test."""
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for c in range(3):
        rows = [i for i, label in enumerate(data.train.labels) if label == c]
        for part, chosen in (("train", rows[:4]), ("val", rows[4:6]), ("test", rows[6:])):
            parts[part] += chosen
    train, val, test = (data.train.take(rows) for rows in parts.values())
    return replace(data, train=train, val=val, test=test.sealed(data.classes))


def score_by_hand(fit: Fit, encoder: Encoder, test: TestImages, key: str) -> float:
    """Accuracy in percent of a fitted classifier, its features straight from the encoder."""
    output = encoder.encode_images(torch.stack([encoder.preprocess(path) for path in test.paths]))
    X = output.embedding if key == "embedding" else torch.cat([output.embedding, output.feature], dim=1)
    return test.labels.score(fit.classifier.predict(X))["accuracy"]


def test_every_method_shots_and_seed_is_fitted_on_nested_supports_and_scored_on_what_is_left(
    data: ImageData, encoder: Encoder, store: Path
) -> None:
    told: list[Fit] = []
    run = start(data, encoder, store, methods=list(METHODS), shots=[1, 3], seeds=[1, 2], on_fit=told.append)
    assert told == run.fits
    combinations = {(fit.method, fit.shots, fit.seed) for fit in run.fits}
    assert len(run.fits) == len(combinations) == len(METHODS) * 2 * 2
    supports = {(fit.shots, fit.seed): fit.support for fit in run.fits}
    for fit in run.fits:
        assert fit.support == supports[fit.shots, fit.seed]  # the same for every method
        assert [path.parent.name for path in fit.support] == sorted(["blue", "green", "red"] * int(fit.shots))
        left = [i for i, path in enumerate(data.train.paths) if path not in supports[3, fit.seed]]
        assert len(left) == 12
        expected = score_by_hand(fit, encoder, data.train.take(left).sealed(data.classes), "feature")
        assert fit.metrics["test"]["accuracy"] == pytest.approx(expected)
        assert fit.query_microseconds is not None
    for seed in (1, 2):
        assert set(supports[1, seed]) < set(supports[3, seed])
    assert supports[3, 1] != supports[3, 2]
    learned = [fit.metrics["test"]["accuracy"] for fit in run.fits if fit.method == "linear-probe"]
    assert min(learned) > 90  # red, green and blue are easy even for random weights
    assert run.skipped == []
    assert run.warnings == []


def test_the_same_run_again_encodes_nothing_and_scores_the_same(
    data: ImageData, encoder: Encoder, store: Path, tmp_path: Path
) -> None:
    methods = ["zero-shot", "tip-adapter-f", "xmadapter"]
    runs = [start(data, encoder, tmp_path / "store", methods=methods, shots=[1], seeds=[3])]
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "shards").iterdir()}
    runs.append(start(data, encoder, tmp_path / "store", methods=methods, shots=[1], seeds=[3]))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "shards").iterdir()} == shards
    assert [fit.metrics for fit in runs[0].fits] == [fit.metrics for fit in runs[1].fits]
    hashes = FeatureStore.open(tmp_path / "store").hashes
    assert len(hashes) == len(data.train)


@pytest.mark.parametrize("key", ["feature", "embedding"])
def test_the_key_decides_what_caches_compare(data: ImageData, encoder: Encoder, store: Path, key: str) -> None:
    run = start(with_splits(data), encoder, store, methods=["tip-adapter"], key=key)
    (fit,) = run.fits
    width = encoder.embedding_dim + (encoder.feature_dim if key == "feature" else 0)
    assert fit.classifier.n_features_in_ == width
    test = with_splits(data).test
    assert test is not None
    assert fit.metrics["test"]["accuracy"] == score_by_hand(fit, encoder, test, key)


def test_texts_come_from_the_prompts_and_the_scale_from_the_encoder(
    data: ImageData, encoder: Encoder, store: Path
) -> None:
    prompts = Prompts(("the {} heart",))
    run = start(data, encoder, store, methods=["zero-shot"], prompts=prompts)
    text = prompts.encode(encoder, data.classes)
    torch.testing.assert_close(run.text, text[:, None])  # one text a class
    classifier = run.fits[0].classifier
    torch.testing.assert_close(classifier.text_, text, rtol=0, atol=1e-6)
    assert classifier.get_params()["logit_scale"] == encoder.logit_scale
    assert classifier.classes_.tolist() == list(data.classes)


def test_augmented_views_are_averaged_as_unit_vectors(data: ImageData, encoder: Encoder, tmp_path: Path) -> None:
    """A nearest mean of one shot shows its support: the mean of photo and views."""
    run = start(data, encoder, tmp_path / "store", methods=["tip-adapter"], shots=[1], views=3, key="embedding")
    (fit,) = run.fits
    plain, views = FeatureStore.open(tmp_path / "store"), FeatureStore.open(tmp_path / "store-views3")
    assert len(views.hashes) == 3  # the support alone
    assert len(plain.hashes) == len(data.train)
    parts = torch.cat([views.gather(views.hashes)[:, None], views.gather(views.hashes, "embedding_views")], dim=1)
    means = functional.normalize(parts, dim=-1).mean(1)
    keys = {tuple(row.tolist()) for row in functional.normalize(means, dim=-1).round(decimals=4)}
    assert {tuple(row.tolist()) for row in fit.classifier.keys_.round(decimals=4)} == keys


# -- what is recorded


def test_the_last_shots_and_the_first_seed_are_recorded_image_by_image(
    data: ImageData, encoder: Encoder, store: Path
) -> None:
    run = start(data, encoder, store, methods=["proker", "gda"], shots=[1, 2], seeds=[2, 1])
    assert [(f.method, f.shots, f.seed) for f in run.fits if f.records] == [("proker", 2, 2), ("gda", 2, 2)]
    for fit in run.fits:
        assert len(fit.support_hashes) == len(set(fit.support_hashes)) == len(fit.support)
        if not fit.records:
            continue
        record = fit.records["test"]
        paths = record.features.paths
        assert [data.classes[row] for row in record.truth] == [path.parent.name for path in paths]
        assert (record.truth == record.predicted).mean() * 100 == pytest.approx(fit.metrics["test"]["accuracy"])
        assert record.answers.labels.tolist() == fit.classifier.predict(record.features.X).tolist()
        proba = fit.classifier.predict_proba(record.features.X)
        np.testing.assert_allclose(record.answers.probability, proba.max(axis=1), rtol=1e-6)
        assert (record.answers.top[:, 0] == record.predicted).all()
        assert (record.evidence is not None) == (fit.method == "proker")
        for one in record.evidence or []:
            assert one["hit"] == (record.truth[one["index"]] == record.predicted[one["index"]])
            assert one["label"] == data.classes[record.predicted[one["index"]]]


# -- protocols


def grid_params(fit: Fit) -> dict[str, Any]:
    return {name: fit.classifier.get_params()[name] for name in fit.classifier.grid}


def test_none_looks_at_no_validation_label(data: ImageData, encoder: Encoder, store: Path) -> None:
    right = with_splits(data)
    assert right.val is not None
    wrong = replace(right, val=ImageSplit(right.val.paths, tuple((label + 1) % 3 for label in right.val.labels)))
    for part in (right, wrong):
        (fit,) = start(part, encoder, store, methods=["gda"]).fits
        assert grid_params(fit) == {name: get_method("gda")().get_params()[name] for name in fit.classifier.grid}


@pytest.mark.parametrize(("protocol", "shots", "seen"), [("min4", 1, 1), ("min4", 2, 2), ("full", 1, 2)])
def test_min4_and_full_tune_on_what_they_may_see(
    data: ImageData, encoder: Encoder, store: Path, protocol: str, shots: int, seen: int
) -> None:
    """The winner is the one that tuning on those very pictures gives."""
    splits = with_splits(data)
    assert splits.val is not None
    run = start(splits, encoder, store, methods=["proker"], shots=[shots], protocol=protocol)
    (fit,) = run.fits
    plain = start(splits, encoder, store, methods=["proker"], shots=[shots]).fits[0].classifier
    candidates = []
    for rows in [[i for i, label in enumerate(splits.val.labels) if label == c] for c in range(3)]:
        candidates.append([rows] if seen == 2 else [[row] for row in rows])
    winners = []
    for choice in np.ndindex(*(len(rows) for rows in candidates)):
        chosen = splits.val.take([row for rows, one in zip(candidates, choice, strict=True) for row in rows[one]])
        output = encoder.encode_images(torch.stack([encoder.preprocess(path) for path in chosen.paths]))
        X = torch.cat([output.embedding, output.feature], dim=1)
        plain.tune(X, np.array(data.classes)[list(chosen.labels)])
        winners.append({name: plain.get_params()[name] for name in plain.grid})
    assert grid_params(fit) in winners
    if seen == 2:
        assert len(winners) == 1


def test_min4_without_a_validation_split_holds_photos_out_for_each_number_of_shots(
    data: ImageData, encoder: Encoder, store: Path
) -> None:
    """Two shots leave five photos a class: two to validate, three to test; one shot sees one of the two."""
    run = start(data, encoder, store, methods=["gda"], shots=[1, 2], protocol="min4")
    assert [fit.metrics["test"].keys() for fit in run.fits] == [{"accuracy", "macro_accuracy", "calibration_error"}] * 2
    with pytest.raises(InputError, match="4 shots, 4 for validation and 1 to test on"):
        start(data, encoder, store, shots=[1, 4], protocol="min4")
    start(data, encoder, store, shots=[1, 4])


def test_protocols_that_the_data_does_not_allow_are_refused(data: ImageData, encoder: Encoder, store: Path) -> None:
    with pytest.raises(InputError, match="protocol full needs a validation split"):
        start(data, encoder, store, protocol="full")
    with pytest.raises(InputError, match="protocol 'best' is unknown"):
        start(data, encoder, store, protocol="best")
    with pytest.raises(InputError, match="shots all leaves nothing to validate on"):
        start(data, encoder, store, protocol="min4", shots=["all"])


# -- test sets


def test_all_photos_leave_nothing_to_test_on_unless_tests_are_given(
    data: ImageData, encoder: Encoder, store: Path, tmp_path: Path
) -> None:
    (fit,) = start(data, encoder, store, shots=["all"]).fits
    assert (len(fit.support), fit.metrics, fit.query_microseconds) == (21, {}, None)
    others = [
        load_test_data(make_colours(tmp_path / name, 2, seed), data.classes) for seed, name in ((5, "a"), (6, "b"))
    ]
    (fit,) = start(data, encoder, store, shots=["all"], tests=others).fits
    assert list(fit.metrics) == ["a", "b"]
    assert start(with_splits(data), encoder, store, tests=others).fits[0].metrics.keys() == {"test", "a", "b"}
    with pytest.raises(InputError, match="test set 'a' is empty, or another one has its name"):
        start(data, encoder, store, tests=[others[0], others[0]])


def test_a_test_set_that_repeats_a_support_photo_is_reported(
    data: ImageData, encoder: Encoder, store: Path, colours: Path, tmp_path: Path
) -> None:
    copy = make_colours(tmp_path / "copies", 1, seed=9)
    shutil.copy(colours / "red" / "0_0.png", copy / "red" / "again.png")
    run = start(data, encoder, store, shots=["all"], seeds=[1, 2], tests=[load_test_data(copy, data.classes)])
    assert run.warnings == [
        "no photo of colours is left to test on; only the other test sets are scored",
        "test set 'copies': 1 image(s) are byte for byte in the largest support",
    ]


def test_photos_that_are_left_are_tested_on_beside_other_test_sets(
    data: ImageData, encoder: Encoder, store: Path, tmp_path: Path
) -> None:
    other = load_test_data(make_colours(tmp_path / "other", 2, seed=5), data.classes)
    run = start(data, encoder, store, shots=[1, 2], tests=[other])
    assert all(list(fit.metrics) == ["test", "other"] for fit in run.fits)
    assert run.warnings == []


def test_a_parameter_is_either_set_or_searched(data: ImageData, encoder: Encoder, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(InputError, match="beta of proker: set, and searched by protocol min4"):
        start(data, encoder, store, methods=["proker"], shots=[1], protocol="min4", params={"beta": 2.0})
    assert not store.exists()


# -- bad input


@pytest.fixture
def with_bad_images(tmp_path: Path) -> Path:
    """Four red, green and blue pictures; two of the red ones are no images."""
    folder = make_colours(tmp_path / "mixed", 4)
    (folder / "red" / "0_1.png").write_bytes(b"not an image")
    whole = (folder / "red" / "0_2.png").read_bytes()
    (folder / "red" / "0_2.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_a_bad_image_costs_that_image(with_bad_images: Path, encoder: Encoder, tmp_path: Path) -> None:
    run = start(load_data(with_bad_images), encoder, tmp_path / "store", shots=[1], seeds=[1, 2, 3])
    assert sorted(Path(str(entry["path"])).name for entry in run.skipped) == ["0_1.png", "0_2.png"]
    assert all(entry["reason"] for entry in run.skipped)
    used = {path.name for fit in run.fits for path in fit.support if path.parent.name == "red"}
    assert used <= {"0_0.png", "0_3.png"}
    assert len(run.fits) == 3


def test_too_few_readable_images_are_refused_with_the_reason(
    with_bad_images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match=r"red \(2\).*2 images cannot be read, the first: .*red/0_1\.png: not an image"
    ):
        start(load_data(with_bad_images), encoder, tmp_path / "store", shots=[3])


def test_a_test_set_of_bad_images_only_is_refused(
    data: ImageData, encoder: Encoder, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad" / "red").mkdir(parents=True)
    (tmp_path / "bad" / "red" / "x.png").write_bytes(b"x")
    with pytest.raises(InputError, match="no image of test set 'bad' can be read"):
        start(data, encoder, store, tests=[load_test_data(tmp_path / "bad", data.classes)])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"methods": ["xmadaptor"]}, "unknown method 'xmadaptor'; did you mean 'xmadapter'"),
        ({"params": {"beta": 3.0}}, "no chosen method has a parameter beta"),
        ({"params": {"text": None}}, "no chosen method has a parameter text"),
        ({"methods": ["xmadapter-paper"], "params": {"train": "no"}}, "train='no'; expected true or false"),
        ({"methods": ["tip-adapter"], "params": {"alpha": "big"}}, "alpha='big'; expected a finite number"),
        ({"shots": [8]}, r"3 of 3 classes have too few images for 8 shots: 'blue \(7\)'"),
        ({"shots": [7]}, "7 shots and 1 to test on"),
        ({"seeds": [-1]}, "seed is -1"),
    ],
)
def test_bad_arguments_are_refused(
    data: ImageData, encoder: Encoder, store: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        start(data, encoder, store, **options)


def test_a_store_of_another_encoder_is_refused(data: ImageData, encoder: Encoder, store: Path, tmp_path: Path) -> None:
    start(data, encoder, store)
    config = (Path(encoder.name) / "preprocessor_config.json").read_text()
    other = Path(shutil.copytree(encoder.name, tmp_path / "other"))
    (other / "preprocessor_config.json").write_text(config.replace("0.48145466", "0.5"))
    with pytest.raises(InputError, match="made by encoder"):
        start(data, load_encoder(str(other), device="cpu"), store)


def test_parameters_reach_the_methods_that_have_them(data: ImageData, encoder: Encoder, store: Path) -> None:
    run = start(data, encoder, store, methods=["nearest-mean", "tip-adapter"], params={"beta": 2.5})
    assert run.fits[1].classifier.get_params()["beta"] == 2.5


def test_one_unbalanced_and_one_single_photo_class(encoder: Encoder, tmp_path: Path) -> None:
    folder = make_colours(tmp_path / "few", 5)
    for path in sorted((folder / "blue").iterdir())[1:]:
        path.unlink()
    for path in sorted((folder / "red").iterdir())[3:]:
        path.unlink()
    tests = [load_test_data(make_colours(tmp_path / "t", 2, seed=4), ["blue", "green", "red"])]
    run = start(load_data(folder), encoder, tmp_path / "store", methods=list(METHODS), shots=["all"], tests=tests)
    assert all(len(fit.support) == 9 for fit in run.fits)
    assert all(np.isfinite(list(fit.metrics["t"].values())).all() for fit in run.fits)


def test_images_of_any_mode_are_taken(encoder: Encoder, tmp_path: Path) -> None:
    folder = make_colours(tmp_path / "modes", 3)
    for path, mode in zip(sorted((folder / "red").iterdir()), ("L", "RGBA", "P"), strict=True):
        Image.open(path).convert(mode).save(path)
    assert start(load_data(folder), encoder, tmp_path / "store").skipped == []
