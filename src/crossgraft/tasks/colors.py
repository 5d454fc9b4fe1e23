"""Objects and the colours that people say they have: Memory Colors, Color Terms, CoDa, or a table of one's own.

Memory Colors: 109 objects, each of a colour that people know by heart (Norlund, Hagström, Johansson 2021, "Transferring
Knowledge from Vision to Language", arXiv 2109.11321). Color Terms: 52 concrete nouns (Bruni, Boleda, Baroni, Tran 2012,
"Distributional Semantics in Technicolor", ACL). CoDa: 521 objects, each with the shares of colours that several people
gave it (Paik, Aroca-Ouellette, Roncone, Kann 2021, "The World of an Octopus", arXiv 2110.08182).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from crossgraft.errors import InputError
from crossgraft.files import sha256_file
from crossgraft.tasks.files import Row, by_id, one_line, read_lines, read_list_or_lines, read_table

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black", "grey")
SPELLINGS: Mapping[str, tuple[str, ...]] = {color: (color,) for color in COLORS} | {"grey": ("grey", "gray")}
"""What a model may say for each colour: American texts have "gray", British ones and these data sets "grey"."""

MEMORY_COLORS, COLOR_TERMS, CODA, OWN = "memory-colors", "color-terms", "coda", "colors"
PUBLISHED = {MEMORY_COLORS: 109, COLOR_TERMS: 52, CODA: 521}
CORRECTIONS: Mapping[str, Mapping[str, str]] = {MEMORY_COLORS: {"pumpkin": "orange"}}
"""Labels that a public copy has wrong, and those of the authors' own file: VaLM's CSV says that a pumpkin is red."""

ANNOTATIONS, OBJECTS = "annotations.jsonl", "objects.jsonl"  # CoDa's two files
_LABELS, _NAMES = ("label", "color", "colour"), ("item", "object")
_LEFT_OVER = re.compile(r"\[[A-Za-z]+\]|\{[a-z]*\}")
# Color Terms gives bare nouns: these want "a" or "an", these "the", all others are stuff and want nothing.
_COUNTED = frozenset(
    {"banana", "beaver", "carrot", "cello", "cherry", "cloud", "cockroach", "crow", "deer", "dolphin", "elephant"}
    | {"forest", "gorilla", "pig", "salad", "shadow", "silhouette", "strawberry", "swan", "violin", "weed"}
)
_ONLY = frozenset({"sea", "sky"})
_ONLY_PLURAL = ("binoculars", "cattle", "dice", "peppers", "scissors", "shorts")  # CoDa has them as singulars, too
_AN = re.compile(r"(?!unic|unif|unit|use|euro|one\b)[aeiou]|hour|heir", re.IGNORECASE)
_AS_MUCH = 1e-9  # shares closer than this are equal: they are sums of fractions


@dataclass(frozen=True)
class ColoredObject:
    """An object and its colour.

    Attributes:
        name: such as "pineapple".
        phrase: as it stands in a sentence, such as "the inside of a pineapple".
        color: one of `COLORS`.
        several: whether the phrase is plural.
        plural: of the name, for sentences about all of its kind; None where the data set gives none.
        shares: how much people give it of each of `COLORS`, in sum 1 (CoDa); None where there is just a colour.
    """

    name: str
    phrase: str
    color: str
    several: bool = False
    plural: str | None = None
    shares: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ColorData:
    """Objects of a data set. Make one with `read_colors`.

    Attributes:
        name: which data set it is: memory-colors, color-terms, coda, or colors for a table of one's own.
        files: name -> SHA-256 of what was read.
        notes: what is particular about this copy.
    """

    name: str
    objects: tuple[ColoredObject, ...]
    files: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file; of several, of their names and theirs."""
        if len(self.files) == 1:
            return next(iter(self.files.values()))
        return hashlib.sha256(json.dumps(dict(self.files), sort_keys=True).encode()).hexdigest()


