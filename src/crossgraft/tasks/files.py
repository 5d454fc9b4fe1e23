"""Reading official annotation files, and writing result files: errors name the file, the line or entry, and the key."""

from __future__ import annotations

import csv
import gc
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from crossgraft.errors import InputError
from crossgraft.files import read_json, write_bytes

Paths = Path | tuple[Path, ...]

# More digits than any id has; Python itself refuses thousands of them.
_WHOLE = re.compile(r"\s*(-?[0-9]{1,18})\s*")

_WORDS = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "keys and values"}


@contextmanager
def many_objects() -> Iterator[None]:
    """Pause the cyclic garbage collector: it would walk over millions of new objects again and again, for nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def listed(paths: Paths | None) -> tuple[Path, ...]:
    """One path, several or none -> a tuple."""
    return () if paths is None else (paths,) if isinstance(paths, Path) else paths


class Row(NamedTuple):
    """One entry of an annotation file, and where it stands: messages are only made when something is wrong."""

    values: dict[str, Any]
    path: Path
    place: str
    number: int | str

    @property
    def where(self) -> str:
        """Such as "dev.json, line 12"."""
        return f"{self.path}, {self.place} {self.number}"

    def get(self, key: str, *kinds: type) -> Any:
        """The value of `key`, which must be there and of one of `kinds`.

        Raises:
            InputError: it is not.
        """
        try:
            value = self.values[key]
        except KeyError:
            raise InputError(
                f"{self.where}: {key!r} is missing; found: {', '.join(map(str, self.values)) or 'nothing'}"
            ) from None
        if type(value) not in kinds:
            expected = " or ".join(_WORDS.get(kind, kind.__name__) for kind in kinds)
            raise InputError(f"{self.where}: {key!r} must be {expected}, found {value!r:.60}")
        return value

    def text(self, key: str) -> str:
        """The text of `key`, without space around it, which must not be empty."""
        value: str = self.get(key, str).strip()
        if not value:
            raise InputError(f"{self.where}: {key!r} is empty")
        return value

    def identifier(self, key: str) -> str:
        """The value of `key`, text or a whole number, as text."""
        value = self.get(key, str, int)
        return value if type(value) is str else str(value)

    def whole(self, key: str) -> int:
        """The value of `key`, a whole number, or text that is one.

        Raises:
            InputError: it is something else.
        """
        value = self.get(key, str, int)
        if type(value) is int:
            return value
        match = _WHOLE.fullmatch(value)
        if match is None:
            raise InputError(f"{self.where}: {key!r} must be a whole number, found {value!r:.60}")
        return int(match.group(1))


def one_line(text: str) -> str:
    """Text with single spaces for all of its line breaks, tabs and runs of spaces, and none around it."""
    return " ".join(text.split())


def rows_of(values: Any, path: Path, place: str = "entry") -> list[Row]:
    """The entries of a list, each of which must hold keys and values; they are numbered from 1.

    Raises:
        InputError: no list, or an entry that is something else.
    """
    if not isinstance(values, list):
        raise InputError(f"{path}: expected a list of {place} values, found {_kind(values)}")
    rows = []
    for number, value in enumerate(values, 1):
        if type(value) is not dict:
            raise InputError(f"{path}, {place} {number}: expected keys and values, found {value!r:.60}")
        rows.append(Row(value, path, place, number))
    return rows


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(repr, list(value)[:8])) or '(none)'}"
    return f"{value!r:.60}"


def read_part(path: Path, key: str) -> tuple[dict[str, Any], list[Row]]:
    """A JSON object, and the rows of the list that it holds under `key`.

    Raises:
        InputError: no JSON, no object, no such key, or no list of objects there.
    """
    content = read_json(path)
    if not isinstance(content, dict) or key not in content:
        raise InputError(
            f"{path}: expected an object with the key {key!r} (the official layout), found {_kind(content)}"
        )
    return content, rows_of(content[key], path, f"'{key}' entry")


def read_lines(path: Path) -> list[Row]:
    """A file of JSON lines, whatever its name ends in; empty lines are passed over.

    Raises:
        InputError: the file is missing or unreadable; a line is no JSON object (a file that is one JSON list is said
            to be one); there are no lines.
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                raise InputError(
                    f"{path}, line {number}: expected one JSON object a line, found {line.strip()!r:.60}"
                ) from None
            if type(value) is not dict:
                hint = "; this is one JSON list, not JSON lines" if number == 1 and isinstance(value, list) else ""
                raise InputError(f"{path}, line {number}: expected a JSON object, found {value!r:.60}{hint}")
            rows.append(Row(value, path, "line", number))
    if not rows:
        raise InputError(f"{path}: is empty; expected one JSON object a line")
    return rows


