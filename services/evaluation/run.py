"""The use case: measure encoders side by side on one set of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from services.datasets.load import Unreadable, number_labels
from services.datasets.source import Picture
from services.errors import ImageRejected, InvalidRequest
from services.evaluation.embed import Embedded, call_on, embed
from services.evaluation.instances import InstanceMetrics, draw, measure_instances
from services.evaluation.material import Material
from services.evaluation.metrics import LabelMetrics, Labels, Positions, Vectors, label_metrics, neighbours
from services.evaluation.searches import HITS, QUERIES, Search, Shown, choose_queries, collect, data_uri
from services.evaluation.speed import Speed, measure_speed
from services.evaluation.subjects import Subject
from services.images.pool import DecodePool
from services.images.thumbnails import thumbnail

ORIGINALS = 5_000

_THUMBNAIL = 128

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Measured:
    """Figures of one encoder or baseline.

    Attributes:
        labels: None where the set has no two labels.
        instances: one for each alteration; empty where no picture could be altered.
        without_direction: pictures that it gives a code of zeros, which can neither find nor be found.
    """

    name: str
    description: str
    trained: bool
    dimension: int
    bytes_per_vector: int
    labels: LabelMetrics | None
    instances: list[InstanceMetrics]
    speed: Speed
    without_direction: int


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured, and on what.

    Attributes:
        queries: specification of their source; None where each picture of the gallery was asked for among the others.
        copied: pictures that were altered, to be found among `originals` pictures.
        notes: sentences about what the figures leave out.
        searches: examples to look at.
    """

    created: datetime
    device: str
    gallery: str
    queries: str | None
    gallery_pictures: int
    query_pictures: int
    classes: list[str]
    copied: int
    originals: int
    notes: list[str]
    unreadable: list[Unreadable]
    encoders: list[Measured]
    searches: list[Search]


def evaluate(
    subjects: Sequence[Subject],
    material: Material,
    pool: DecodePool,
    *,
    copied: int,
    seed: int,
    device: str,
    progress: Progress,
) -> Evaluation:
    """Measure subjects on labels, on altered copies, and for speed, and collect example searches.

    Copies are made of queries where there are any, because encoders may have been trained on the gallery.

    Args:
        copied: alter at most so many pictures.
        device: name of what the encoders run on, for the record.

    Raises:
        InvalidRequest: too few pictures can be read.
        ConfigurationError: there is not enough room for the vectors.
        Unavailable: no decoding process can be started.
    """
    # Queries first: both parts are then slices of one array.
    given = [*material.queries, *material.gallery]
    embedded = embed(given, subjects, pool, lambda done, total: progress("encoding pictures", done, total))
    pictures = [given[position] for position in embedded.kept]
    table = _Table(pictures, sum(position < len(material.queries) for position in embedded.kept), embedded)
    _check(table, material)

    drawn = draw(len(pictures), table.asked or len(pictures), copied, ORIGINALS, seed)
    instances = measure_instances(
        pictures,
        embedded.vectors,
        subjects,
        drawn=drawn,
        pool=pool,
        seed=seed,
        progress=lambda done, total: progress("finding altered copies", done, total),
    )
    encoders = []
    for number, subject in enumerate(subjects):
        progress("ranking and timing", number, len(subjects))
        vectors = embedded.vectors[number]
        encoders.append(
            Measured(
                name=subject.name,
                description=subject.description,
                trained=subject.trained,
                dimension=subject.dimension,
                bytes_per_vector=4 * subject.dimension,
                labels=table.label_metrics(vectors),
                instances=instances.metrics[number],
                speed=measure_speed(subject),
                without_direction=int((~vectors.any(axis=1)).sum()),
            )
        )
    progress("ranking and timing", len(subjects), len(subjects))
    return Evaluation(
        created=datetime.now(UTC).replace(microsecond=0),
        device=device,
        gallery=material.split.gallery,
        queries=material.split.queries,
        gallery_pictures=len(pictures) - table.asked,
        query_pictures=table.asked,
        classes=list(table.classes),
        copied=instances.copied,
        originals=instances.originals,
        notes=_notes(table, encoders),
        unreadable=embedded.unreadable,
        encoders=encoders,
        searches=_searches(table, subjects, pool, seed),
    )