def load_colors(path: str | Path) -> list[ColoredObject]:
    """The objects of a data set, as `read_colors` reads it."""
    return list(read_colors(path).objects)


def read_colors(path: str | Path, *, correct: bool = False) -> ColorData:
    """Read a data set; which one it is shows in its content.

    Args:
        path: Memory Colors (JSON lines with item, descriptor, label; or VaLM's CSV with descriptor, item, color), Color
            Terms (CSV with object, color), a table of one's own (either CSV), or a folder with CoDa's
            annotations.jsonl and objects.jsonl.
        correct: take the authors' label where this copy is known to have a wrong one (`CORRECTIONS`).

    Raises:
        InputError: the file is missing, of none of these layouts, or damaged; a colour is none of the eleven; a
            placeholder stands in the place of a word; an object comes twice.
    """
    path = Path(path)
    if path.is_dir():
        return _coda(path)
    rows = read_list_or_lines(path) if _is_json(path) else read_table(path, ())
    keys = rows[0].values if rows else {}
    if "class_id" in keys:
        raise InputError(
            f"{path}: is a part of CoDa; give the folder that holds {ANNOTATIONS} and {OBJECTS} (the hub's export, "
            "which has neither, is not read)"
        )
    name_key = next((key for key in _NAMES if key in keys), None)
    label_key = next((key for key in _LABELS if key in keys), None)
    if name_key is None or label_key is None:
        raise InputError(
            f"{path}: expected item, descriptor and label (Memory Colors) or object and color (Color Terms), found: "
            f"{', '.join(map(str, keys)) or 'nothing'}"
        )
    objects = [_object(row, name_key, label_key) for row in rows]
    _check_once(rows, objects)
    if name_key == "item":
        name = MEMORY_COLORS
    else:
        name = COLOR_TERMS if len(_COUNTED & {one.name for one in objects}) > len(_COUNTED) / 2 else OWN
    objects, notes = _corrected(objects, CORRECTIONS.get(name, {}), correct)
    return ColorData(name, tuple(objects), {path.name: sha256_file(path)}, (*_count(name, objects), *notes))


