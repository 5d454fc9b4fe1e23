"""The registry of methods is open, warns, and helps with names."""

from __future__ import annotations

import pytest

from crossgraft.errors import InputError
from crossgraft.fewshot import METHODS, FewShotClassifier, TipAdapterF, ZeroShot, get_method, register


def test_all_methods_are_there_in_table_order() -> None:
    assert list(METHODS)[:16] == [
        "zero-shot",
        "linear-probe",
        "nearest-mean",
        "tip-adapter",
        "tip-adapter-f",
        "gda",
        "proker",
        "ss-text",
        "timo",
        "lp++",
        "clap",
        "taskres",
        "prolip",
        "xmadapter-paper",
        "xmadapter",
        "auto",
    ]
    assert get_method("tip-adapter-f") is TipAdapterF
    assert all(method.method == name and method.paper for name, method in METHODS.items())
    assert all(issubclass(method, FewShotClassifier) for method in METHODS.values())


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'xmadapter'"):
        get_method("xm-adaptor")


def test_a_method_can_be_added_and_replacing_one_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossgraft.fewshot.registry.METHODS", {})

    @register("my-method")
    class Mine(ZeroShot):
        """A method from elsewhere."""

    assert get_method("my-method") is Mine
    with pytest.warns(UserWarning, match="replaces"):
        register("my-method")(type("Other", (ZeroShot,), {}))
