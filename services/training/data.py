"""Pictures to train on, read once into memory."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from services.errors import AkinError, InvalidRequest
from services.images.decode import Limits
from services.images.preprocess import Preprocessing, preprocess

Pixels = npt.NDArray[np.uint8]
Read = Callable[[], bytes]


class Unreadable(NamedTuple):
    """A file that is left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Pictures:
    """Preprocessed pictures, uint8 (n, size, size, 3), in the order of their names."""

    pixels: Pixels
    unreadable: list[Unreadable]
    sha256: str
    """Over the names and contents of the pictures: the same for a folder and a zip file of it."""


def load_pictures(
    source: Path,
    preprocessing: Preprocessing,
    limits: Limits,
    progress: Callable[[int, int], None],
) -> Pictures:
    """Read every picture of a folder or zip file, at any depth (`label/file` or flat).

    Files that are not pictures, or are over the limits, are left out and listed.

    Args:
        progress: called with the files read so far and their total.

    Raises:
        InvalidRequest: the source is neither a folder nor a zip file, or has fewer than two pictures.
    """
    if source.is_dir():
        pictures = _collect(list(_folder_files(source)), preprocessing, limits, progress)
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            pictures = _collect(list(_zip_files(archive, limits)), preprocessing, limits, progress)
    else:
        raise InvalidRequest(f"{source} is neither a folder nor a zip file")
    if len(pictures.pixels) < 2:
        raise InvalidRequest(f"{source} has fewer than two readable pictures ({len(pictures.unreadable)} unreadable)")
    return pictures


def split(count: int, held_out: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions to train on and positions held out: disjoint, sorted, and the same for the same seed."""
    held = min(count - 1, max(1, round(count * held_out)))
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def _collect(
    files: list[tuple[str, Read]],
    preprocessing: Preprocessing,
    limits: Limits,
    progress: Callable[[int, int], None],
) -> Pictures:
    pixels = np.empty((len(files), preprocessing.size, preprocessing.size, 3), np.uint8)
    unreadable: list[Unreadable] = []
    digest = hashlib.sha256()
    count = 0
    for position, (name, read) in enumerate(files, start=1):
        try:
            content = read()
            pixels[count] = preprocess(content, preprocessing, limits)
        except (AkinError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            unreadable.append(Unreadable(name, str(error)))
        else:
            digest.update(f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode())
            count += 1
        progress(position, len(files))
    return Pictures(pixels[:count], unreadable, digest.hexdigest())


def _folder_files(folder: Path) -> Iterator[tuple[str, Read]]:
    named = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for name in sorted(named):
        yield name, named[name].read_bytes


def _zip_files(archive: zipfile.ZipFile, limits: Limits) -> Iterator[tuple[str, Read]]:
    for info in sorted(archive.infolist(), key=lambda info: info.filename):
        if not info.is_dir():
            yield info.filename, lambda info=info: _read_member(archive, info, limits)  # type: ignore[misc]


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limits: Limits) -> bytes:
    """Read one member, refusing what would unpack to more than a picture may have."""
    if info.file_size > limits.max_bytes:
        raise InvalidRequest(f"{info.file_size} bytes, the limit is {limits.max_bytes}")
    return archive.read(info)
