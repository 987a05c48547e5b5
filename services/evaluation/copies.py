"""Altered copies of pictures, as each encoder sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from services.datasets.source import Picture
from services.errors import ImageRejected
from services.evaluation.alterations import ALTERATIONS, altered
from services.evaluation.embed import ahead, call_on, distinct, piece_size, room
from services.evaluation.metrics import Positions, Vectors
from services.evaluation.subjects import Subject
from services.images.pool import DecodePool
from services.images.preprocess import Pixels


class Copies(NamedTuple):
    """What was made of some pictures.

    Attributes:
        vectors: for each subject (alterations, copied, dimension), in the order of ALTERATIONS.
        originals: positions of the pictures that were copied, (copied,).
    """

    vectors: list[Vectors]
    originals: Positions


def embed_copies(
    pictures: Sequence[Picture],
    to_copy: Positions,
    subjects: Sequence[Subject],
    *,
    pool: DecodePool,
    seed: int,
    progress: Callable[[int, int], None],
) -> Copies:
    """Alter pictures in each way of ALTERATIONS and encode what comes of it; those that cannot be are left out.

    Args:
        to_copy: positions among the pictures.
        progress: called with the pictures handled so far and their total.

    Raises:
        ConfigurationError: there is not enough room for the vectors.
        Unavailable: no decoding process can be started.
    """
    specs = distinct(subjects)
    vectors = [
        room(len(ALTERATIONS) * len(to_copy), subject.dimension).reshape(
            len(ALTERATIONS), len(to_copy), subject.dimension
        )
        for subject in subjects
    ]
    step = piece_size(specs, len(ALTERATIONS))

    def pieces() -> Iterator[list[tuple[int, list[list[Pixels]] | ImageRejected]]]:
        for start in range(0, len(to_copy), step):
            numbered = [(int(position), pictures[position]) for position in to_copy[start : start + step]]
            yield call_on(numbered, pool, altered, seed, specs)

    handled = 0
    originals: list[int] = []
    for piece in ahead(pieces()):
        made = [(position, copies) for position, copies in piece if not isinstance(copies, ImageRejected)]
        rows = slice(len(originals), len(originals) + len(made))
        for number in range(len(ALTERATIONS) if made else 0):
            for subject, codes in zip(subjects, vectors, strict=True):
                place = specs.index(subject.preprocessing)
                codes[number, rows] = subject.encode(np.stack([copies[number][place] for _, copies in made]))
        originals += [position for position, _ in made]
        handled += len(piece)
        progress(handled, len(to_copy))
    return Copies([codes[:, : len(originals)] for codes in vectors], np.array(originals, np.int64))
