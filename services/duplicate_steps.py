"""The two steps of a search for duplicates, a bounded piece at a time.

Comparing takes the pictures in id order, asks the vector store for the nearest of each, and files together whoever is
near-identical (services/catalog/candidates.py). Pictures with the same bytes are one there, the one with the smallest
id, so they stay together whatever the vectors say. Where all of the nearest are near-identical, there may be more:
further ones are asked for, unless the picture is filed with others already. So of a dense group the first one finds all
of it, and the others, whose nearest are enough to connect them, need not find it again.

Dividing takes what was filed together, a component, and makes clusters around centres of it (services/clusters.py).
Of a component that is larger than a piece the centres found so far are kept in the cursor, and what comes later joins
them.

A worker holds one piece: `COMPARED` pictures with their neighbours, or `DIVIDED` vectors and the cosines between them,
some 30 MB, however many pictures there are. SQL has a row for each picture that has a duplicate, none for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy.orm import Session

from services.catalog import candidates, comparison, indexes
from services.catalog.candidates import Copies, Extent, Member
from services.catalog.models import IndexRow, Job
from services.catalog.states import MAINTAINED
from services.clusters import NONE, ROUNDING, Floats, stars
from services.errors import Conflict, NotFound
from services.vectors.base import Hit, VectorStore
from services.wiring import Services

COMPARED = 100
NEIGHBOURS = 20
MOST_NEIGHBOURS = 1_280
DIVIDED = 1_024
VECTOR_BYTES = 64 * 2**20
# Centres of one component that are remembered from piece to piece.
CENTRES = 256


@dataclass(frozen=True)
class Piece:
    """What one piece came to: the cursor to go on with, how much of the job it was, and what is kept with it.

    `settle` runs in the transaction that keeps the cursor, and returns how much more there is to do now.
    """

    cursor: Mapping[str, Any]
    done: int
    settle: Callable[[Session], int]


class Centre(NamedTuple):
    """A centre of clusters: its image, and the cluster's id."""

    image_id: int
    cluster_id: int


class Picture(NamedTuple):
    """Bytes that are to be divided, and the images that have them."""

    sha256: str
    copies: Copies


def compare(services: Services, job: Job) -> Piece:
    """Compare the next pictures; after the last one comes `divide`.

    Raises:
        Conflict: the index was retired.
        NotFound: the index has lost its vectors.
        Unavailable: Milvus or the database is away.
    """
    cursor, extent = job.cursor, _extent(job)
    with services.database.reading() as session:
        index = _index(session, job)
        images = candidates.images_after(session, extent, cursor["after"], COMPARED)
        copies = candidates.copies_of(session, extent, images.values())
        filed = candidates.filed(session, job.id, images)
    if not images:
        return Piece({**cursor, "step": "divide"}, 0, lambda _: 0)
    # Each statement sees the deletes before it: what one has found, the next may lack.
    firsts = sorted(one.first for one in copies.values() if one.first in images)
    vectors = _vectors(services, index, firsts)
    near = list(_neighbours(services.vectors, index.collection, vectors, job.source["threshold"], filed))
    with services.database.reading() as session:
        hashes = candidates.hashes_of(session, extent, {other for _, other in near})
        copies |= candidates.copies_of(session, extent, hashes.values())
    pairs = {(image_id, copies[hashes[other]].first) for image_id, other in near if hashes.get(other) in copies}
    pairs |= {(one.first, one.first) for one in copies.values() if one.first in images and one.number > 1}
    return Piece(
        {**cursor, "after": max(images)}, len(images), lambda session: candidates.connect(session, job.id, pairs)
    )


def _neighbours(
    store: VectorStore, collection: str, vectors: Mapping[int, Floats], threshold: float, filed: Iterable[int]
) -> Iterator[tuple[int, int]]:
    """Each image with those that are near-identical to it; of those that are filed already the nearest suffice."""

    def near(hits: Sequence[Hit]) -> list[int]:
        return [hit.id for hit in hits if hit.score >= threshold - ROUNDING]

    if not vectors:
        return
    connected, first = set(filed), NEIGHBOURS + 1  # the nearest one is the image itself
    found = store.search(collection, np.stack(list(vectors.values())), first)
    for image_id, hits in zip(vectors, found, strict=True):
        others, limit = near(hits), first
        while len(others) == limit < MOST_NEIGHBOURS and image_id not in connected:
            limit = min(8 * limit, MOST_NEIGHBOURS)
            others = near(store.search(collection, vectors[image_id][None], limit)[0])
        connected.update(others)
        yield from ((image_id, other) for other in others if other != image_id)


