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
from services.errors import ImageReason, ImageRejected, InvalidRequest
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
    pool: DecodePool,
    *,
    progress: Callable[[int, int], None],
) -> Dataset:
    """Decode every picture of the sources; those that cannot be are left out and listed.

    The pixels are those that a query with the same bytes gets: `services.images.preprocess` makes both.

    Args:
        specs: what `open_source` takes, one or several.
        progress: called with the files handled so far and their total.

    Raises:
        InvalidRequest: a source cannot be opened, or all of them have fewer than two pictures.
        ConfigurationError: there is not enough room for the pixels; torchvision is needed and not installed.
        Unavailable: no decoding process can be started.
    """
    with ExitStack() as sources:
        pictures = [picture for spec in specs for picture in sources.enter_context(open_source(spec)).pictures]
        pixels = _room(len(pictures), preprocessing.size)
        kept: list[Picture] = []
        unreadable: list[Unreadable] = []
        digest = hashlib.sha256()
        for piece in pieces(pictures):
            readable: list[tuple[Picture, bytes]] = []
            for picture in pictures[piece]:
                content = read_content(picture, pool.limits)
                if isinstance(content, ImageRejected):
                    unreadable.append(Unreadable(picture.name, content.detail))
                else:
                    readable.append((picture, content))
            decoded = pool.preprocess_many([content for _, content in readable], preprocessing)
            for (picture, content), outcome in zip(readable, decoded, strict=True):
                if isinstance(outcome, ImageRejected):
                    unreadable.append(Unreadable(picture.name, outcome.detail))
                    continue
                pixels[len(kept)] = outcome
                digest.update(f"{hashlib.sha256(content).hexdigest()}  {picture.name}\n".encode())
                kept.append(picture)
            progress(len(kept) + len(unreadable), len(pictures))
    if len(kept) < 2:
        where = ", ".join(specs)
        raise InvalidRequest(f"{where} has fewer than two readable pictures ({len(unreadable)} unreadable)")
    classes, labels = number_labels(kept)
    return Dataset(
        pixels=pixels[: len(kept)],
        labels=labels,
        classes=classes,
        names=tuple(picture.name for picture in kept),
        unreadable=sorted(unreadable),
        sha256=digest.hexdigest(),
    )


def number_labels(pictures: Sequence[Picture]) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """The names of labels, sorted, and for each picture (n,) the position of its own, or -1 for none."""
    classes = tuple(sorted({picture.label for picture in pictures if picture.label is not None}))
    position = {label: number for number, label in enumerate(classes)}
    labels = [UNLABELLED if picture.label is None else position[picture.label] for picture in pictures]
    return classes, np.array(labels, np.int64)


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


def read_content(picture: Picture, limits: Limits) -> bytes | ImageRejected:
    """The bytes of a picture's file, or why it is left out; one that is too large is not read at all."""
    if picture.size > limits.max_bytes:
        return ImageRejected(
            ImageReason.TOO_MANY_BYTES, f"The file has {picture.size:,} bytes; {limits.max_bytes:,} are allowed."
        )
    try:
        return picture.content()
    except OSError as error:
        return ImageRejected(ImageReason.MISSING, str(error) or type(error).__name__)


def _room(count: int, size: int) -> Pixels:
    """Space for `count` pictures."""
    shape = (count, size, size, 3)
    if count * size * size * 3 <= _IN_MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    return array_in_file(shape, np.uint8, f"{count:,} pictures of {size} x {size}")
