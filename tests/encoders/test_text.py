"""Batches of texts: similar lengths together, the order given back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossgraft.encoders.text import BATCH, encode_in_batches
from crossgraft.errors import InputError


def letters(batch: list[str]) -> Tensor:
    """How often each letter occurs, (n, 26)."""
    return torch.tensor([[text.count(chr(97 + i)) for i in range(26)] for text in batch], dtype=torch.float64)


def test_every_text_gets_its_own_unit_vector_in_the_order_given() -> None:
    texts = [chr(97 + i % 26) * (1 + i * 37 % 11) + "z" for i in range(3 * BATCH + 5)]
    vectors = encode_in_batches(texts, letters)
    assert vectors.dtype == torch.float32
    expected = torch.nn.functional.normalize(letters(texts), dim=-1).float()
    torch.testing.assert_close(vectors, expected)


def test_batches_hold_texts_of_similar_length() -> None:
    batches: list[list[str]] = []

    def encode(batch: list[str]) -> Tensor:
        batches.append(batch)
        return letters(batch)

    encode_in_batches(["a" * (1 + i * 31 % 97) for i in range(2 * BATCH + 1)], encode)
    lengths = [[len(text) for text in batch] for batch in batches]
    assert [len(batch) for batch in batches] == [BATCH, BATCH, 1]
    in_turn = [length for batch in lengths for length in batch]
    assert in_turn == sorted(in_turn)


def test_nothing_and_blank_texts_are_refused() -> None:
    with pytest.raises(InputError, match="no texts"):
        encode_in_batches([], letters)
    with pytest.raises(InputError, match="text number 2 is empty"):
        encode_in_batches(["a", " \n", "b"], letters)
