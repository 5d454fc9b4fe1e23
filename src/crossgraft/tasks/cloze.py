"""Captions with words masked: what a language model learns to fill in while it looks at what the words are of.

This is how X-adapter (arXiv 2305.07358) adapts: masked words of captions, a fifth of them (the share and all that
follows are options; the authors published no code). What a model is shown beside the text is found with, and made of,
the sentence whose words are masked, never the whole one: that would hand the answer over.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

from crossgraft.errors import InputError
from crossgraft.files import read_json
from crossgraft.tasks.base import Decoding, Example
from crossgraft.tasks.coco_captions import read_coco
from crossgraft.tasks.files import (
    Row,
    check_answers,
    one_line,
    read_list_or_lines,
    read_table,
    references,
    write_result,
)
from crossgraft.tasks.metrics.exact import percent
from crossgraft.tasks.nouns import name_words, names
from crossgraft.tasks.own_data import captions_of, is_coco
from crossgraft.tasks.registry import register_task
from crossgraft.tasks.splits import OneFileTask, split_ids
from crossgraft.tasks.statements import check_template, statements

MASK = "[MASK]"  # stands for a masked word, whatever token a tokenizer has for it
WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
COLOURS = frozenset(
    ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black", "grey", "gray", "golden",
     "gold", "silver", "tan", "beige", "violet")
)  # fmt: skip


@register_task("cloze")
@dataclass(frozen=True, kw_only=True)
class Cloze(OneFileTask):
    """Masked words of captions, or of any sentences.

    In training every caption is an example whose masks are drawn anew each time. Val and test hide one word of each
    caption, always the same and never the first, and the answer is that word.

    Attributes:
        file: a text file with a caption a line; .csv with a column caption; .json or .jsonl of {"captions": [...] or
            "caption"}, or COCO's layout. Rows may state a split; captions of one image fall into the same.
        share: of the words that are masked, at least one.
        words: which are masked first: "any", or "grounded" in what can be seen; captions without such a word are then
            left out.
        word_list: a JSON list of grounded words; None: colours.
        statement: what is told in place of a caption, once for each grounded word (`tasks.statements`): a sentence with
            {next} for the word behind it and {word}, such as "The color of the {next} is {word}."; None: the caption.
        without: a JSON list of things, such as those of a data set that is asked about later; captions, or statements,
            that name one are left out, in singular or plural.
        encoding: of a text file.
    """

    file: Path
    share: float = 0.2
    words: Literal["any", "grounded"] = "any"
    word_list: Path | None = None
    statement: str | None = None
    without: Path | None = None
    encoding: str = "utf-8-sig"

    prefix = ""  # no fields: masked words are found in the caption as it is
    question_length = None
    metric: ClassVar[str] = "accuracy"
    cloze: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise InputError(f"share: must be above 0 and at most 1, found {self.share}")
        if self.words not in ("any", "grounded"):
            raise InputError(f"words: must be any or grounded, found {self.words!r}")
        if self.statement is not None:
            if self.words != "grounded":
                raise InputError("statement: tells of grounded words; set words=grounded, too")
            check_template(self.statement, self._grounded())

    @property
    def decoding(self) -> Decoding:
        """A few tokens, of which the first word is the answer."""
        return Decoding(max_new_tokens=4)

    def load(self, split: str) -> list[Example]:
        """Read a split, see `Task.load`; ids are those of images or line numbers, with "#" and a number behind."""
        rows, captions, groups, images = self._read()
        grounded = self._grounded()
        examples = []
        for key, _ in split_ids(self, rows, split, groups):
            caption = captions[key]
            places = spans(caption)
            if self.words == "grounded":
                places = [place for place in places if caption[slice(*place)].lower() in grounded]
            about = {"image": images[key]} if key in images else None
            if split == "train" and places:
                examples.append(Example(key, (), caption, ((caption, 1.0),), caption, about=about))
            places = [place for place in places if caption[: place[0]].strip()]  # behind nothing a causal model is mute
            if split == "train" or not places:
                continue
            start, end = random.Random(f"{self.seed} {key}").choice(places)
            word = caption[start:end]
            text = caption[:start] + MASK + caption[end:]
            examples.append(Example(key, (), text, ((word, 1.0),), word.lower(), about=about))
        return examples

    def draw(self, example: Example, rng: random.Random) -> tuple[str, float]:
        """The caption with words masked."""
        caption = example.text
        places = spans(caption)
        grounded = self._grounded() if self.words == "grounded" else frozenset()
        count = max(1, round(self.share * len(places)))
        order = rng.sample(places, len(places))
        order.sort(key=lambda place: caption[slice(*place)].lower() not in grounded)
        masked = caption
        for start, end in sorted(order[:count], reverse=True):
            masked = masked[:start] + MASK + masked[end:]
        return masked, 1.0

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """The share of answers whose first word is the hidden one, whatever its case."""
        truths: list[str] = references(examples, answers)
        return {"accuracy": percent([first_word(a) == truth for a, truth in zip(answers, truths, strict=True)])}

    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """[{"id": "...", "text": "...", "answer": "..."}, ...]"""
        check_answers(examples, answers)
        pairs = zip(examples, answers, strict=True)
        write_result(path, [{"id": one.id, "text": one.text, "answer": first_word(answer)} for one, answer in pairs])

    def _grounded(self) -> frozenset[str]:
        return COLOURS if self.word_list is None else _listed_words(self.word_list)

    def _read(self) -> tuple[dict[str, Row], dict[str, str], dict[str, str], dict[str, str]]:
        """By id: rows, captions, what falls into the same split, and names of images."""
        rows: dict[str, Row] = {}
        captions: dict[str, str] = {}
        groups: dict[str, str] = {}
        images: dict[str, str] = {}
        for row, group, texts in self._captions():
            for text in self._told(map(one_line, texts)):
                if MASK in text:
                    raise InputError(f"{row.where}: the caption holds {MASK}, which stands for a masked word")
                key = f"{group}#{len(captions)}"
                rows[key], captions[key], groups[key] = row, text, group
                image = row.values.get("image", row.values.get("file_name"))
                if isinstance(image, str):
                    images[key] = image
        if not captions:
            wanted = "caption" if self.statement is None else "caption with a grounded word before what it is of"
            left = "" if self.without is None else ", and none of the things left out"
            raise InputError(f"{self.file}: holds no {wanted}{left}")
        return rows, captions, groups, images

    def _told(self, texts: Iterable[str]) -> Iterable[str]:
        """A row's captions, or what they state, each once; none that names what is left out."""
        told: Iterable[str] = texts
        if self.statement is not None:
            grounded = self._grounded()
            told = dict.fromkeys(one for text in texts for one in statements(text, grounded, self.statement))
        if self.without is None:
            return told
        things = _listed_things(self.without)
        named = ((text, name_words(text)) for text in told)
        return [text for text, words in named if not any(names(words, thing) for thing in things)]

    def _captions(self) -> list[tuple[Row, str, Sequence[str]]]:
        """Each row of the file, what it is of, and its captions."""
        kind = self.file.suffix.lower()
        if kind in (".csv", ".tsv"):
            table = read_table(self.file, ("caption",))
            return [(row, _group(row), [row.get("caption", str)]) for row in table]
        if kind in (".json", ".jsonl"):
            if is_coco(self.file):
                images, texts = read_coco(self.file)
                return [(row, key, texts.get(key, ())) for key, row in images.items()]
            return [(row, _group(row), captions_of(row)) for row in read_list_or_lines(self.file)]
        lines = enumerate(self._text().splitlines(), 1)
        return [(Row({}, self.file, "line", n), str(n), [line]) for n, line in lines if line.strip()]

    def _text(self) -> str:
        try:
            return self.file.read_text(encoding=self.encoding)
        except FileNotFoundError:
            raise InputError(f"{self.file}: no such file") from None
        except (OSError, UnicodeError, LookupError) as error:
            raise InputError(
                f"{self.file}: cannot be read as {self.encoding} text ({error}); say which it is, such as "
                "encoding=latin-1"
            ) from error


