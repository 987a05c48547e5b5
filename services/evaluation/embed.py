"""Pictures into vectors: each file is read once for all subjects, decoded as queries are, and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from services.datasets.load import Unreadable, pieces, read_content
from services.datasets.room import array_in_file
from services.datasets.source import Picture
from services.errors import AkinError, ImageRejected
from services.evaluation.metrics import Vectors
from services.evaluation.subjects import Subject
from services.images.decode import Limits
from services.images.pool import DecodePool
from services.images.preprocess import Pixels, Preprocessing, preprocess

T = TypeVar("T")

# Pictures that are decoded together: as many as have so many numbers for all subjects, within these bounds.
_PIECE_NUMBERS = 64 * 1024**2
_PIECE_BOUNDS = (8, 512)
# Vectors beyond this lie in a temporary file, with half the precision.
_IN_MEMORY_BYTES = 1024**3


@dataclass(frozen=True)
class Embedded:
    """What can be measured.

    Attributes:
        kept: positions of the pictures that could be read.
        unreadable: the others.
        vectors: for each subject (kept, dimension).
    """

    kept: list[int]
    unreadable: list[Unreadable]
    vectors: list[Vectors]


def embed(
    pictures: Sequence[Picture], subjects: Sequence[Subject], pool: DecodePool, progress: Callable[[int, int], None]
) -> Embedded:
    """Encode pictures with each subject; those that cannot be decoded are left out and listed.

    Args:
        progress: called with the pictures handled so far and their total.

    Raises:
        ConfigurationError: there is not enough room for the vectors.
        Unavailable: no decoding process can be started.
    """
    specs = distinct(subjects)
    vectors = [room(len(pictures), subject.dimension) for subject in subjects]
    kept: list[int] = []
    unreadable: list[Unreadable] = []
    step = piece_size(specs, 1)

    def decoded() -> Iterator[list[tuple[int, list[Pixels] | ImageRejected]]]:
        for start in range(0, len(pictures), step):
            piece = list(range(start, min(start + step, len(pictures))))
            yield call_on([(n, pictures[n]) for n in piece], pool, prepare, specs)

    for piece in ahead(decoded()):
        readable = [(position, pixels) for position, pixels in piece if not isinstance(pixels, ImageRejected)]
        unreadable += [Unreadable(pictures[n].name, error.detail) for n, error in piece if isinstance(error, AkinError)]
        if readable:
            rows = slice(len(kept), len(kept) + len(readable))
            for subject, room_of_subject in zip(subjects, vectors, strict=True):
                place = specs.index(subject.preprocessing)
                room_of_subject[rows] = subject.encode(np.stack([pixels[place] for _, pixels in readable]))
            kept += [position for position, _ in readable]
        progress(len(kept) + len(unreadable), len(pictures))
    return Embedded(kept, unreadable, [rows[: len(kept)] for rows in vectors])


def prepare(data: bytes, specs: Sequence[Preprocessing], limits: Limits) -> list[Pixels]:
    """Decode a picture to the input of each preprocessing. Runs in a decoding process.

    Raises:
        ImageRejected: the bytes are not a picture that can be decoded within the limits.
    """
    return [preprocess(data, spec, limits) for spec in specs]


def call_on(
    pictures: Sequence[tuple[int, Picture]], pool: DecodePool, function: Callable[..., T], *arguments: object
) -> list[tuple[int, T | ImageRejected]]:
    """Call `function(bytes, *arguments, limits)` on numbered pictures in decoding processes, in their order.

    A picture whose file cannot be read, or that is larger than the limit, is rejected as one that cannot be decoded.
    Files are in memory in the pieces that `services.datasets.load` reads them in.
    """
    outcomes: list[T | ImageRejected] = []
    for piece in pieces([picture for _, picture in pictures]):
        outcomes += _call_together([picture for _, picture in pictures[piece]], pool, function, *arguments)
    return [(number, outcome) for (number, _), outcome in zip(pictures, outcomes, strict=True)]


def room(count: int, dimension: int) -> Vectors:
    """Space for vectors: float32, or beyond 1 GiB float16 in a file without a name, that is gone with the array.

    Raises:
        ConfigurationError: the disk has not enough space for the file.
    """
    if count * dimension * 4 <= _IN_MEMORY_BYTES:
        return np.empty((count, dimension), np.float32)
    return array_in_file((count, dimension), np.float16, f"{count:,} vectors of {dimension:,} numbers")


def distinct(subjects: Sequence[Subject]) -> list[Preprocessing]:
    """The preprocessings of subjects, each once."""
    return list(dict.fromkeys(subject.preprocessing for subject in subjects))


def piece_size(specs: Sequence[Preprocessing], copies: int) -> int:
    """How many pictures to decode together, where each gives so many copies for each preprocessing."""
    least, most = _PIECE_BOUNDS
    return max(least, min(most, _PIECE_NUMBERS // (copies * sum(3 * spec.size**2 for spec in specs))))


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next being made while one is used: decoding goes on while the device encodes."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _call_together(
    pictures: Sequence[Picture], pool: DecodePool, function: Callable[..., T], *arguments: object
) -> list[T | ImageRejected]:
    contents = [read_content(picture, pool.limits) for picture in pictures]
    calls = [(content, *arguments, pool.limits) for content in contents if isinstance(content, bytes)]
    done = iter(pool.call_many(function, calls))
    return [content if isinstance(content, ImageRejected) else next(done) for content in contents]