def _is_json(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(1000).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _object(row: Row, name_key: str, label_key: str) -> ColoredObject:
    name = _word(row, name_key)
    if "descriptor" in row.values:
        descriptor = _word(row, "descriptor", empty=True)
    else:
        descriptor = "the" if name in _ONLY else article(name) if name in _COUNTED else ""
    phrase = f"{descriptor} {name}".strip()
    return ColoredObject(name, phrase, _color(row, label_key), several=not descriptor and _looks_plural(name))


def _word(row: Row, key: str, empty: bool = False) -> str:
    text = one_line(row.get(key, str) if empty else row.text(key))
    if _LEFT_OVER.search(text):
        raise InputError(f"{row.where}: {key!r} is a placeholder that nobody filled in ({text!r}); put the word there")
    return text


def _color(row: Row, key: str) -> str:
    color = row.text(key).lower()
    color = "grey" if color == "gray" else color
    if color not in COLORS:
        raise InputError(f"{row.where}: {key!r} must be one of {', '.join(COLORS)}, found {color!r:.60}")
    return color


def article(name: str) -> str:
    """The indefinite article before a name: "a" or "an"."""
    return "an" if _AN.match(name) else "a"


def _looks_plural(name: str) -> bool:
    last = name.split()[-1]
    return last in (*_ONLY_PLURAL, "sheep") or (last.endswith("s") and not last.endswith(("ss", "us", "is")))


def _check_once(rows: Sequence[Row], objects: Sequence[ColoredObject]) -> None:
    places: dict[str, Row] = {}
    for row, one in zip(rows, objects, strict=True):
        first = places.setdefault(one.phrase, row)
        if first is not row:
            raise InputError(f"{row.where}: {one.phrase!r} is already at {first.where}; keep one of them")


def _corrected(
    objects: Sequence[ColoredObject], labels: Mapping[str, str], correct: bool
) -> tuple[list[ColoredObject], list[str]]:
    found, notes = [], []
    for one in objects:
        wanted = labels.get(one.name, one.color)
        if wanted != one.color:
            done = f"taken as {wanted}" if correct else "left as it is here (--correct takes the authors' label)"
            notes.append(f"{one.name} is {one.color} in this copy, {wanted} in the authors' file: {done}")
        found.append(replace(one, color=wanted) if correct else one)
    return found, notes


def _count(name: str, objects: Sequence[ColoredObject]) -> list[str]:
    published = PUBLISHED.get(name, len(objects))
    if len(objects) == published:
        return []
    return [f"{len(objects)} objects, but {name} has {published}: scores on this copy compare with no published ones"]


def _coda(folder: Path) -> ColorData:
    """CoDa: for each object, the mean over people of the shares that each one gave the colours."""
    absent = [name for name in (ANNOTATIONS, OBJECTS) if not (folder / name).is_file()]
    if absent:
        raise InputError(f"{folder}: holds no {' and no '.join(absent)}; expected the folder of CoDa's two files")
    said: dict[str, list[list[float]]] = defaultdict(list)
    for row in read_lines(folder / ANNOTATIONS):
        if row.get("action", str) == "submitted" and row.get("included", bool):
            said[row.identifier("class_id")].append(_shares(row))
    rows = by_id(read_lines(folder / OBJECTS), "class_id")
    silent = [row.where for key, row in rows.items() if key not in said]
    if silent:
        raise InputError(f"{silent[0]}: nobody's colours for it are in {ANNOTATIONS} (and {len(silent) - 1} more)")
    objects, tied = [], 0
    for key, row in rows.items():
        shares = [sum(column) / len(said[key]) for column in zip(*said[key], strict=True)]
        # Of colours with equal shares the first in alphabetical order, as in CoDa's own code ("gray" and "grey" alike).
        best = sorted(color for color, share in zip(COLORS, shares, strict=True) if share > max(shares) - _AS_MUCH)
        tied += len(best) > 1
        objects.append(_coda_object(row, best[0], tuple(shares)))
    _check_once(list(rows.values()), objects)
    notes = _count(CODA, objects)
    if tied:
        notes.append(f"{tied} of {len(objects)} objects have several likeliest colours: the first by name is taken")
    files = {name: sha256_file(folder / name) for name in (ANNOTATIONS, OBJECTS)}
    return ColorData(CODA, tuple(objects), files, tuple(notes))


def _shares(row: Row) -> list[float]:
    counts = Counter[str]()
    for color in COLORS:
        key = color if color in row.values else SPELLINGS[color][-1]
        count = row.get(key, int, float)
        if not 0 <= count < float("inf"):
            raise InputError(f"{row.where}: {key!r} must be a number of at least 0, found {count!r}")
        counts[color] = count
    total = sum(counts.values())
    if not total:
        raise InputError(f"{row.where}: no colour has a count; expected at least one above 0")
    return [counts[color] / total for color in COLORS]


def _coda_object(row: Row, color: str, shares: tuple[float, ...]) -> ColoredObject:
    """CoDa gives singular and plural, either of which may be null, and the verb of each."""
    one, all_ = (row.get(key, str, type(None)) for key in ("object_s", "object_pl"))
    verb = row.get("areis_pl", str, type(None))
    name = one_line(one or all_ or "")
    if not name:
        raise InputError(f"{row.where}: 'object_s' and 'object_pl' are both empty; one must be a name")
    several = verb == "are" and (not one or (one == all_ and name in _ONLY_PLURAL))
    bare = several or verb == "is" or not one  # "is" of a plural: it is stuff
    phrase = name if bare else f"{article(name)} {name}"
    plural = one_line(all_) if all_ else None
    return ColoredObject(name, f"the {name}" if name in _ONLY else phrase, color, several, plural, shares)