@lru_cache
def _listed_words(path: Path) -> frozenset[str]:
    words = read_json(path)
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise InputError(f"{path}: expected a JSON list of words, found {words!r:.60}")
    return frozenset(word.lower() for word in words)


@lru_cache
def _listed_things(path: Path) -> tuple[list[str], ...]:
    return tuple(name_words(thing) for thing in _listed_words(path))


def _group(row: Row) -> str:
    image = row.values.get("image")
    return image if isinstance(image, str) and image else str(row.number)


def spans(text: str) -> list[tuple[int, int]]:
    """Where its words are: (start, end) of each."""
    return [match.span() for match in WORD.finditer(text)]


def masked_spans(text: str, masked: str) -> list[tuple[int, int]]:
    """Which words of a text are masked in what `Cloze.draw` made of it: (start, end) in the text."""
    ends: Mapping[int, int] = dict(spans(text))
    found, at = [], 0
    for piece in masked.split(MASK)[:-1]:
        start = at + len(piece)
        found.append((start, ends[start]))
        at = ends[start]
    return found


def without_masks(text: str) -> str:
    """A text without its masked words: what may be told to whoever looks for images of it."""
    return one_line(text.replace(MASK, " "))


def first_word(answer: str) -> str:
    match = WORD.search(answer)
    return match.group().lower() if match else ""
