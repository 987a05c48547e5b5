"""What `akin ingest` reads: pictures of folders and zip files, and the items.jsonl that describes them."""

from __future__ import annotations

import json
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from services.errors import InvalidRequest
from services.sources.names import ITEM_FIELDS, MANIFEST_NAME, PICTURE_SUFFIXES, clean_ref, suffix_of


class Unreadable(Exception):
    """The bytes of one picture cannot be read; the message says why, `code` for programs."""

    def __init__(self, detail: str, code: str = "unreadable") -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True)
class Picture:
    """One picture of a source.

    `fingerprint` changes when the file does; `read(limit)` returns at most limit + 1 bytes and raises
    Unreadable.
    """

    ref: str
    size: int
    fingerprint: str
    item: Mapping[str, Any]
    read: Callable[[int], bytes]


@dataclass(frozen=True)
class File:
    """A file before it is known to be a picture; the members are those of `Picture`."""

    ref: str
    size: int
    fingerprint: str
    read: Callable[[int], bytes]


class Pictures(Protocol):
    """Pictures to upload, in a stable order.

    Once `pictures` is through, `skipped` has counted by extension what is none, and `described` those that an
    items.jsonl names.
    """

    skipped: Counter[str]
    described: int

    def count(self) -> int:
        """How many there are."""
        ...

    def pictures(self) -> Iterator[Picture]:
        """Every picture, one after the other."""
        ...


class Source:
    """The pictures of one folder, zip file or single file, in a stable order.

    Hidden files are passed over; files whose extension is not that of a picture are counted in
    `skipped` by extension; `described` counts pictures that items.jsonl names.

    Raises:
        InvalidRequest: the path does not exist, is not a zip file, or its items.jsonl is malformed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped: Counter[str] = Counter()
        self.described = 0
        if path.is_dir():
            self._files: Callable[[], Iterator[File]] = lambda: _folder_files(path)
            manifest = path / MANIFEST_NAME
            self._items = _read_items_file(manifest) or _beside(path)
        elif path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES:
            self._files = lambda: iter((disk_file(path, path.name),))
            self._items = _beside(path)
        elif zipfile.is_zipfile(path):
            self._files = lambda: _zip_files(path)
            self._items = _read_zip_items(path) or _beside(path)
        else:
            problem = "is not a folder, a zip file or a picture" if path.exists() else "does not exist"
            raise InvalidRequest(f"{path} {problem}")

    def count(self) -> int:
        """How many pictures there are; reads names, not pictures."""
        return sum(_is_picture(file.ref) for file in self._files())

    def pictures(self) -> Iterator[Picture]:
        """Every picture, one after the other; only names are held."""
        self.skipped.clear()
        self.described = 0
        for file in self._files():
            if not _is_picture(file.ref):
                if PurePosixPath(file.ref).name != MANIFEST_NAME:
                    self.skipped[suffix_of(file.ref) or "no extension"] += 1
                continue
            item = self._items.get(file.ref, {})
            self.described += bool(item)
            yield Picture(file.ref, file.size, file.fingerprint, item, file.read)


def _is_picture(ref: str) -> bool:
    return suffix_of(ref) in PICTURE_SUFFIXES


def _folder_files(folder: Path) -> Iterator[File]:
    def refuse(error: OSError) -> None:
        raise InvalidRequest(f"{error.filename} cannot be read: {error.strerror}") from error

    for directory, names, files in os.walk(folder, onerror=refuse):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(directory, name)
            ref = clean_ref(path.relative_to(folder).as_posix())
            if ref is not None:
                yield disk_file(path, ref)


def disk_file(path: Path, ref: str) -> File:
    """A file of this machine, which need not exist."""
    try:
        facts = path.stat()
    except OSError:  # a dangling link or a file removed meanwhile: reading it tells the reason
        return File(ref, 0, "absent", lambda limit: _read_disk(path, limit))
    return File(ref, facts.st_size, f"{facts.st_size}-{facts.st_mtime_ns}", lambda limit: _read_disk(path, limit))


def _read_disk(path: Path, limit: int) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise Unreadable("not a regular file")
        with path.open("rb") as stream:
            return stream.read(limit + 1)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error


def _zip_files(path: Path) -> Iterator[File]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            ref = clean_ref(member.filename)
            if ref is None or member.is_dir():
                continue

            def read(limit: int, member: zipfile.ZipInfo = member) -> bytes:
                return _read_member(archive, member, limit)

            yield File(ref, member.file_size, f"{member.file_size}-{member.CRC:08x}", read)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    try:
        with archive.open(member) as stream:
            return stream.read(limit + 1)
    # An encrypted member is a RuntimeError, an unknown compression a NotImplementedError.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise Unreadable(str(error) or type(error).__name__) from error


def _read_items_file(path: Path) -> dict[str, Mapping[str, Any]]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        return _parse_items(lines, str(path))


def _beside(path: Path) -> dict[str, Mapping[str, Any]]:
    """Items of a manifest next to the source; it may name files from there or from inside the source."""
    items = _read_items_file(path.resolve().parent / MANIFEST_NAME)
    inside = f"{path.resolve().name}/"
    return {file.removeprefix(inside): item for file, item in items.items()}


def _read_zip_items(path: Path) -> dict[str, Mapping[str, Any]]:
    """Items of the outermost manifest of a zip file; it names files relative to where it lies."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if PurePosixPath(name).name == MANIFEST_NAME and clean_ref(name)]
        if not names:
            return {}
        name = min(names, key=lambda name: (name.count("/"), name))
        try:
            text = archive.read(name).decode("utf-8", errors="replace")
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise InvalidRequest(f"{path}: {name} cannot be read: {error}") from error
    folder = name.removesuffix(MANIFEST_NAME)
    items = _parse_items(text.splitlines(), f"{path}: {name}")
    return {clean_ref(folder + file) or file: item for file, item in items.items()}


def _parse_items(lines: Iterable[str], where: str) -> dict[str, Mapping[str, Any]]:
    items: dict[str, Mapping[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InvalidRequest(f"{where}, line {number}: not JSON ({error})") from error
        if not isinstance(record, dict) or not isinstance(record.get("file"), str):
            raise InvalidRequest(f'{where}, line {number}: must be an object with a "file"')
        items[clean_ref(record["file"]) or ""] = {name: record[name] for name in ITEM_FIELDS if name in record}
    return items
