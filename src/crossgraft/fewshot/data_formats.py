"""The three ways to hand over labelled images: a folder per class, a CoOp split file, a CSV. Each becomes a `Listing`.

A listing says only what the folder or file says; whether one can train on it is checked by `crossgraft.fewshot.data`.
The split file is that of CoOp (Zhou et al., 2022, arXiv 2109.01134): {"train": [[path, label, class name], ...], ...}.
"""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
import reprlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from crossgraft.encoders.images import IMAGE_SUFFIXES
from crossgraft.errors import InputError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
PARTS = ("train", "val", "test")
# How many of a split's images are looked for when the image root has to be found.
PROBES = 20


@dataclass(frozen=True)
class Listing:
    """What a data source says.

    Attributes:
        name: a short name for tables.
        where: the folder or file that messages name.
        source: a description of kind and place.
        root: the folder that paths are relative to.
        classes: class names in the order of their labels.
        parts: "train" / "val" / "test" -> (path relative to root, class name) of each image; absent parts are absent.
    """

    name: str
    where: Path
    source: str
    root: Path
    classes: tuple[str, ...]
    parts: dict[str, list[tuple[str, str]]]


def read_listing(data: Path, split: Path | None, root: Path | None) -> Listing:
    """Read a data source of any kind; arguments as in `crossgraft.fewshot.data.load_data`.

    Raises:
        InputError: it does not exist, is of no known kind, or is not well-formed.
    """
    data = Path(os.path.abspath(data))
    if not os.path.exists(data):
        raise InputError(
            f"{data}: no such file or folder; expected an image folder, a split file (.json) or a CSV (.csv)"
        )
    if data.is_dir() and split is None:
        if root is not None:
            raise InputError(
                f"{data}: an image root ({root}) goes with a split file or a CSV, not with an image folder"
            )
        return _read_folder(data)
    if data.is_dir() and split is not None:
        if root is not None:
            raise InputError(f"{root}: the image root is given twice, as {data} too; give one of them")
        return _read_file(Path(os.path.abspath(split)), data)
    if split is not None:
        raise InputError(f"{data}: with a split file ({split}) this must be the folder of the images, and it is a file")
    return _read_file(data, None if root is None else Path(os.path.abspath(root)))


# A folder per class


def _read_folder(data: Path) -> Listing:
    folders = _subfolders(data)
    known = [f for f in folders if f.name.casefold() in SPLIT_NAMES]
    by_part = {SPLIT_NAMES[f.name.casefold()]: f for f in known}
    # A class may well be called "train": only beside val/ or test/, or alone, does train/ mean the training images.
    if not known or not (len(known) == len(folders) or ("train" in by_part and len(by_part) > 1)):
        parts = {"train": _class_images(data, data, empty_is_error=True)}
    else:
        if len(by_part) < len(known):
            raise InputError(
                f"{data}: {name_list(f.name for f in known)} name one split twice; keep one folder for each"
            )
        strays = [f.name for f in folders if f not in known and next(iter(_images_below(f)), None)]
        if strays:
            raise InputError(
                f"{data}: {name_list(f.name for f in known)} are read as splits, but {name_list(strays)} beside them "
                "hold images too; move those out, or the classes into train/ and test/"
            )
        parts = {p: _class_images(by_part[p], data, empty_is_error=p == "train") for p in PARTS if p in by_part}
    classes = tuple(sorted({name for images in parts.values() for _, name in images}))
    return Listing(data.name, data, f"image folder {data}", data, classes, parts)


def _class_images(folder: Path, root: Path, *, empty_is_error: bool) -> list[tuple[str, str]]:
    """(path relative to root, class folder's name) of every image below `folder`, in sorted order."""
    images, empty = [], []
    for class_folder in _subfolders(folder):
        _class_name(class_folder.name, str(folder))
        found = _images_below(class_folder)
        if not found:
            empty.append(class_folder.name)
        images += [(p.relative_to(root).as_posix(), class_folder.name) for p in found]
    if not images:
        loose = sum(p.suffix.lower() in IMAGE_SUFFIXES for p in folder.iterdir())
        found_text = f"{loose} images without a class folder" if loose else "no image"
        raise InputError(f"{folder}: {found_text}; expected a folder per class with its images in it")
    if empty and empty_is_error:
        raise InputError(
            f"{folder}: no image in the class folders {name_list(empty)}; add photos or remove the folders"
        )
    return images


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(f for f in folder.iterdir() if not _ignored(f.name) and f.is_dir())
    except OSError as error:
        raise InputError(f"{folder}: cannot read the folder ({error.strerror}); check its permissions") from error


def _images_below(folder: Path) -> list[Path]:
    """Images at any depth below a folder, links followed (each real folder once, so a loop of links ends)."""
    images: list[Path] = []
    seen = {os.path.realpath(folder)}

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename}: cannot read the folder ({error.strerror}); check its permissions"
        ) from error

    for current, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        kept = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(current, name))
            if not _ignored(name) and real not in seen:
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        images += [
            Path(current, name)
            for name in files
            if not _ignored(name) and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
        ]
    return sorted(images)


def _ignored(name: str) -> bool:
    """Hidden files and folders, and what a Mac adds to a zip file."""
    return name.startswith(".") or name == "__MACOSX"


# Split files and CSVs


