"""Saving and loading: every method comes back to the bit; damaged and hostile files are refused, and say why."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from few_shot_problems import problem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from crossgraft.errors import InputError
from crossgraft.fewshot import METHODS, FewShotClassifier, XMAdapterPaper, get_method, load_classifier, save_classifier
from crossgraft.fewshot.persist import CARD_FILE, CONFIG_FILE, FILES, TENSOR_FILE, read_config

torch.set_num_threads(1)

P = problem((1, 4, 2, 3), noise=0.8)
ENCODER = {"name": "pocket-clip", "fingerprint": "0123456789abcdef"}
VARIANTS = [
    *((name, {}) for name in METHODS),
    ("xmadapter-paper", {"ratio": 0.25, "train": False}),
    ("xmadapter-paper", {"ratio": "entropy"}),
]


@pytest.mark.parametrize(("name", "params"), VARIANTS)
@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_after_loading_are_equal_to_the_bit(
    name: str, params: dict[str, Any], with_text: bool, dtype: type, tmp_path: Path
) -> None:
    text = {"text": P.text, "classes": P.classes} if with_text else {}
    saved = get_method(name)(**params, **text).fit(P.X.astype(dtype), P.y).tune(P.Q.astype(dtype), P.y_query)
    folder = save_classifier(saved, tmp_path / "deep" / "adapter", encoder=ENCODER, extra={"shots": 4})
    loaded = load_classifier(folder, encoder_fingerprint=ENCODER["fingerprint"])
    queries = P.Q.astype(dtype)
    assert torch.equal(loaded.logits(queries), saved.logits(queries))
    assert loaded.predict(queries).tolist() == saved.predict(queries).tolist()
    assert loaded.n_parameters_ == saved.n_parameters_
    assert type(loaded) is type(saved)
    kept = {key: value for key, value in saved.get_params().items() if key not in ("text", "classes")}
    assert kept.items() <= loaded.get_params().items()
    # A loaded classifier can be fitted again, on the same texts.
    again = clone(loaded).fit(P.X.astype(dtype), P.y)
    torch.testing.assert_close(again.text_, saved.text_)


@pytest.mark.parametrize("name", list(METHODS))
def test_layout_and_alignment_of_the_tensors_do_not_show(name: str, tmp_path: Path) -> None:
    """At odd sizes, where a transposed or unaligned matrix takes another path through the kernels."""
    p = problem((5,) * 23, d=37, f=129, n_query=131)
    X, Q = p.X.astype(np.float32), p.Q.astype(np.float32)
    short = {"epochs": 2} if "epochs" in get_method(name)().get_params() else {}
    saved = get_method(name)(text=p.text, classes=p.classes, **short).fit(X, p.y)
    loaded = load_classifier(save_classifier(saved, tmp_path / "a"))
    for attribute in ("text_", *saved.state):
        tensor = getattr(loaded, attribute)
        assert getattr(saved, attribute).is_contiguous()
        assert tensor.data_ptr() % 64 == 0
    for queries in (Q, Q[:1], Q[:17]):
        assert torch.equal(loaded.logits(queries), saved.logits(queries))


@pytest.mark.parametrize(
    "labels",
    [
        ["b", "a", "c", "d"],
        [3, 1, 2, 7],
        [True, False],
        np.array(["x", "y", "z"], dtype=object),
        np.array([1, 2, 9], dtype=np.uint8),
    ],
)
def test_labels_keep_their_type(labels: Any, tmp_path: Path) -> None:
    y = np.asarray(labels)[np.arange(10) % len(labels)]
    saved = get_method("nearest-mean")().fit(P.X, y)
    predicted = load_classifier(save_classifier(saved, tmp_path / "a")).predict(P.Q)
    assert predicted.tolist() == saved.predict(P.Q).tolist()
    assert predicted.dtype == y.dtype


def test_what_is_written(tmp_path: Path) -> None:
    saved = XMAdapterPaper(text=P.text, classes=P.classes, alpha=np.float64(2.0), random_state=np.random.RandomState(0))
    folder = save_classifier(saved.fit(P.X, P.y), tmp_path / "a", encoder=ENCODER, extra={"note": "é|`"})
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert list(tmp_path.iterdir()) == [folder]
    assert set(load_file(folder / TENSOR_FILE)) == {"text_", *XMAdapterPaper.state}
    config = read_config(folder)
    assert config["method"] == "xmadapter-paper"
    assert config["classes"] == P.classes
    assert config["encoder"] == ENCODER
    assert config["extra"] == {"note": "é|`"}
    assert config["tensors"]["keys_"] == {"shape": [10, 10], "dtype": "float64"}
    assert config["params"]["alpha"] == 2.0
    card = (folder / CARD_FILE).read_text()
    trained = f"{saved.n_parameters_:,}"
    for part in ("xmadapter-paper", "2404.12588", "class z", "pocket-clip", trained, "load_classifier"):
        assert part in card


def test_an_adapter_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    first, second = (get_method(name)().fit(P.X, P.y) for name in ("gda", "proker"))
    folder = tmp_path / "a"
    folder.mkdir()
    save_classifier(first, folder)
    save_classifier(second, folder)
    assert load_classifier(folder).method == "proker"
    (folder / "results.json").write_text("{}")
    with pytest.raises(InputError, match=r"other files \(results.json\)"):
        save_classifier(first, folder)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        save_classifier(first, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_save_leaves_the_old_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (get_method(name)().fit(P.X, P.y) for name in ("gda", "proker"))
    folder = save_classifier(first, tmp_path / "a")

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("crossgraft.fewshot.persist.save_file", full_disk)
        with pytest.raises(OSError, match="No space"):
            save_classifier(second, folder)
    rename = Path.rename

    def refuse_the_new(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            full_disk()
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse_the_new)
        with pytest.raises(OSError, match="No space"):
            save_classifier(second, folder)
    assert load_classifier(folder).method == "gda"
    assert list(tmp_path.iterdir()) == [folder]


def test_saving_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        save_classifier(get_method("gda")(), tmp_path / "a")
    fitted = get_method("gda")().fit(P.X, P.y)
    with pytest.raises(InputError, match="fingerprint"):
        save_classifier(fitted, tmp_path / "a", encoder={"name": "x"})
    with pytest.raises(InputError, match=r"adapter_config.json cannot hold"):
        save_classifier(fitted, tmp_path / "a", extra={"tensor": torch.ones(1)})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    classifier = XMAdapterPaper(text=P.text, classes=P.classes, epochs=1).fit(P.X.astype(np.float32), P.y)
    return save_classifier(classifier, tmp_path_factory.mktemp("saved") / "adapter", encoder=ENCODER)


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "adapter"))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    change(config)
    (folder / CONFIG_FILE).write_text(json.dumps(config))


CONFIG_DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "version": (lambda c: c.update(schema_version=2), "schema_version: 2; .* reads 1"),
    "no version": (lambda c: c.pop("schema_version"), "schema_version: expected int"),
    "method": (lambda c: c.update(method="xmadaptr"), "did you mean 'xmadapter'"),
    "method type": (lambda c: c.update(method=["gda"]), "method: expected str"),
    "another method": (lambda c: c.update(method="gda", params={}), "missing: .*bias_.*not its own: .*down_"),
    "unknown parameter": (lambda c: c["params"].update(gamma=1), "params.gamma: xmadapter-paper has no such"),
    "constructor injection": (lambda c: c["params"].update(device="meta"), "params.device"),
    "parameter type": (lambda c: c["params"].update(alpha="1"), "params: alpha='1'"),
    "parameter list": (lambda c: c["params"].update(alpha=[1]), "params.alpha"),
    "parameter infinite": (lambda c: c["params"].update(alpha=float("inf")), "params: alpha='inf'"),
    "parameter huge": (lambda c: c["params"].update(alpha=10**400), "params: alpha='1000"),
    "parameter bool": (lambda c: c["params"].update(mask=3), "params.mask"),
    "ratio": (lambda c: c["params"].update(ratio="both"), "params: ratio='both'"),
    "class missing": (lambda c: c["classes"].pop(), r"text_: shape \(4, 6\); expected \(N=3"),
    "class twice": (lambda c: c["classes"].__setitem__(0, c["classes"][1]), "distinct"),
    "class a list": (lambda c: c["classes"].__setitem__(0, []), "classes: expected"),
    "classes a text": (lambda c: c.update(classes="abcd"), "classes: expected list"),
    "classes of another type": (lambda c: c.update(classes_dtype="int64"), "type int64"),
    "classes too large": (lambda c: c.update(classes_dtype="int8", classes=[1, 2, 3, 999]), "does not fit"),
    "dtype": (lambda c: c.update(classes_dtype="U999999999"), "no type of labels"),
    "width": (lambda c: c.update(n_features=17), r"keys_: shape \(10, 10\); expected \(M=10, f=11\)"),
    "narrow": (lambda c: c.update(n_features=2), "d up to 2"),
    "encoder": (lambda c: c["encoder"].update(fingerprint="fedcba"), "made for pocket-clip .fedcba.*, not for"),
    "no encoder": (lambda c: c.update(encoder=None), "encoder: records no fingerprint"),
}


@pytest.mark.parametrize("case", CONFIG_DAMAGE)
def test_damaged_configuration(case: str, folder: Path) -> None:
    change, message = CONFIG_DAMAGE[case]
    edit(folder, change)
    with pytest.raises(InputError, match=message) as error:
        load_classifier(folder, encoder_fingerprint=ENCODER["fingerprint"])
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff\xfe{}", b"[" * 100_000, b'{"schema_version": ' + b"9" * 5000 + b"}", b"null"]
)
def test_configuration_that_is_no_json_object(content: bytes, folder: Path) -> None:
    (folder / CONFIG_FILE).write_bytes(content)
    with pytest.raises(InputError, match=r"adapter_config.json"):
        load_classifier(folder)


def test_missing_files_and_folders(folder: Path) -> None:
    with pytest.raises(InputError, match=r"adapter_config.json: cannot be read"):
        load_classifier(folder / "nowhere")
    (folder / TENSOR_FILE).unlink()
    with pytest.raises(InputError, match=r"adapter_model.safetensors: cannot be read"):
        load_classifier(folder)
    (folder / TENSOR_FILE).mkdir()
    with pytest.raises(InputError, match=r"adapter_model.safetensors"):
        load_classifier(folder)


TENSOR_DAMAGE: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda t: t.pop("keys_"), "missing: .'keys_'"),
    "extra": (lambda t: t.update(other=torch.ones(1)), "not its own: .'other'"),
    "shape": (lambda t: t.update(keys_=torch.ones(9, 10)), "keys_: shape|labels_: shape|text_keys_: shape"),
    "rank": (lambda t: t.update(keys_=torch.ones(100)), "keys_: shape"),
    "type": (lambda t: t.update(keys_=t["keys_"].double()), "keys_: type float64"),
    "labels type": (lambda t: t.update(labels_=t["labels_"].float()), "labels_: type float32; expected int64"),
    "labels range": (lambda t: t["labels_"].fill_(4), "labels_: holds a class row outside 0 to 3"),
    "labels negative": (lambda t: t["labels_"].fill_(-1), "labels_: holds a class row"),
    "NaN": (lambda t: t["up_"].fill_(float("nan")), "up_: holds NaN"),
    "text type": (lambda t: t.update(text_=t["text_"].half()), "text_: float16"),
    "text rank": (lambda t: t.update(text_=torch.ones(4)), "text_: "),
}


@pytest.mark.parametrize("case", TENSOR_DAMAGE)
def test_damaged_tensors(case: str, folder: Path) -> None:
    change, message = TENSOR_DAMAGE[case]
    tensors = load_file(folder / TENSOR_FILE)
    change(tensors)
    save_file(tensors, folder / TENSOR_FILE)
    with pytest.raises(InputError, match=message) as error:
        load_classifier(folder)
    assert str(folder / TENSOR_FILE) in str(error.value)


def predict_or_refuse(folder: Path) -> FewShotClassifier | None:
    """A damaged adapter is refused as bad input, or it works; nothing else may come out."""
    try:
        classifier = load_classifier(folder)
    except InputError:
        return None
    assert classifier.logits(P.Q).shape == (len(P.Q), 4)
    return classifier


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(
    cut=st.floats(0, 1),
    at=st.floats(0, 1),
    junk=st.binary(max_size=16),
    name=st.sampled_from([CONFIG_FILE, TENSOR_FILE]),
)
def test_any_truncation_or_overwritten_bytes(
    folder: Path, pristine: Path, cut: float, at: float, junk: bytes, name: str
) -> None:
    content = bytearray((pristine / name).read_bytes())
    position = int(at * len(content))
    content[position : position + len(junk)] = junk
    shutil.copytree(pristine, folder, dirs_exist_ok=True)
    (folder / name).write_bytes(content[: int(cut * len(content))] if cut < 0.5 else content)
    predict_or_refuse(folder)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@FUZZ
@given(data=st.data(), value=json_values)
def test_any_json_value_under_any_key(folder: Path, pristine: Path, data: st.DataObject, value: Any) -> None:
    config = json.loads((pristine / CONFIG_FILE).read_text())
    place = data.draw(st.sampled_from([config, config["params"], config["encoder"], config["tensors"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = value
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    predict_or_refuse(folder)


def test_a_pickle_is_never_run(folder: Path) -> None:
    torch.save({"text_": torch.ones(4, 6)}, folder / TENSOR_FILE)
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_classifier(folder)


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_saved_folder_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = save_classifier(get_method("gda")().fit(P.X, P.y), tmp_path / "a")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("name", METHODS)
def test_a_loaded_classifier_is_not_tuned_without_its_support(name: str, tmp_path: Path) -> None:
    classifier = get_method(name)().fit(P.X, P.y)
    loaded = load_classifier(save_classifier(classifier, tmp_path / name))
    with pytest.raises(InputError, match="call fit first"):
        loaded.tune(P.Q, P.y_query)


def test_a_killed_save_is_cleared_up(tmp_path: Path) -> None:
    classifier = get_method("gda")().fit(P.X, P.y)
    folder = save_classifier(classifier, tmp_path / "gda")
    folder.rename(tmp_path / ".gda.12345678.old")
    (tmp_path / ".gda.12345678.tmp").mkdir()
    (tmp_path / ".gda-other.12345678.tmp").mkdir()
    save_classifier(classifier, folder)
    assert {path.name for path in tmp_path.iterdir()} == {"gda", ".gda-other.12345678.tmp"}
    assert (load_classifier(folder).predict(P.Q) == classifier.predict(P.Q)).all()
