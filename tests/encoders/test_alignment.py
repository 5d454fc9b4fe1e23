"""The alignment's parts on made-up tensors: what each compares, and how they are joined."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.encoders.alignment import Alignment

CLASSES, D, P = 5, 4, 3
LITE = {"temperature": 1.5, "sharpness": 6.0}
CLIP = {**LITE, "weights": [1.0, 2.0, 0.5]}


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    return {
        "text_mean": 0.1 * normal(D),
        "imagenet_names": functional.normalize(normal(CLASSES, D), dim=-1),
        "clip_mean": 0.1 * normal(P),
        "clip_map": normal(P, D),
        "drawn_mean": 0.1 * normal(P),
        "whitening": normal(P, P),
    }


def views(n: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    return {"imagenet": torch.randn(n, CLASSES, generator=random), "clip": torch.randn(n, P, generator=random)}


def test_a_cosine_is_the_weighted_mean_of_the_parts_cosines(tensors: dict[str, Tensor]) -> None:
    alignment = Alignment(tensors, CLIP)
    seen, sentences, drawn = views(6), torch.randn(2, D), torch.randn(2, P)
    image, text = alignment.image(seen), alignment.text(sentences, drawn)
    assert image.shape == (6, alignment.dim) == (6, CLASSES + D + P)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(2))
    parts = [a @ b.T for a, b in zip(alignment.image_parts(seen), alignment.text_parts(sentences, drawn), strict=True)]
    expected = (1.0 * parts[0] + 2.0 * parts[1] + 0.5 * parts[2]) / 3.5
    torch.testing.assert_close(image @ text.T, expected)


def test_classes_compare_probabilities_with_resemblance_to_names(tensors: dict[str, Tensor]) -> None:
    alignment = Alignment(tensors, LITE)
    logits = torch.tensor([[3.0, 0.0, 0.0, 0.0, 1.5]])
    probabilities = torch.tensor([math.exp(2), 1, 1, 1, math.exp(1)])
    expected = functional.normalize(probabilities, dim=0)
    torch.testing.assert_close(alignment.image({"imagenet": logits})[0], expected)
    name = tensors["imagenet_names"][2]
    resemblance = (6 * tensors["imagenet_names"] @ name).exp()
    text = alignment.text((name + tensors["text_mean"])[None])
    torch.testing.assert_close(text[0], functional.normalize(resemblance, dim=0))
    assert text[0].argmax() == 2


def test_drawn_texts_and_pictures_are_each_centred_among_their_own_kind(tensors: dict[str, Tensor]) -> None:
    """A picture and a drawn text that lie alike, seen from their own means, agree fully."""
    alignment = Alignment(tensors, CLIP)
    offset = torch.tensor([0.3, -0.2, 0.1])

    def unit_at(mean: Tensor) -> Tensor:
        """A unit vector in the direction `offset` from a mean."""
        a, b, c = offset @ offset, 2 * offset @ mean, mean @ mean - 1
        return mean + offset * (-b + (b * b - 4 * a * c).sqrt()) / (2 * a)

    picture, drawn = unit_at(tensors["clip_mean"])[None], unit_at(tensors["drawn_mean"])[None]
    image = alignment.image_parts({"clip": 7 * picture, "imagenet": torch.zeros(1, CLASSES)})[2]
    text = alignment.text_parts(torch.randn(1, D), 7 * drawn)[2]
    torch.testing.assert_close(image, text)


def test_without_clip_there_is_one_part(tensors: dict[str, Tensor]) -> None:
    alignment = Alignment({key: tensors[key] for key in ("text_mean", "imagenet_names")}, LITE)
    assert alignment.dim == CLASSES
    assert alignment.image({"imagenet": torch.randn(3, CLASSES)}).shape == (3, CLASSES)


def test_tensors_that_the_weights_speak_of_have_to_be_there(tensors: dict[str, Tensor]) -> None:
    del tensors["whitening"]
    with pytest.raises(KeyError, match="whitening"):
        Alignment(tensors, CLIP)
