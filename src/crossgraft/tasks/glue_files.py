"""The files of GLUE's corpora: what their columns are called, what their labels mean, and reading them.

The files are plain tab-separated text: a quotation mark is a character like any other, and a line is a row. Names of
columns and of labels are those of the official download and of the data set "glue" for Hugging Face's `datasets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from crossgraft.errors import InputError, first_line
from crossgraft.registry import nearest
from crossgraft.tasks.files import Row

MATCHED = ("matched", "mismatched")
"""MNLI has two files each of dev and test: of the genres of train, and of others."""

HIGHEST = 5.0  # of STS-B's scores; the lowest is 0

_ENTAILMENT = {"entailment": "entailment", "not_entailment": "not_entailment"}
_HUB = {"dev": "validation"}  # the data set's name for a part
_HUB_LABEL, _HUB_NUMBER = "label", "idx"


@dataclass(frozen=True)
class Corpus:
    """One of GLUE's nine.

    Attributes:
        name: as GLUE spells it.
        metrics: official ones, of which GLUE's score is the mean.
        texts: columns of the text, or of the pair of texts.
        label: column of the label.
        labels: label in the file -> the word that a model answers, in the order of numbered labels; of two, the last
            is what F1 and Matthews correlation take for yes. Empty: labels are numbers from 0 to `HIGHEST`.
        header: columns of train.tsv and dev.tsv, where they have no first line that says so.
        number: column of a row's number in test.tsv, by which answers are handed in.
        parts: what follows "dev" and "test" in names of files.
        broken: some rows lack columns, and are passed over.
        hub: the name in the data set, whose columns of text are `hub_texts` where they are called otherwise.
    """

    name: str
    metrics: tuple[str, ...]
    texts: tuple[str, ...]
    labels: Mapping[str, str]
    hub: str
    label: str = "label"
    header: tuple[str, ...] = ()
    number: str = "index"
    parts: tuple[str, ...] = ()
    broken: bool = False
    hub_texts: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """What a model answers; nothing where it answers numbers."""
        return tuple(self.labels.values())


_PAIR = ("sentence1", "sentence2")
_CORPORA = (
    Corpus(
        "CoLA",
        ("matthews",),
        ("sentence",),
        {"0": "unacceptable", "1": "acceptable"},
        "cola",
        header=("source", "label", "mark", "sentence"),
    ),
    Corpus("SST-2", ("accuracy",), ("sentence",), {"0": "negative", "1": "positive"}, "sst2"),
    Corpus(
        "MRPC",
        ("accuracy", "f1"),
        ("#1 String", "#2 String"),
        {"0": "not_equivalent", "1": "equivalent"},
        "mrpc",
        label="Quality",
        hub_texts=_PAIR,
    ),
    Corpus("STS-B", ("pearson", "spearman"), _PAIR, {}, "stsb", label="score"),
    Corpus(
        "QQP",
        ("accuracy", "f1"),
        ("question1", "question2"),
        {"0": "not_duplicate", "1": "duplicate"},
        "qqp",
        label="is_duplicate",
        number="id",
        broken=True,
    ),
    Corpus(
        "MNLI",
        ("accuracy",),
        _PAIR,
        {word: word for word in ("entailment", "neutral", "contradiction")},
        "mnli",
        label="gold_label",
        parts=MATCHED,
        hub_texts=("premise", "hypothesis"),
    ),
    Corpus("QNLI", ("accuracy",), ("question", "sentence"), _ENTAILMENT, "qnli"),
    Corpus("RTE", ("accuracy",), _PAIR, _ENTAILMENT, "rte"),
    Corpus("WNLI", ("accuracy",), _PAIR, {"0": "not_entailment", "1": "entailment"}, "wnli"),
)
CORPORA = {corpus.name.lower(): corpus for corpus in _CORPORA}


class Entry(NamedTuple):
    """A row of a file.

    Attributes:
        number: from 0, or the official one in the files that are handed in.
        second: empty in a corpus of single texts.
        answer: the word or number; None where labels are hidden.
    """

    number: str
    text: str
    second: str
    answer: str | None


def find_corpus(name: str) -> Corpus:
    """The corpus of that name, whatever its capitals.

    Raises:
        InputError: there is none.
    """
    if name.lower() not in CORPORA:
        raise InputError(
            f"corpus: unknown corpus {name!r}; {nearest(name.lower(), CORPORA)}known: "
            f"{', '.join(corpus.name for corpus in _CORPORA)}"
        )
    return CORPORA[name.lower()]


def read_tsv(path: Path, corpus: Corpus, *, hidden: bool = False) -> list[Entry]:
    """An official file.

    Args:
        hidden: the file has no labels, and numbers its rows.

    Raises:
        InputError: the file is missing or no UTF-8; a column is missing; a row has more or fewer cells than there are
            columns; a text is empty; a label is none of the corpus's; there are no rows.
    """
    lines = _lines(path)
    first = 0 if corpus.header and not hidden else 1
    names = lines[0].split("\t") if first else list(corpus.header)
    needed = (*corpus.texts, corpus.number if hidden else corpus.label)
    absent = [name for name in needed if name not in names]
    if absent:
        raise InputError(
            f"{path}, line 1: column {absent[0]!r} of {corpus.name} is missing; found: {', '.join(names):.200}"
        )
    places = [(name, names.index(name)) for name in needed]  # MNLI has ten columns more, some of them large
    entries = []
    for number, line in enumerate(lines[first:]):
        cells = line.split("\t")
        if len(cells) < len(names) and corpus.broken:
            continue
        if len(cells) != len(names):
            raise InputError(
                f"{path}, line {number + first + 1}: {len(cells)} cells between tabs, expected {len(names)} "
                f"({', '.join(names):.200}); take GLUE's own file"
            )
        row = Row({name: cells[place] for name, place in places}, path, "line", number + first + 1)
        # Of QQP's questions a few are empty.
        texts = [row.get(name, str).strip() if corpus.broken else row.text(name) for name in corpus.texts]
        own = str(row.whole(corpus.number)) if hidden else str(number)
        answer = None if hidden else _answer(row, corpus)
        entries.append(Entry(own, texts[0], texts[1] if len(texts) > 1 else "", answer))
    if not entries:
        raise InputError(f"{path}: no rows; expected the columns {', '.join(names):.200} and a row for each text")
    return entries


def _lines(path: Path) -> list[str]:
    """Lines end at line breaks alone: texts hold other characters that Python counts as ends of lines."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # MRPC's files begin with a byte order mark
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; 'folder' must hold the corpus's files as GLUE names them") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _answer(row: Row, corpus: Corpus) -> str:
    label = row.text(corpus.label)
    if corpus.labels:
        if label not in corpus.labels:
            raise InputError(
                f"{row.where}: {corpus.label!r} must be one of {', '.join(corpus.labels)}, found {label!r:.40}"
            )
        return corpus.labels[label]
    value = number_of(label)
    if value is None or not 0 <= value <= HIGHEST:
        raise InputError(f"{row.where}: {corpus.label!r} must be a number from 0 to {HIGHEST:g}, found {label!r:.40}")
    return label