def read_list_or_lines(path: Path) -> list[Row]:
    """The rows of a file that is either one JSON list of objects or JSON lines."""
    if read_text(path).lstrip().startswith("["):
        return rows_of(read_json(path), path)
    return read_lines(path)


def read_table(path: Path, needed: Sequence[str]) -> list[Row]:
    """A CSV file with a header -> rows of text; comma, semicolon or tab between the columns, as the header shows.

    Raises:
        InputError: a column of `needed` is missing, a column comes twice, a row has more or fewer cells than the
            header, or there are no rows.
    """
    text = read_text(path)
    header = text.split("\n", 1)[0]
    between = max(",;\t", key=header.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=between, strict=True)
    rows: list[Row] = []
    names: list[str] = []
    try:
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [cell.strip().lower() for cell in cells]
                absent = [name for name in needed if name not in names]
                if absent or len(set(names)) < len(names):
                    problem = f"column {absent[0]!r} is missing" if absent else "a column comes twice"
                    raise InputError(
                        f"{path}, line 1: {problem}; needed: {', '.join(needed)}; found: {', '.join(names)}"
                    )
                continue
            if len(cells) != len(names):
                raise InputError(
                    f"{path}, line {lines.line_num}: {len(cells)} cells, but the header has {len(names)} columns "
                    f'({", ".join(names)}); put text with {between!r} in it between "quotes"'
                )
            rows.append(Row(dict(zip(names, cells, strict=True)), path, "line", lines.line_num))
    except csv.Error as error:
        raise InputError(f"{path}, line {lines.line_num}: not CSV ({error})") from None
    if not rows:
        raise InputError(f"{path}: no rows; expected a header with {', '.join(needed)} and a row for each entry")
    return rows


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte order mark.

    Raises:
        InputError: it is missing, or not that.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark in front
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def by_id(rows: Iterable[Row], key: str | Callable[[Row], str], *, whole: bool = False) -> dict[str, Row]:
    """Rows by the text of their id.

    Args:
        rows: entries of a file, or of several.
        key: of the id, or what gives the id of a row.
        whole: ids under `key` must be whole numbers (or text that is one), as the result file wants them.

    Raises:
        InputError: an id is missing or not as it must be; two rows have the same id, and both places are named.
    """
    found: dict[str, Row] = {}
    for row in rows:
        name = key(row) if callable(key) else str(row.whole(key)) if whole else row.identifier(key)
        if name in found:
            what = key if isinstance(key, str) else "id"
            raise InputError(f"{row.where}: {what} {name!r} is already that of {found[name].where}; ids must be unique")
        found[name] = row
    return found


def check_match(left: dict[str, Any], right: dict[str, Any], left_name: str, right_name: str) -> None:
    """Both must hold the same ids.

    Raises:
        InputError: says how many ids are only on one side, and the first.
    """
    for one, other, name, other_name in ((left, right, left_name, right_name), (right, left, right_name, left_name)):
        absent = [key for key in one if key not in other]
        if absent:
            raise InputError(
                f"{len(absent)} of {len(one)} ids of {name} are not in {other_name}, the first {absent[0]!r}; "
                "the two files must be of the same split"
            )


def check_answers(examples: Sequence[Any], answers: Sequence[str]) -> None:
    """There must be one answer an example.

    Raises:
        InputError: there is not, or there are no examples.
    """
    if len(examples) != len(answers):
        raise InputError(f"{len(answers)} answers for {len(examples)} examples; expected one each, in the same order")
    if not examples:
        raise InputError("no examples to score")


def references(examples: Sequence[Any], answers: Sequence[str]) -> list[Any]:
    """What answers are compared with.

    Raises:
        InputError: the split has no labels, or there is not one answer an example.
    """
    check_answers(examples, answers)
    absent = [example.id for example in examples if example.reference is None]
    if absent:
        raise InputError(
            f"this split has no labels ({len(absent)} of {len(examples)} examples, the first {absent[0]!r}): it cannot "
            "be scored here; hand its result file in to the leaderboard, or score another split"
        )
    return [example.reference for example in examples]


def write_result(path: Path, value: Any) -> None:
    """Write a result file as compact JSON, atomically; folders above it are made."""
    _write(path, json.dumps(value, ensure_ascii=False, allow_nan=False))


def write_result_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a result file of lines, atomically; folders above it are made."""
    _write(path, "".join(f"{line}\n" for line in lines))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode("utf-8"))
