"""Pictures of sources, decoded once into one array."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from services.datasets.room import array_in_file
from services.datasets.source import Picture, open_source
from services.errors import AkinError, InvalidRequest
from services.images.decode import Limits
from services.images.pool import DecodePool
from services.images.preprocess import Pixels, Preprocessing

UNLABELLED = -1

# Pictures read before they are decoded together, and their bytes.
_PIECE_PICTURES = 512
_PIECE_BYTES = 64 * 1024**2
# Larger arrays lie in a temporary file, of which the kernel keeps in memory what fits.
_IN_MEMORY_BYTES = 1024**3
_COPIED_TOGETHER = 1024
# What one picture may take of a decoding process; the defaults of AKIN_DECODE_TIMEOUT and AKIN_DECODE_MEMORY.
_DECODE_SECONDS = 20.0
_DECODE_MEMORY = 2 * 1024**3


class Unreadable(NamedTuple):
    """A file that is left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """Preprocessed pictures, in the order of their sources and, within one, of their names.

    Attributes:
        pixels: uint8 (n, size, size, 3); a memory map of a temporary file where it has more than 1 GiB.
        labels: int64 (n,), each the position of a name in `classes`, or -1 where a picture has no label.
        classes: names of labels, sorted; a name that several sources use is one class.
        names: (n,), paths inside the sources.
        unreadable: the files that were left out.
        sha256: over the names and contents of the pictures: the same for a folder and a zip file of it.
    """

    pixels: Pixels
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    unreadable: list[Unreadable]
    sha256: str

    def __len__(self) -> int:
        return len(self.names)

    def take(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> Dataset:
        """The pictures at these positions, copied, in this order.

        `classes`, `unreadable` and `sha256` stay those of the set that they are taken from.

        Raises:
            ConfigurationError: there is not enough room for the pixels.
        """
        chosen = np.asarray(positions, np.int64)
        pixels = _room(len(chosen), self.pixels.shape[1])
        for start in range(0, len(chosen), _COPIED_TOGETHER):
            block = slice(start, start + _COPIED_TOGETHER)
            pixels[block] = self.pixels[chosen[block]]
        names = tuple(self.names[position] for position in chosen)
        return replace(self, pixels=pixels, labels=self.labels[chosen], names=names)


def load(
    specs: Sequence[str],
    preprocessing: Preprocessing,
    limits: Limits,
    *,
    workers: int,
    progress: Callable[[int, int], None],
) -> Dataset:
    """Decode every picture of the sources; those that cannot be are left out and listed.

    The pixels are those that a query with the same bytes gets: `services.images.preprocess` makes both.

    Args:
        specs: what `open_source` takes, one or several.
        workers: processes that decode.
        progress: called with the files handled so far and their total.

    Raises:
        InvalidRequest: a source cannot be opened, or all of them have fewer than two pictures.
        ConfigurationError: there is not enough room for the pixels; torchvision is needed and not installed.
        Unavailable: no decoding process can be started.
    """
    with (
        ExitStack() as sources,
        DecodePool(workers, _DECODE_SECONDS, _DECODE_MEMORY, limits) as pool,
    ):
        pictures = [picture for spec in specs for picture in sources.enter_context(open_source(spec)).pictures]
        pixels = _room(len(pictures), preprocessing.size)
        kept: list[Picture] = []
        unreadable: list[Unreadable] = []
        digest = hashlib.sha256()
        for piece in pieces(pictures):
            contents = _contents(pictures[piece], limits, unreadable)
            readable = [content for _, content in contents]
            decoded = pool.preprocess_many(readable, preprocessing)
            for (picture, content), outcome in zip(contents, decoded, strict=True):
                if isinstance(outcome, AkinError):
                    unreadable.append(Unreadable(picture.name, outcome.detail))
                    continue
                pixels[len(kept)] = outcome
                digest.update(f"{hashlib.sha256(content).hexdigest()}  {picture.name}\n".encode())
                kept.append(picture)
            progress(len(kept) + len(unreadable), len(pictures))
    if len(kept) < 2:
        where = ", ".join(specs)
        raise InvalidRequest(f"{where} has fewer than two readable pictures ({len(unreadable)} unreadable)")
    classes = tuple(sorted({picture.label for picture in kept if picture.label is not None}))
    position = {label: number for number, label in enumerate(classes)}
    return Dataset(
        pixels=pixels[: len(kept)],
        labels=np.array(
            [UNLABELLED if picture.label is None else position[picture.label] for picture in kept], np.int64
        ),
        classes=classes,
        names=tuple(picture.name for picture in kept),
        unreadable=sorted(unreadable),
        sha256=digest.hexdigest(),
    )


def pieces(pictures: Sequence[Picture]) -> Iterator[slice]:
    """Cut into runs whose files can be in memory together: 512 pictures and, beyond one picture, 64 MiB at most."""
    start, size = 0, 0
    for position, picture in enumerate(pictures):
        size += picture.size
        if position > start and (position - start == _PIECE_PICTURES or size > _PIECE_BYTES):
            yield slice(start, position)
            start, size = position, picture.size
    if start < len(pictures):
        yield slice(start, len(pictures))


def _room(count: int, size: int) -> Pixels:
    """Space for `count` pictures."""
    shape = (count, size, size, 3)
    if count * size * size * 3 <= _IN_MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    return array_in_file(shape, np.uint8, f"{count:,} pictures of {size} x {size}")


def _contents(piece: Sequence[Picture], limits: Limits, unreadable: list[Unreadable]) -> list[tuple[Picture, bytes]]:
    """Read files; those that are too large, which are not read at all, or damaged join the unreadable."""
    contents = []
    for picture in piece:
        if picture.size > limits.max_bytes:
            reason = f"{picture.size:,} bytes; {limits.max_bytes:,} are allowed"
            unreadable.append(Unreadable(picture.name, reason))
            continue
        try:
            contents.append((picture, picture.content()))
        except OSError as error:
            unreadable.append(Unreadable(picture.name, str(error) or type(error).__name__))
    return contents
