"""The pictures that are measured with: a gallery, and queries to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.datasets import arrays
from services.datasets.source import Picture, open_source
from services.errors import InvalidRequest

_GALLERY_PART = "train"
_QUERY_PARTS = ("validation", "test")


@dataclass(frozen=True)
class Split:
    """Specifications of sources; without `queries`, each picture of the gallery is asked for among the others."""

    gallery: str
    queries: str | None


@dataclass(frozen=True)
class Material:
    """Opened sources; `queries` is empty where each picture of the gallery is asked for among the others."""

    split: Split
    gallery: Sequence[Picture]
    queries: Sequence[Picture]


def split_of(spec: str) -> Split:
    """The parts of a set: `train` answers `validation`, or `test`; a set without them answers itself.

    Raises:
        InvalidRequest: there is no such set.
    """
    if spec.partition(":")[0] in arrays.SETS and "#" not in spec:
        return Split(f"{spec}#train", f"{spec}#test")
    with open_source(spec) as source:
        parts = {picture.label for picture in source.pictures}
    for part in _QUERY_PARTS:
        if {_GALLERY_PART, part} <= parts:
            inside = spec + ("/" if "#" in spec else "#")
            return Split(inside + _GALLERY_PART, inside + part)
    return Split(spec, None)


@contextmanager
def open_material(split: Split, limit: int | None, seed: int) -> Iterator[Material]:
    """Open the sources; the pictures can be read until the context ends.

    Args:
        limit: at most so many pictures of each source, drawn by the seed.

    Raises:
        InvalidRequest: a source cannot be opened.
    """
    with ExitStack() as sources:
        gallery = sources.enter_context(open_source(split.gallery)).pictures
        queries = sources.enter_context(open_source(split.queries)).pictures if split.queries else []
        if len(gallery) + len(queries) < 2:
            raise InvalidRequest(f"{split.gallery} has one picture: there is nothing to find it among")
        yield Material(split, _sample(gallery, limit, seed), _sample(queries, limit, seed))


def _sample(pictures: Sequence[Picture], limit: int | None, seed: int) -> Sequence[Picture]:
    if limit is None or len(pictures) <= limit:
        return pictures
    chosen = np.random.default_rng(seed).choice(len(pictures), limit, replace=False)
    return [pictures[position] for position in np.sort(chosen)]


def short(spec: str) -> str:
    """A specification without the folders that its set lies in."""
    path, mark, part = spec.partition("#")
    return Path(path).name + mark + part
