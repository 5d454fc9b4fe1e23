"""Prompts: templates, a user's own, and descriptions per class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossgraft.encoders.load import load_encoder
from crossgraft.encoders.prompts import Prompts
from crossgraft.errors import InputError


def read(tmp_path: Path, value: Any) -> Prompts:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(value), encoding="utf-8")
    return Prompts.read(file)


def test_the_default_is_one_template_with_underscores_as_spaces() -> None:
    assert Prompts().texts(["car_side", "ant"]) == [["a photo of a car side."], ["a photo of a ant."]]


@given(st.text(), st.text(min_size=1))
def test_any_template_with_one_place_and_any_class_name_work(around: str, name: str) -> None:
    """Braces elsewhere in a template, or in a name, mean nothing."""
    template = "{" + around.replace("{}", "") + "} {} {0.__class__} {"
    if template.count("{}") == 1:
        before, after = template.split("{}")
        assert Prompts((template,)).texts([name]) == [[before + " ".join(name.replace("_", " ").split()) + after]]


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{0}", ""])
def test_a_template_needs_exactly_one_place_for_the_name(template: str) -> None:
    with pytest.raises(InputError, match=r"needs exactly one \{\}"):
        Prompts((template,))


def test_prompts_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="templates, descriptions, or both"):
        Prompts(())


def test_the_three_forms_of_a_file(tmp_path: Path) -> None:
    assert read(tmp_path, ["art of a {}", "{}"]).texts(["owl"]) == [["art of a owl", "owl"]]
    assert read(tmp_path, {"Owl": ["a round bird"]}).texts(["owl"]) == [["a photo of a owl.", "a round bird"]]
    only = read(tmp_path, {"templates": [], "descriptions": {"snow_owl": ["white"]}})
    assert only.texts(["Snow owl"]) == [["white"]]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (3, "expected a list of templates"),
        ({"templates": ["{}"], "classes": []}, "expected a list of templates"),
        ([1], "templates must be a list of texts"),
        ({"templates": "{}"}, "templates must be a list of texts"),
        ([" "], "templates must be a list of texts"),
        ({"owl": []}, "at least one text"),
        ({"owl": "round"}, "at least one text"),
        ({"descriptions": ["round"]}, "at least one text"),
        (["no place"], r"exactly one \{\}"),
        ([], "templates, descriptions, or both"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, value: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read(tmp_path, value)


def test_descriptions_that_fit_no_class_are_refused(tmp_path: Path) -> None:
    prompts = read(tmp_path, {"owl": ["round"]})
    with pytest.raises(InputError, match="no description fits any class: they are for owl"):
        prompts.texts(["cat", "dog"])


def test_a_class_without_any_text_is_named(tmp_path: Path) -> None:
    prompts = read(tmp_path, {"templates": [], "descriptions": {"owl": ["round"]}})
    with pytest.raises(InputError, match="no description for: cat"):
        prompts.texts(["owl", "cat"])


def test_a_class_embedding_is_the_unit_mean_of_its_texts(tiny_clip: Path) -> None:
    encoder = load_encoder(str(tiny_clip), device="cpu")
    prompts = Prompts(("a photo of a {}.", "the {}"), {"bird": ("a red bird in the photo .",)})
    classes = ["fruit", "bird"]
    expected = []
    for texts in prompts.texts(classes):
        mean = torch.stack([encoder.encode_texts([text])[0] for text in texts]).mean(0)
        expected.append(mean / mean.norm())
    torch.testing.assert_close(prompts.encode(encoder, classes), torch.stack(expected), rtol=0, atol=1e-5)


def test_classes_without_a_description_are_named() -> None:
    prompts = Prompts(descriptions={"Car side": ("wheels",)})
    assert prompts.undescribed(["car_side", "ant"]) == ["ant"]
    assert Prompts().undescribed(["ant"]) == []
