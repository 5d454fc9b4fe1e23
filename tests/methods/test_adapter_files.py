"""Folders that cannot be loaded: each says what is wrong with it, and leaves the model as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from methods_list import METHODS, TASKS, adapted, move
from safetensors.torch import load_file, save_file
from tiny_models import backbone, inputs, output

from crossgraft import __version__
from crossgraft.adapt import AdaptedModel, Graft
from crossgraft.errors import InputError
from crossgraft.methods.attach import adapter_state, attach, load_adapter, load_adapter_state, save_adapter

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_adapter(adapted("adapter", "t5"), "new", tmp_path / "saved", extra={"score": 1})


def config_with(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def without(key: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = json.loads((folder / CONFIG).read_text())
        del values[key]
        (folder / CONFIG).write_text(json.dumps(values))

    return change


def tensors_with(change_state: Callable[[dict[str, torch.Tensor], str], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        state = load_file(folder / TENSORS)
        change_state(state, next(key for key in state if key.startswith("graft.down")))
        save_file(state, folder / TENSORS)

    return change


def truncate(folder: Path) -> None:
    data = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(data[: len(data) // 2])


def other_backbone(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = json.loads((folder / CONFIG).read_text())
        values["backbone"] |= changes
        (folder / CONFIG).write_text(json.dumps(values))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / CONFIG).unlink(), r"adapter_config.json: no such file"),
        (lambda folder: (folder / CONFIG).write_text("{"), r"adapter_config.json, line 1: not JSON"),
        (lambda folder: (folder / CONFIG).write_text("[]"), r"not the adapter of a language model"),
        (without("options"), r"it lacks options"),
        (config_with(schema_version=99), r"schema_version is 99, and this version of crossgraft reads 1; install"),
        (config_with(method="adaptor"), r"unknown method 'adaptor'; did you mean 'adapter'"),
        (config_with(options={"reducton": 8}), r"unknown key 'reducton'; did you mean 'reduction'"),
        (config_with(options={"reduction": 0}), r"adapter_config.json: options: reduction is 0, expected"),
        (config_with(tasks="vqa"), r"tasks: expected a list of names"),
        (config_with(also_train=[1]), r"also_train: expected a list of names"),
        (config_with(also_train=["nothing"]), r"does not fit this backbone: parameters: 'nothing' matches nothing"),
        (config_with(backbone=None), r"backbone: expected class, name and fingerprint"),
        (config_with(options={"reduction": 8}), r"shape .*, expected "),
        (config_with(also_train=[]), r"other weights"),
        (other_backbone(**{"class": "BartModel"}), r"the adapter is for a BartModel, and this backbone is a T5For"),
        (other_backbone(fingerprint="0" * 64, name="t5-base"), r"trained on t5-base \(0{12}\), .*other weights"),
        (lambda folder: (folder / TENSORS).unlink(), r"safetensors: cannot be read .*expected an adapter folder"),
        (truncate, r"safetensors: not a whole safetensors file"),
        (lambda folder: (folder / TENSORS).write_bytes(b""), r"not a whole safetensors file"),
        (tensors_with(lambda state, key: state.pop(key)), r"tensors missing: \['graft\.down"),
        (tensors_with(lambda state, key: state.update(more=state[key].clone())), r"not the adapter's: \['more'\]"),
        (tensors_with(lambda state, key: state.update({key: state[key][:1].clone()})), r"shape \(1"),
        (tensors_with(lambda state, key: state[key].fill_(float("nan"))), r"graft\.down.* not finite"),
    ],
)  # fmt: skip
def test_damage_is_named_and_leaves_the_model_as_it_was(
    folder: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(folder)
    model = AdaptedModel(backbone("t5"))
    attach(model, "other", METHODS["lora-multiple"], tasks=TASKS)
    move(model, 4)
    model.eval().set_task("b")
    before = output("t5", model, inputs("t5"))
    with pytest.raises(InputError, match=message):
        load_adapter(model, folder)
    assert list(model.grafts) == ["other"]
    assert model.active == ("other",)
    assert torch.equal(output("t5", model, inputs("t5")), before)


def test_other_weights_of_the_same_class_are_noticed(folder: Path) -> None:
    with pytest.raises(InputError, match=r"this backbone has other weights \(\w{12}\); load the one it was trained on"):
        load_adapter(AdaptedModel(backbone("t5", seed=1)), folder)


def test_another_family_is_noticed(folder: Path) -> None:
    with pytest.raises(InputError, match=r"T5ForConditionalGeneration, and this backbone is a BartFor"):
        load_adapter(AdaptedModel(backbone("bart")), folder)


def test_full_training_of_another_shape_leaves_the_backbone_alone(tmp_path: Path) -> None:
    folder = save_adapter(adapted("full", "t5"), "new", tmp_path / "full")
    tensors_with_any = load_file(folder / TENSORS)
    tensors_with_any["backbone.shared.weight"] = tensors_with_any["backbone.shared.weight"][:1].clone()
    save_file(tensors_with_any, folder / TENSORS)
    model = AdaptedModel(backbone("t5"))
    with pytest.raises(InputError, match=r"shape \(1, 16\)"):
        load_adapter(model, folder)
    assert not model.grafts
    plain = backbone("t5").state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in model.detach().state_dict().items())


def test_what_a_folder_holds(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {CONFIG, TENSORS, "README.md"}
    config = json.loads((folder / CONFIG).read_text())
    assert config["crossgraft_version"] == __version__
    assert config["extra"] == {"score": 1}
    assert config["also_train"] == ["layer_norms"]
    state = load_file(folder / TENSORS)
    assert {key.partition(".")[0] for key in state} == {"graft", "backbone"}
    assert sum(value.numel() for value in state.values()) == config["parameters"]["trainable"]
    card = (folder / "README.md").read_text()
    assert "`adapter`" in card
    assert config["backbone"]["fingerprint"] in card


def test_saving_refuses_what_could_not_be_loaded_and_foreign_folders(tmp_path: Path) -> None:
    model = adapted("adapter", "t5")
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match=r"holds other files \(mine.txt\)"):
        save_adapter(model, "new", tmp_path)
    with pytest.raises(InputError, match=r"no adapter 'nwe'; did you mean 'new'"):
        save_adapter(model, "nwe", tmp_path / "saved")
    model.add("bare", Graft())
    with pytest.raises(InputError, match=r"'bare' is a graft of no method"):
        save_adapter(model, "bare", tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_idle_adapter_is_saved_as_if_it_were_active(tmp_path: Path) -> None:
    model = adapted("adapter", "t5")
    active = save_adapter(model, "new", tmp_path / "one")
    model.disable()
    idle = save_adapter(model, "new", tmp_path / "two")
    for name in (CONFIG, TENSORS):
        assert (active / name).read_bytes() == (idle / name).read_bytes()


def test_values_go_in_all_or_none() -> None:
    model = adapted("adapter", "t5")
    before = {key: value.clone() for key, value in adapter_state(model, "new").items()}
    wrong = {key: torch.zeros_like(value) for key, value in before.items()}
    wrong[list(wrong)[-1]] = torch.zeros(1, 1, 1)
    with pytest.raises(InputError, match=r"memory: .*shape"):
        load_adapter_state(model, "new", wrong, "memory")
    assert all(torch.equal(value, before[key]) for key, value in adapter_state(model, "new").items())
