"""Images by what their files and folders are called."""

from __future__ import annotations

from pathlib import Path

from crossgraft.training.labelled import Labels


def test_names_end_with_the_thing_and_those_that_say_least_besides_come_first() -> None:
    files = [
        "red_apple-2.webp",
        "apple_pie.png",
        "Apples/img1.jpg",
        "APPLE-10.webp",
        "x/pineapple.png",
        "sea lion/1.png",
        "sweet_cherries.png",
        "pair_of_cherries-2.png",
    ]
    labels = Labels((Path(name), row) for row, name in enumerate(files))
    assert labels.rows("apple", 3) == [2, 3, 2]  # those that are called just so
    assert labels.rows("red apples", 1) == [0]
    assert labels.rows("Cherry", 2) == [6, 7]
    assert labels.rows("sea", 1) == labels.rows("pie crust", 1) == labels.rows("12", 1) == []
    assert labels.rows("sea lion", 2) == [5, 5]
