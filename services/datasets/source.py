"""Where pictures come from: folders, zip files and torchvision's sets, all seen as names with bytes."""

from __future__ import annotations

import copy
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from services.datasets import arrays
from services.errors import InvalidRequest

_ZIP_START = b"PK\x03\x04"
# What Python's reader raises for a zip file that is damaged, or of a kind that it does not know (RuntimeError: that
# is encrypted). UnicodeDecodeError is a ValueError, NotImplementedError a RuntimeError.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)

# More than the reader unpacks at the least.
_BEYOND = 64 * 1024


@dataclass(frozen=True)
class Picture:
    """One file of a source, not yet decoded.

    Attributes:
        name: its path below the part of the source that was asked for; bytes of it that are not UTF-8 as \\xff.
        label: the first folder of that path; None for a file that lies in none.
        size: bytes of the file, known before they are read.
        content: reads the file: never more than `size` bytes of a zip file. Raises OSError.
    """

    name: str
    label: str | None
    size: int
    content: Callable[[], bytes]


@dataclass(frozen=True)
class Source:
    """The pictures of one specification, ordered by name."""

    spec: str
    pictures: list[Picture]


@contextmanager
def open_source(spec: str) -> Iterator[Source]:
    """List the pictures of a source; they can be read until the context ends.

    Hidden files are passed over; whether a file is a picture is known when it is decoded.

    Args:
        spec: a folder or a zip file; a part of one as `PATH#FOLDER`, such as `clothing.zip#train`; or
            `cifar10:FOLDER#train` and `fashion-mnist:FOLDER#test`, which torchvision reads.

    Raises:
        InvalidRequest: there is no such source or part, it cannot be read, or files of the set are missing.
        ConfigurationError: torchvision is needed and not installed.
    """
    kind, _, rest = spec.partition(":")
    if kind in arrays.SETS:
        folder, _, half = rest.partition("#")
        yield Source(spec, [_array_picture(item) for item in arrays.read(kind, Path(folder), half)])
        return
    with ExitStack() as opened:
        try:
            path, part = _path_and_part(spec)
            pictures = _listed(spec, part, _files(path, opened))
        except OSError as error:
            raise InvalidRequest(f"{spec} cannot be read: {error.strerror or error}") from error
        yield Source(spec, pictures)


_File = tuple[PurePosixPath, int, Callable[[], bytes]]


def _files(path: Path, opened: ExitStack) -> Iterator[_File]:
    if path.is_dir():
        return _folder_files(path)
    if path.is_file():
        with path.open("rb") as file:
            # One that was cut off has lost the end by which zip files are known.
            is_zip = file.read(len(_ZIP_START)) == _ZIP_START or zipfile.is_zipfile(file)
        if is_zip:
            return _zip_files(opened.enter_context(_open_zip(path)))
    if path.exists():
        raise InvalidRequest(f"{path} is neither a folder nor a zip file")
    raise InvalidRequest(f"{path} does not exist")


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise InvalidRequest(f"{path} is a damaged zip file ({error}): make or download it again") from error


def _path_and_part(spec: str) -> tuple[Path, PurePosixPath]:
    whole = Path(spec)
    if "#" not in spec or whole.exists():
        return whole, PurePosixPath()
    path, _, part = spec.rpartition("#")
    return Path(path), PurePosixPath(part.strip("/"))


def _listed(spec: str, part: PurePosixPath, files: Iterator[_File]) -> list[Picture]:
    pictures = []
    for path, size, content in files:
        if path.is_relative_to(part):
            inside = path.relative_to(part)
            label = _shown(inside.parts[0]) if len(inside.parts) > 1 else None
            pictures.append(Picture(_shown(inside.as_posix()), label, size, content))
    if not pictures:
        raise InvalidRequest(f"{spec} has no files")
    return sorted(pictures, key=lambda picture: picture.name)


def _shown(name: str) -> str:
    """A name as text that can be hashed, printed and written: Python has other bytes in it as lone surrogates."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _folder_files(folder: Path) -> Iterator[_File]:
    for parent, _, names in os.walk(folder, onerror=_raise):
        for path in (Path(parent, name) for name in names):
            name = PurePosixPath(path.relative_to(folder).as_posix())
            if not _hidden(name) and path.is_file():
                yield name, path.stat().st_size, path.read_bytes


def _raise(error: OSError) -> None:
    """A folder that may not be read would otherwise be left out without a word."""
    raise error


def _zip_files(archive: zipfile.ZipFile) -> Iterator[_File]:
    for member in archive.infolist():
        parts = [part for part in member.filename.split("/") if part not in ("", ".", "..")]
        name = PurePosixPath(*parts)
        if not _hidden(name) and not member.is_dir():
            yield name, member.file_size, lambda member=member: _read_member(archive, member)  # type: ignore[misc]


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Unpack a member, no further than one byte beyond the size that it declares.

    Raises:
        OSError: it is damaged, longer than declared, encrypted or compressed in an unusual way.
    """
    # Python unpacks whole blocks of the others, whatever they become, before it counts.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise OSError(f"its compression (method {member.compress_type}) is not read: store or deflate it")
    # Python's reader ends at the declared size without a word, whatever follows: it is told of more.
    beyond = copy.copy(member)
    beyond.file_size += _BEYOND
    try:
        with archive.open(beyond) as file:
            data = file.read(member.file_size + 1)
    except _ZIP_ERRORS as error:
        raise OSError(str(error) or type(error).__name__) from error
    if len(data) > member.file_size:
        raise OSError(f"it unpacks to more than the {member.file_size:,} bytes that it declares")
    return data


def _hidden(name: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)


def _array_picture(item: arrays.ArrayPicture) -> Picture:
    return Picture(item.name, item.label, item.pixels.nbytes, item.png)