def _read_file(file: Path, root: Path | None) -> Listing:
    """Read a split file or a CSV with its images below `root` (None: beside the file)."""
    readers = {".json": ("split file", _read_split_json), ".csv": ("CSV", _read_csv), ".tsv": ("CSV", _read_csv)}
    if file.suffix.lower() not in readers:
        raise InputError(
            f"{file}: unknown kind of file; expected a split file (.json), a CSV (.csv, .tsv) or an image folder"
        )
    kind, reader = readers[file.suffix.lower()]
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); expected a {kind}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: byte {error.start} is not UTF-8; save the file with UTF-8 encoding") from error
    classes, parts = reader(file, text)
    if root is not None and not root.is_dir():
        raise InputError(f"{root}: the image root is no folder; give the folder that the paths in {file} start from")
    root = _find_root(file, file.parent if root is None else root, parts)
    name = file.stem.removeprefix("split_zhou_") or file.stem
    return Listing(name, file, f"{kind} {file}, images in {root}", root, classes, parts)


def _read_split_json(file: Path, text: str) -> tuple[tuple[str, ...], dict[str, list[tuple[str, str]]]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not valid JSON ({error}); expected a CoOp split file") from error
    if not isinstance(content, dict) or not content or set(content) - set(PARTS):
        keys = name_list(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise InputError(f'{file}: expected an object with the keys "train", "val", "test", found {keys}')
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    parts: dict[str, list[tuple[str, str]]] = {}
    for part, entries in content.items():
        if not isinstance(entries, list):
            raise InputError(
                f'{file}: "{part}" must be a list of [path, label, class name], found {reprlib.repr(entries)}'
            )
        parts[part] = []
        for i, entry in enumerate(entries):
            at = f'{file}: entry {i} of "{part}"'
            match entry:
                case [str(path), int(label), str(name)] if label >= 0 and not isinstance(label, bool):
                    pass
                case _:
                    raise InputError(f"{at}: expected [path, label, class name], found {reprlib.repr(entry)}")
            name = _class_name(name, at)
            if names.setdefault(label, name) != name:
                raise InputError(
                    f"{at}: label {label} is {name!r} here and {names[label]!r} before; one label, one name"
                )
            if labels.setdefault(name, label) != label:
                raise InputError(
                    f"{at}: class {name!r} has label {label} here and {labels[name]} before; one name, one label"
                )
            parts[part].append((_relative_path(path, at), name))
    return tuple(names[label] for label in sorted(names)), parts


def _read_csv(file: Path, text: str) -> tuple[tuple[str, ...], dict[str, list[tuple[str, str]]]]:
    header_line = text.splitlines()[0] if text.strip() else ""
    for delimiter in ",;\t":
        header = [cell.strip().strip('"').strip().casefold() for cell in header_line.split(delimiter)]
        if header.count("image") == header.count("label") == 1 and header.count("split") <= 1:
            break
    else:
        raise InputError(
            f"{file}, line 1: expected the header image,label or image,label,split (comma, semicolon or tab), "
            f"found {reprlib.repr(header_line)}"
        )
    columns = {name: header.index(name) for name in ("image", "label", "split") if name in header}
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    parts: dict[str, list[tuple[str, str]]] = {}
    try:
        next(rows)
        for row in rows:
            at = f"{file}, line {rows.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise InputError(f"{at}: expected {len(header)} cells as in the header, found {len(row)}")
            cells = {name: row[i].strip() for name, i in columns.items()}
            part = SPLIT_NAMES.get(cells.get("split", "train").casefold())
            if part is None:
                raise InputError(f"{at}: split is {cells['split']!r}; expected train, val or test")
            image = (_relative_path(cells["image"], at), _class_name(cells["label"], at))
            parts.setdefault(part, []).append(image)
    except csv.Error as error:
        raise InputError(f"{file}, line {rows.line_num}: not valid CSV ({error})") from error
    return tuple(sorted({name for images in parts.values() for _, name in images})), parts


def _class_name(name: str, at: str) -> str:
    name = name.strip()
    if not name or any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise InputError(f"{at}: {name!r} is no class name; expected text without control characters")
    return name


def _relative_path(path: str, at: str) -> str:
    """The path with forward slashes and without detours, if it stays below the image root."""
    path = path.replace("\\", "/")
    clean = posixpath.normpath(path)
    if not path or clean == "." or any(unicodedata.category(c) in ("Cc", "Cs") for c in path):
        raise InputError(f"{at}: {path!r} is no path of an image")
    if path.startswith("/") or PureWindowsPath(path).drive or clean.split("/")[0] == "..":
        raise InputError(f"{at}: {path!r} leaves the image root; expected a path relative to it")
    return clean


def _find_root(file: Path, folder: Path, parts: dict[str, list[tuple[str, str]]]) -> Path:
    """The image root: the folder itself, or its only subfolder in which listed images lie."""
    probes = [path for images in parts.values() for path, _ in images[:PROBES]]

    def holds(root: Path) -> bool:
        return any(os.path.isfile(root / p) for p in probes)

    if not probes or holds(folder):
        return folder
    hits = [f for f in _subfolders(folder) if holds(f)]
    if len(hits) > 1:
        raise InputError(f"{file}: its images lie in {name_list(map(str, hits))}; say which is the image root")
    return hits[0] if hits else folder


def name_list(names: Iterable[str], limit: int = 8) -> str:
    """A list for a message, cut after `limit`."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(repr(n) for n in listed[:limit]) + more