def number_of(text: str) -> float | None:
    """The number that a text is; None if it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def read_dataset(name: str, corpus: Corpus, part: str, *, hidden: bool = False) -> list[Entry]:
    """A part of GLUE as Hugging Face's `datasets` has it.

    Args:
        name: the data set, such as "nyu-mll/glue", or a folder: one that `save_to_disk` wrote of a corpus, or a data
            set's own.
        part: "train", or as the official file is called without its ending, such as "dev_matched".
        hidden: the part has no labels.

    Raises:
        InputError: the package is not installed; no such data set or part; a column is missing, or a label is none of
            the corpus's.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(
            "task 'glue': 'dataset' needs the package datasets, which is not installed; run: pip install datasets "
            "(or set 'folder' to a folder of GLUE's own files)"
        ) from None
    folder = Path(name).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(str(folder) if folder.is_dir() else name, corpus.hub)
    except Exception as error:  # whatever a hub, a cache or a damaged file comes up with
        raise InputError(f"dataset {name!r}: {corpus.hub} cannot be loaded ({first_line(error)})") from error
    stem, _, of = part.partition("_")
    split = "_".join(filter(None, (_HUB.get(stem, stem), of)))
    if split not in found:
        raise InputError(f"dataset {name!r}: {corpus.hub} has no split {split!r}; found: {', '.join(found)}")
    rows = found[split]
    columns = (*(corpus.hub_texts or corpus.texts), _HUB_LABEL)
    absent = [column for column in columns if column not in rows.column_names]
    if absent:
        raise InputError(
            f"dataset {name!r}, split {split!r}: column {absent[0]!r} of {corpus.name} is missing; "
            f"found: {', '.join(rows.column_names)}"
        )
    words = getattr(rows.features[_HUB_LABEL], "names", corpus.words)
    if set(words) != set(corpus.words):
        raise InputError(f"dataset {name!r}: the labels of {corpus.name} are {', '.join(corpus.words)}, found {words}")
    entries = []
    for number, values in enumerate(rows):
        texts = [str(values[column]).strip() for column in columns[:-1]]
        own = str(values.get(_HUB_NUMBER, number)) if hidden else str(number)
        answer = None if hidden else _dataset_answer(values[_HUB_LABEL], words, f"{name}, {split}, row {number}")
        entries.append(Entry(own, texts[0], texts[1] if len(texts) > 1 else "", answer))
    return entries


def _dataset_answer(label: Any, words: Sequence[str], where: str) -> str:
    most = len(words) - 1 if words else HIGHEST
    if not 0 <= label <= most:  # hidden ones are -1
        raise InputError(f"{where}: the label must be 0 to {most:g}, found {label!r}")
    return words[int(label)] if words else f"{label:.3f}"  # single precision: 3.7999999523162842
