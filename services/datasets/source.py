"""Where pictures come from: folders, zip files and torchvision's sets, all seen as names with bytes."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from services.datasets import arrays
from services.errors import InvalidRequest


@dataclass(frozen=True)
class Picture:
    """One file of a source, not yet decoded.

    Attributes:
        name: its path below the part of the source that was asked for.
        label: the first folder of that path; None for a file that lies in none.
        size: bytes of the file, known before they are read.
        content: reads the file. Raises what the source's medium raises: OSError, and for zip files also
            BadZipFile, zlib.error, EOFError, RuntimeError.
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
        InvalidRequest: there is no such source or part, or files of the set are missing.
        ConfigurationError: torchvision is needed and not installed.
    """
    kind, _, rest = spec.partition(":")
    if kind in arrays.SETS:
        folder, _, half = rest.partition("#")
        yield Source(spec, [_array_picture(item) for item in arrays.read(kind, Path(folder), half)])
        return
    path, part = _path_and_part(spec)
    if path.is_dir():
        yield Source(spec, _listed(spec, part, _folder_files(path)))
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield Source(spec, _listed(spec, part, _zip_files(archive)))
    elif path.exists():
        raise InvalidRequest(f"{path} is neither a folder nor a zip file")
    else:
        raise InvalidRequest(f"{path} does not exist")


_File = tuple[PurePosixPath, int, Callable[[], bytes]]


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
            label = inside.parts[0] if len(inside.parts) > 1 else None
            pictures.append(Picture(inside.as_posix(), label, size, content))
    if not pictures:
        raise InvalidRequest(f"{spec} has no files")
    return sorted(pictures, key=lambda picture: picture.name)


def _folder_files(folder: Path) -> Iterator[_File]:
    for path in folder.rglob("*"):
        name = PurePosixPath(path.relative_to(folder).as_posix())
        if not _hidden(name) and path.is_file():
            yield name, path.stat().st_size, path.read_bytes


def _zip_files(archive: zipfile.ZipFile) -> Iterator[_File]:
    for member in archive.infolist():
        parts = [part for part in member.filename.split("/") if part not in ("", ".", "..")]
        name = PurePosixPath(*parts)
        if not _hidden(name) and not member.is_dir():
            # Members are read up to the size that they declare, whatever they unpack to.
            yield name, member.file_size, lambda member=member: archive.read(member)  # type: ignore[misc]


def _hidden(name: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)


def _array_picture(item: arrays.ArrayPicture) -> Picture:
    return Picture(item.name, item.label, item.pixels.nbytes, item.png)
