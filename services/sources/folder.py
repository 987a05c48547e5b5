"""A folder below a root that was configured; nothing outside of the root is ever opened."""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from services.catalog.items import ItemFields
from services.errors import ImageReason, ImageRejected, InvalidRequest, Unavailable
from services.sources.base import NOT_A_FILE, UNREADABLE, Base, Cursor, Problem, Reference, Step, is_passed_over
from services.sources.names import MANIFEST_NAME, clean_ref, item_id_of
from services.sources.records import MAX_DESCRIPTIONS_BYTES, UNREADABLE_MANIFEST, Descriptions

# A folder of any size is listed so many names at a time, from the first that was not yet listed.
_BATCH: Final = 50_000
_MAX_DEPTH: Final = 64
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK opening a pipe would wait for ever.
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What is wrong with one file; anything else (EIO, EMFILE) is wrong with the disk or this process.
_OF_THE_FILE: Final = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENXIO,
    errno.ENAMETOOLONG,
)
_Path = tuple[bytes, ...]


class Folder(Base):
    """The pictures below a folder, in the order of the bytes of their names, folder by folder.

    Every step is taken from an open folder and follows no symbolic link, so what is moved or linked meanwhile leads
    nowhere else. Places and cursors are paths, percent-encoded because names may be any bytes. An items.jsonl in the
    folder describes the pictures.

    Args:
        root: the absolute folder that was configured; links above and in it are the configuration's.
        path: the folder to walk, relative to the root.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self.skipped: Counter[str] = Counter()
        self._root = root
        self._path = tuple(os.fsencode(part) for part in path.parts)
        self._read_descriptions: Descriptions | None = None

    def steps(self, cursor: Cursor) -> Iterator[Step]:
        """As `Source` says; code folder_missing if there is no such folder."""
        descriptions = self._descriptions()
        if "after" not in cursor:
            yield from descriptions.problems(cursor)
        after = tuple(unquote_to_bytes(cursor["after"]).split(b"/")) if "after" in cursor else ()
        with self._opened() as folder:
            found = _below(folder, (), after)
            while True:
                try:
                    path, problem = next(found)
                except StopIteration:
                    return
                except OSError as error:
                    raise Unavailable("The folder does not answer.") from error
                name = b"/".join(path)
                yield self._reference(name, problem, descriptions), {"after": quote_from_bytes(name)}

    def read(self, place: str, limit: int) -> bytes:
        """As `Source` says."""
        *folders, name = unquote_to_bytes(place).split(b"/")
        if any(part in (b"", b".", b"..") or b"\0" in part for part in (*folders, name)):
            raise ImageRejected(ImageReason.MISSING, "There is no such file in the folder.")
        try:
            with self._opened(folders) as folder:
                return _read_file(folder, name, limit)
        except InvalidRequest as error:  # the whole folder has gone, perhaps a disk that is not mounted now
            raise Unavailable(error.detail) from error
        except OSError as error:
            if error.errno not in _OF_THE_FILE:
                raise Unavailable("The folder does not answer.") from error
            reason = os.strerror(error.errno or 0)
            raise ImageRejected(ImageReason.MISSING, f"The file cannot be read: {reason}.") from error

    def locate(self, path: str) -> str:
        """As `Base` says."""
        return quote_from_bytes(os.fsencode(path))

    def close(self) -> None:
        """As `Source` says: nothing stays open but by a walk."""

    def _reference(self, path: bytes, problem: Problem | None, descriptions: Descriptions) -> Reference | None:
        ref = clean_ref(path.decode(errors="replace"))
        if path == MANIFEST_NAME.encode():
            return None
        if problem is not None and ref is not None:
            return Reference(ref, ItemFields(item_id_of(ref)), problem=problem)
        if is_passed_over(ref, self.skipped):
            return None
        assert ref is not None
        return Reference(ref, descriptions.item(ref), place=quote_from_bytes(path))

    def _descriptions(self) -> Descriptions:
        if self._read_descriptions is None:
            data = b""
            try:
                with self._opened() as folder:
                    data = _read_file(folder, MANIFEST_NAME.encode(), MAX_DESCRIPTIONS_BYTES)
            except FileNotFoundError:
                pass
            except (OSError, ImageRejected) as error:
                raise InvalidRequest(f"{MANIFEST_NAME} cannot be read: {error}", code=UNREADABLE_MANIFEST) from error
            self._read_descriptions = Descriptions(data)
        return self._read_descriptions

    @contextmanager
    def _opened(self, below: list[bytes] | None = None) -> Iterator[int]:
        """A descriptor of the folder, or of one below it."""
        try:
            descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for part in self._path:
                descriptor = _step(descriptor, part)
        except OSError as error:
            detail = f"The folder cannot be opened: {os.strerror(error.errno or 0)}."
            raise InvalidRequest(detail, code="folder_missing") from error
        for part in below or ():
            descriptor = _step(descriptor, part)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _step(folder: int, name: bytes) -> int:
    """Open a folder in a folder, which is closed."""
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=folder)
    finally:
        os.close(folder)


def _below(folder: int, above: _Path, after: _Path) -> Iterator[tuple[_Path, Problem | None]]:
    """Paths of everything in an open folder that is no folder, from the one after a path on."""
    for name, mode in _listed(folder, after[0] if after else b""):
        path = (*above, name)
        if stat.S_ISREG(mode):
            if after != (name,):
                yield path, None
        elif not stat.S_ISDIR(mode):
            if after != (name,):
                yield path, Problem(NOT_A_FILE, "It is a link, a device or a pipe.")
        elif not name.startswith(b"."):
            yield from _entered(folder, path, after[1:] if after[:1] == (name,) else ())


def _entered(folder: int, path: _Path, after: _Path) -> Iterator[tuple[_Path, Problem | None]]:
    """The same of what lies in one of its folders."""
    if len(path) > _MAX_DEPTH:
        yield path, Problem(UNREADABLE, f"It is a folder more than {_MAX_DEPTH} folders deep.")
        return
    try:
        inner = os.open(path[-1], _FOLDER_FLAGS, dir_fd=folder)
    except FileNotFoundError:
        return  # removed meanwhile, and its files with it
    except OSError as error:
        yield path, Problem(UNREADABLE, f"The folder cannot be opened: {os.strerror(error.errno or 0)}.")
        return
    try:
        yield from _below(inner, path, after)
    finally:
        os.close(inner)


def _listed(folder: int, first: bytes) -> Iterator[tuple[bytes, int]]:
    """Names in an open folder, sorted, from `first` on if it is there, each with its mode."""
    after: bytes | None = None
    while True:
        with os.scandir(folder) as found:
            names = (os.fsencode(entry.name) for entry in found)
            wanted = (name for name in names if name >= first and (after is None or name > after))
            batch = heapq.nsmallest(_BATCH, wanted)
        for name in batch:
            try:
                yield name, os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            except FileNotFoundError:  # removed meanwhile
                continue
            except PermissionError:  # reading it will say so
                yield name, stat.S_IFREG
        if len(batch) < _BATCH:
            return
        after = batch[-1]


def _read_file(folder: int, name: bytes, limit: int) -> bytes:
    with open(os.open(name, _FILE_FLAGS, dir_fd=folder), "rb") as stream:  # noqa: PTH123 - of a descriptor
        facts = os.fstat(stream.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise ImageRejected(ImageReason.MISSING, "It is not a regular file.")
        data = stream.read(limit + 1) if facts.st_size <= limit else b""
    if facts.st_size > limit or len(data) > limit:
        raise ImageRejected(ImageReason.TOO_MANY_BYTES, f"The file has more than {limit} bytes.")
    return data