def divide(services: Services, job: Job) -> Piece | None:
    """Divide the next components; None where all are.

    Raises:
        Conflict: the index was retired.
        NotFound: the index has lost its vectors.
        Unavailable: Milvus or the database is away.
    """
    extent, threshold = _extent(job), job.source["threshold"]
    with services.database.reading() as session:
        index = _index(session, job)
        limit = min(DIVIDED, VECTOR_BYTES // (4 * index.encoder.dimension))
        rows, is_part = candidates.to_divide(session, job.id, limit)
        copies = candidates.copies_of(session, extent, [row.sha256 for row in rows if row.sha256 is not None])
    if not rows:
        return None
    part, known = job.cursor.get("part"), [Centre(*centre) for centre in job.cursor.get("centres", ())]
    firsts = [one.first for one in copies.values()]
    vectors = _vectors(services, index, [*firsts, *(centre.image_id for centre in known)])
    members: list[Member] = []
    centres: list[Centre] = []
    for component, of_component in groupby(rows, key=lambda row: row.component):
        # Taken out: two rows stand for the same bytes where the first of the copies went and the next took its place.
        pictures = [
            Picture(row.sha256, copies.pop(row.sha256))
            for row in of_component
            if row.sha256 is not None and row.sha256 in copies
        ]
        found, centres = _clusters(pictures, vectors, threshold, known if component == part else [])
        members += found
    # Centres as JSON gives them back, as cursors are compared.
    onward: dict[str, Any] = {"part": None, "centres": []}
    if is_part:
        onward = {"part": rows[-1].component, "centres": [list(centre) for centre in centres[-CENTRES:]]}
    row_ids = [row.row_id for row in rows]

    def settle(session: Session) -> int:
        candidates.divide(session, job.id, extent, row_ids, members)
        return 0

    return Piece({**job.cursor, **onward}, len(rows), settle)


def _clusters(
    pictures: Sequence[Picture], vectors: Mapping[int, Floats], threshold: float, known: Sequence[Centre]
) -> tuple[list[Member], list[Centre]]:
    """What of a component belongs to which cluster, and all its centres: those known and those found."""
    known = [centre for centre in known if centre.image_id in vectors]
    seen = [one for one in pictures if one.copies.first in vectors]
    members = [
        Member(one.copies.first, one.sha256, one.copies, 1.0)
        for one in pictures
        if one.copies.first not in vectors and one.copies.number > 1
    ]
    if not seen:
        return members, known
    divided = stars(
        np.stack([vectors[one.copies.first] for one in seen]),
        np.array([one.copies.number for one in seen]),
        threshold,
        known=np.stack([vectors[centre.image_id] for centre in known]) if known else None,
    )
    centres = [*known]
    for centre in sorted(set(divided.centres.tolist()) - {NONE}):
        around = np.flatnonzero(divided.centres == centre).tolist()
        if centre >= len(seen):
            cluster_id = known[centre - len(seen)].cluster_id
        else:
            cluster_id = min(seen[position].copies.first for position in around)
            centres.append(Centre(seen[centre].copies.first, cluster_id))
        members += [Member(cluster_id, *seen[position], float(divided.scores[position])) for position in around]
    return members, centres


def _extent(job: Job) -> Extent:
    return Extent(job.catalog_id, job.cursor["last"])


def _index(session: Session, job: Job) -> IndexRow:
    index = indexes.get(session, job.cursor["index"])
    if index is None or index.state not in MAINTAINED:
        raise Conflict("the index was retired meanwhile: look for duplicates again", code="index_retired")
    return index


def _vectors(services: Services, index: IndexRow, image_ids: Sequence[int]) -> dict[int, Floats]:
    """Unit vectors (d) of those of the images that have one, in their order."""
    try:
        found = services.vectors.fetch(index.collection, image_ids) if image_ids else {}
    except NotFound:
        with services.database.reading() as session:
            if comparison.any_indexed(session, index.id):
                detail = f"Milvus lacks the collection {index.collection}: `akin audit --repair` embeds it again"
                raise NotFound(detail, code="missing_collection") from None
        return {}  # nothing was ever embedded
    return {one: found[one] / np.linalg.norm(found[one]) for one in image_ids if one in found}


STEPS: Mapping[str, Callable[[Services, Job], Piece | None]] = {"compare": compare, "divide": divide}