class _Table:
    """The pictures that could be read: the first `asked` are queries, the others the gallery."""

    def __init__(self, pictures: Sequence[Picture], asked: int, embedded: Embedded) -> None:
        self.pictures = pictures
        self.asked = asked
        self.embedded = embedded
        self.classes, self.labels = number_labels(pictures)
        everything = np.arange(len(pictures))
        self.queries = everything[: asked or None]
        self.gallery = everything[asked:]

    @property
    def labelled(self) -> bool:
        """Whether labels can tell pictures apart, and some query's label can be found."""
        repeated = np.bincount(self._known(self.gallery), minlength=len(self.classes)) > int(not self.asked)
        return len(self.classes) > 1 and bool(repeated[self._known(self.queries)].any())

    def label_metrics(self, vectors: Vectors) -> LabelMetrics | None:
        """Figures of the pictures that have a label; None where labels say nothing."""
        if not self.labelled:
            return None
        gallery, queries = self._labelled(self.gallery), self._labelled(self.queries)
        known = vectors[gallery]
        own = None if self.asked else np.arange(len(known))
        return label_metrics(known, self.labels[gallery], vectors[queries], self.labels[queries], own=own)

    def _known(self, positions: Positions) -> Labels:
        labels = self.labels[positions]
        return labels[labels >= 0]

    def _labelled(self, positions: Positions) -> slice | Positions:
        """Those with a label; as slice where they are all, which copies no vectors."""
        labelled = self.labels[positions] >= 0
        return slice(int(positions[0]), int(positions[-1]) + 1) if labelled.all() else positions[labelled]


def _check(table: _Table, material: Material) -> None:
    unreadable = len(table.embedded.unreadable)
    if len(table.gallery) < 2 or (material.queries and not table.asked):
        part = material.split.gallery if len(table.gallery) < 2 else material.split.queries
        raise InvalidRequest(f"{part} has too few readable pictures ({unreadable} files of the set are unreadable)")


def _notes(table: _Table, encoders: Sequence[Measured]) -> list[str]:
    notes = []
    without_label = int((table.labels < 0).sum())
    if not table.labelled:
        notes.append(
            "The set has no two labels of several pictures each (folders with pictures in them), so that only altered "
            "copies are measured."
        )
    elif without_label:
        notes.append(f"{without_label:,} pictures without a label are left out of the figures on labels.")
    for encoder in encoders:
        if encoder.labels is not None and encoder.labels.unanswerable:
            notes.append(f"{encoder.labels.unanswerable:,} queries have a label that the gallery lacks: left out.")
            break
    notes += [
        f"{encoder.name} gives {encoder.without_direction:,} pictures a code of zeros: they count as not found."
        for encoder in encoders
        if encoder.without_direction
    ]
    return notes


def _searches(table: _Table, subjects: Sequence[Subject], pool: DecodePool, seed: int) -> list[Search]:
    chosen = choose_queries(table.labels[table.queries], QUERIES, seed)
    own = None if table.asked else chosen
    found = {
        subject.name: neighbours(vectors[table.asked :], vectors[chosen], HITS, own=own)
        for subject, vectors in zip(subjects, table.embedded.vectors, strict=True)
    }
    wanted = {int(position) for position in chosen}
    wanted |= {table.asked + int(position) for result in found.values() for position in result.positions.flat}
    numbered = [(position, table.pictures[position]) for position in sorted(wanted)]
    thumbnails = {
        position: "" if isinstance(content, ImageRejected) else data_uri(content)
        for position, content in call_on(numbered, pool, thumbnail, _THUMBNAIL)
    }
    asked = Shown(thumbnails.__getitem__, table.labels, table.classes)
    gallery = Shown(lambda position: thumbnails[table.asked + position], table.labels[table.asked :], table.classes)
    return collect(found, chosen, asked, gallery)
