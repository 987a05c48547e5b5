"""Example searches: what each encoder finds for a few queries, for people to look at."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from services.evaluation.metrics import Labels, Neighbours, Positions, Vectors, neighbours
from services.images.preprocess import Pixels
from services.images.thumbnails import MEDIA_TYPE

QUERIES = 12
HITS = 8


@dataclass(frozen=True)
class Hit:
    """A picture that was found, as data URI; `same` says whether it has the query's label, None without labels."""

    picture: str
    label: str | None
    similarity: float
    same: bool | None


@dataclass(frozen=True)
class Search:
    """A query, and for each encoder by name what it finds, best first."""

    picture: str
    label: str | None
    found: dict[str, list[Hit]]


@dataclass(frozen=True)
class Shown:
    """Pictures that can be shown: the data URI of each by its position, and its label, -1 for none."""

    picture: Callable[[int], str]
    labels: Labels
    classes: Sequence[str]

    def label(self, position: int) -> str | None:
        """Name of a picture's label."""
        number = int(self.labels[position])
        return self.classes[number] if number >= 0 else None


def choose_queries(labels: Labels, count: int, seed: int) -> Positions:
    """Positions of queries, drawn by the seed, spread evenly over the labels, in the order of those."""
    order = np.random.default_rng(seed).permutation(len(labels))
    turns = np.empty(len(labels), np.int64)  # the first of each label, then the second of each, and so on
    seen: dict[int, int] = {}
    for position in order:
        label = int(labels[position])
        turns[position] = seen.get(label, 0)
        seen[label] = seen.get(label, 0) + 1
    chosen = order[np.argsort(turns[order], kind="stable")][:count]
    return chosen[np.argsort(labels[chosen], kind="stable")]


def collect(found: Mapping[str, Neighbours], queries: Positions, asked: Shown, gallery: Shown) -> list[Search]:
    """Put queries and what was found for them together.

    Args:
        found: by name of the encoder, a row for each query.
        queries: positions among those that were asked.
    """
    searches = []
    for row, query in enumerate(queries):
        label = asked.label(int(query))
        hits = {
            name: [
                _hit(gallery, int(position), float(similarity), label)
                for position, similarity in zip(result.positions[row], result.similarities[row], strict=True)
            ]
            for name, result in found.items()
        }
        searches.append(Search(asked.picture(int(query)), label, hits))
    return searches


def searches_of_arrays(
    name: str,
    gallery: tuple[Vectors, Pixels, Labels],
    queries: tuple[Vectors, Pixels, Labels],
    classes: Sequence[str],
    seed: int = 0,
) -> list[Search]:
    """Example searches of one encoder among pictures that are in memory.

    Args:
        gallery: unit vectors (n, dimension), pictures uint8 (n, size, size, 3), and labels (n,), -1 for none.
        queries: the same of the pictures that may be asked for.
        classes: names of the labels.
    """
    vectors, pixels, labels = queries
    chosen = choose_queries(labels, QUERIES, seed)
    found = {name: neighbours(gallery[0], vectors[chosen], HITS)}
    asked = Shown(lambda position: picture_uri(pixels[position]), labels, classes)
    return collect(found, chosen, asked, Shown(lambda position: picture_uri(gallery[1][position]), gallery[2], classes))


def picture_uri(pixels: Pixels) -> str:
    """A picture (h, w, 3) as data URI."""
    target = BytesIO()
    Image.fromarray(pixels).save(target, "WEBP", quality=82)
    return data_uri(target.getvalue())


def data_uri(thumbnail: bytes) -> str:
    """A thumbnail of `services.images.thumbnails` as data URI."""
    return f"data:{MEDIA_TYPE};base64,{base64.b64encode(thumbnail).decode()}"


def _hit(gallery: Shown, position: int, similarity: float, wanted: str | None) -> Hit:
    label = gallery.label(position)
    same = None if wanted is None or label is None else label == wanted
    return Hit(gallery.picture(position), label, similarity, same)
