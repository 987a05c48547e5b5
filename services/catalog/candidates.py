"""The jobs that look for near-identical pictures, and what they keep while they are at work.

Rows of an unfinished job are candidates: of pictures with the same bytes the one with the smallest id, filed under
the negative of the smallest id that pairs connect it with. Dividing them into clusters replaces them by the pictures
of each cluster, filed under its own id, which is positive.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Double, delete, func, literal, select, update
from sqlalchemy.orm import Session

from services.catalog import catalogs, jobs
from services.catalog.database import now
from services.catalog.models import DuplicateImage, Image, IndexRow, Job
from services.catalog.upserts import insert
from services.clusters import Union
from services.errors import Conflict

# Ids in one statement; databases limit its parameters.
AT_ONCE = 10_000
COLUMNS = ("job_id", "cluster_id", "image_id", "score")

Value = TypeVar("Value", int, str)


class Copies(NamedTuple):
    """The living pictures with the same bytes: the smallest id, and how many there are."""

    first: int
    number: int


class Candidate(NamedTuple):
    """A row that is to be divided: the component it is filed under, and the SHA-256 of its picture."""

    row_id: int
    component: int
    sha256: str | None


class Member(NamedTuple):
    """What belongs to a cluster: all living pictures with these bytes."""

    cluster_id: int
    sha256: str
    copies: Copies
    score: float


class Extent(NamedTuple):
    """Which images a job looks at: the living ones of a catalog up to the id `last`."""

    catalog_id: int
    last: int

    def holds(self) -> tuple[ColumnElement[bool], ...]:
        """Whether an image is one of them."""
        return Image.catalog_id == self.catalog_id, Image.deleted_at.is_(None), Image.id <= self.last


def size(session: Session, catalog_id: int) -> tuple[int, int]:
    """How many living images a catalog has, and the greatest id among them."""
    living = (Image.catalog_id == catalog_id, Image.deleted_at.is_(None))
    count, last = session.execute(select(func.count(), func.max(Image.id)).where(*living)).one()
    return count, last or 0


def open_job(session: Session, index: IndexRow, threshold: float, count: int, last: int) -> Job:
    """Add a job that looks among a catalog's `count` images up to the id `last`.

    Raises:
        NotFound: the catalog was deleted.
        Conflict: such a job of the catalog is unfinished.
    """
    # Of two that ask at the same moment the later one sees the other's job.
    catalogs.lock_exclusive(session, index.catalog_id)
    catalogs.live_index(session, index.catalog_id)
    if any(job.catalog_id == index.catalog_id for job in jobs.unfinished(session, jobs.DUPLICATES)):
        raise Conflict("a search for duplicates is running; see `akin jobs list`", code="duplicates_running")
    job = Job(
        catalog_id=index.catalog_id,
        kind=jobs.DUPLICATES,
        total=count,
        source={"threshold": threshold, "encoder": index.encoder.ref},
        cursor={"step": "compare", "index": index.id, "after": 0, "last": last, "done": 0},
        listed_at=now(),
    )
    session.add(job)
    session.flush()
    return job


def images_after(session: Session, extent: Extent, after: int, limit: int) -> dict[int, str]:
    """The next images in id order: SHA-256 by id."""
    found = session.execute(
        select(Image.id, Image.sha256).where(*extent.holds(), Image.id > after).order_by(Image.id).limit(limit)
    )
    return {row.id: row.sha256 for row in found}


def hashes_of(session: Session, extent: Extent, image_ids: Iterable[int]) -> dict[int, str]:
    """SHA-256 by id of those of the images that are looked at."""
    return {
        image_id: sha256
        for some in _pieces(image_ids)
        for image_id, sha256 in session.execute(
            select(Image.id, Image.sha256).where(*extent.holds(), Image.id.in_(some))
        )
    }


def copies_of(session: Session, extent: Extent, hashes: Iterable[str]) -> dict[str, Copies]:
    """What images there are with each of these bytes, where there are any."""
    return {
        sha256: Copies(first, number)
        for some in _pieces(hashes)
        for sha256, first, number in session.execute(
            select(Image.sha256, func.min(Image.id), func.count())
            .where(*extent.holds(), Image.sha256.in_(some))
            .group_by(Image.sha256)
        )
    }


def filed(session: Session, job_id: str, image_ids: Iterable[int]) -> dict[int, int]:
    """The components of those of the images that are candidates."""
    return {
        row.image_id: row.cluster_id
        for some in _pieces(image_ids)
        for row in session.execute(
            select(DuplicateImage.image_id, DuplicateImage.cluster_id).where(
                DuplicateImage.job_id == job_id, DuplicateImage.image_id.in_(some)
            )
        )
    }


def connect(session: Session, job_id: str, pairs: Collection[tuple[int, int]]) -> int:
    """File the two images of each pair together, an image paired with itself on its own; returns how many are new.

    The caller has locked the job.
    """
    named = sorted({image_id for pair in pairs for image_id in pair})
    known = filed(session, job_id, named)
    union = Union()
    for first, second in pairs:
        union.unite(known.get(first, -first), known.get(second, -second))
    for component in set(known.values()):
        if (wider := union.find(component)) != component:
            session.execute(
                update(DuplicateImage)
                .where(DuplicateImage.job_id == job_id, DuplicateImage.cluster_id == component)
                .values(cluster_id=wider)
                .execution_options(synchronize_session=False)
            )
    new = [one for one in named if one not in known]
    _add(session, [(job_id, union.find(-one), one, 0.0) for one in new])
    return len(new)


def to_divide(session: Session, job_id: str, limit: int) -> tuple[list[Candidate], bool]:
    """The next candidates, by component and id: whole components, or (True) the beginning of one that is larger."""
    found = session.execute(
        select(DuplicateImage.id, DuplicateImage.cluster_id, Image.sha256)
        .outerjoin(Image, Image.id == DuplicateImage.image_id)
        .where(DuplicateImage.job_id == job_id, DuplicateImage.cluster_id < 0)
        .order_by(DuplicateImage.cluster_id, DuplicateImage.image_id)
        .limit(limit + 1)
    )
    rows = [Candidate(*row) for row in found]
    if len(rows) <= limit:
        return rows, False
    whole = [row for row in rows if row.component != rows[-1].component]
    return (whole, False) if whole else (rows[:limit], True)


def divide(session: Session, job_id: str, extent: Extent, rows: Iterable[int], members: Iterable[Member]) -> None:
    """Replace candidates, given by their rows, by the images of clusters.

    The caller has locked the job.
    """
    for some in _pieces(rows):
        session.execute(delete(DuplicateImage).where(DuplicateImage.id.in_(some)))
    alone = []
    for member in members:
        if member.copies.number == 1:
            alone.append((job_id, member.cluster_id, member.copies.first, member.score))
            continue
        # There may be any number of them.
        images = select(
            literal(job_id), literal(member.cluster_id, BigInteger), Image.id, literal(member.score, Double)
        ).where(*extent.holds(), Image.sha256 == member.sha256)
        session.execute(insert(session, DuplicateImage).from_select(COLUMNS, images).on_conflict_do_nothing())
    _add(session, alone)


def _add(session: Session, rows: Sequence[tuple[str, int, int, float]]) -> None:
    if rows:
        values = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        session.execute(insert(session, DuplicateImage).on_conflict_do_nothing(), values)


def _pieces(values: Iterable[Value]) -> Iterator[list[Value]]:
    left = iter(sorted(set(values)))
    while piece := list(islice(left, AT_ONCE)):
        yield piece
