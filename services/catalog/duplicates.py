"""Clusters of near-identical pictures, as jobs found them; SQL decides at reading which are still there.

Only what the latest finished job of a catalog found is read. What the others kept goes, piece by piece.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from sqlalchemy import Subquery, and_, delete, func, select
from sqlalchemy.orm import Session, joinedload

from services.catalog import jobs
from services.catalog.models import DuplicateImage, Image, Job
from services.catalog.states import JobState
from services.errors import Conflict, NotFound

CURSOR = r"^[0-9a-f]{32}\.[0-9]{1,18}\.[0-9]{1,18}$"
# Of each cluster so many pictures are listed.
LISTED = 50


class Totals(NamedTuple):
    """How much there is in all clusters."""

    clusters: int
    images: int
    wasted_bytes: int


class Cluster(NamedTuple):
    """A cluster: how many pictures it was found with, how many are left, and the bytes of all but the largest."""

    id: int
    size: int
    images: int
    wasted_bytes: int


@dataclass(frozen=True)
class Place:
    """Where a list of clusters goes on: behind the one of this size and id, of those that this job found."""

    job_id: str
    size: int
    cluster_id: int

    def __str__(self) -> str:
        return f"{self.job_id}.{self.size}.{self.cluster_id}"

    @classmethod
    def parse(cls, cursor: str) -> Self:
        """The place that a text of the form CURSOR stands for."""
        assert re.match(CURSOR, cursor)
        job_id, size, cluster_id = cursor.split(".")
        return cls(job_id, int(size), int(cluster_id))


def finished(session: Session, catalog_id: int, job_id: str | None = None) -> Job:
    """The latest finished job of a catalog that looked for duplicates, which must be the named one if one is named.

    Raises:
        NotFound: none has finished, or the catalog has no job of this id.
        Conflict: the named one is of another kind, or what it found is not there.
    """
    latest = session.scalar(
        select(Job)
        .where(Job.catalog_id == catalog_id, Job.kind == jobs.DUPLICATES, Job.state == JobState.FINISHED)
        .order_by(Job.created_at.desc())
        .limit(1)
    )
    if job_id is not None and (latest is None or latest.id != job_id):
        job = jobs.get(session, job_id, catalog_id)
        if job.kind != jobs.DUPLICATES:
            raise Conflict(f"a job of kind {job.kind} finds no duplicates", code="wrong_kind_of_job")
        over = "a later one has replaced what it found" if job.state == JobState.FINISHED else f"it is {job.state}"
        raise Conflict(f"the job has no clusters to show: {over}", code="job_without_result")
    if latest is None:
        raise NotFound("no search for duplicates of this catalog has finished", code="job_not_found")
    return latest


def totals(session: Session, job: Job, *, across_items: bool) -> Totals:
    """How much there is in all clusters of a job that `page` lists."""
    clusters = _clusters(job, across_items=across_items)
    columns = (func.count(), func.sum(clusters.c.images), func.sum(clusters.c.wasted_bytes))
    count, images, wasted = session.execute(select(*columns).select_from(clusters)).one()
    return Totals(count, int(images or 0), int(wasted or 0))


def page(session: Session, job: Job, *, across_items: bool, after: Place | None, limit: int) -> list[Cluster]:
    """Clusters of at least two living pictures, by the size they were found with, the largest first.

    That size does not change when pictures are deleted, so that no cluster comes twice or is passed over.
    """
    clusters = _clusters(job, across_items=across_items)
    wanted = select(clusters.c.id, clusters.c.size, clusters.c.images, clusters.c.wasted_bytes)
    if after is not None:
        behind = (clusters.c.size == after.size) & (clusters.c.id > after.cluster_id)
        wanted = wanted.where((clusters.c.size < after.size) | behind)
    ordered = wanted.order_by(clusters.c.size.desc(), clusters.c.id).limit(limit)
    return [Cluster(row.id, row.size, row.images, int(row.wasted_bytes)) for row in session.execute(ordered)]


def _clusters(job: Job, *, across_items: bool) -> Subquery:
    living = and_(Image.id == DuplicateImage.image_id, Image.deleted_at.is_(None), Image.catalog_id == job.catalog_id)
    clusters = (
        select(
            DuplicateImage.cluster_id.label("id"),
            func.count().label("size"),
            func.count(Image.id).label("images"),
            (func.sum(Image.size_bytes) - func.max(Image.size_bytes)).label("wasted_bytes"),
        )
        .outerjoin(Image, living)
        .where(DuplicateImage.job_id == job.id)
        .group_by(DuplicateImage.cluster_id)
        .having(func.count(Image.id) > 1)
    )
    if across_items:
        clusters = clusters.having(func.min(Image.item_pk) < func.max(Image.item_pk))
    return clusters.subquery()


def members(session: Session, job: Job, cluster_ids: Sequence[int]) -> dict[int, list[tuple[Image, float]]]:
    """The living pictures of clusters with their items and scores: of each the largest, in bytes, first."""
    place = func.row_number().over(partition_by=DuplicateImage.cluster_id, order_by=(Image.size_bytes.desc(), Image.id))
    ranked = (
        select(DuplicateImage.cluster_id, DuplicateImage.score, Image.id.label("image_id"), place.label("place"))
        .join(Image, Image.id == DuplicateImage.image_id)
        .where(DuplicateImage.job_id == job.id, DuplicateImage.cluster_id.in_(cluster_ids))
        .where(Image.deleted_at.is_(None), Image.catalog_id == job.catalog_id)
        .subquery()
    )
    found = session.execute(
        select(ranked.c.cluster_id, ranked.c.score, Image)
        .join(Image, Image.id == ranked.c.image_id)
        .where(ranked.c.place <= LISTED)
        .order_by(ranked.c.cluster_id, ranked.c.place)
        .options(joinedload(Image.item))
    )
    listed: dict[int, list[tuple[Image, float]]] = defaultdict(list)
    for cluster_id, score, image in found:
        listed[cluster_id].append((image, score))
    return listed


def forget_replaced(session: Session, limit: int) -> int:
    """Delete up to `limit` rows that no job is at work on and nobody reads any more; returns how many."""
    job_id: str | None = ""
    while job_id is not None:
        # From job to job along the index: there are few, of many rows each.
        job_id = session.scalar(select(func.min(DuplicateImage.job_id)).where(DuplicateImage.job_id > job_id))
        if job_id is not None and _is_replaced(session, job_id):
            some = select(DuplicateImage.id).where(DuplicateImage.job_id == job_id).limit(limit)
            return len(
                session.scalars(
                    delete(DuplicateImage).where(DuplicateImage.id.in_(some)).returning(DuplicateImage.id)
                ).all()
            )
    return 0


def _is_replaced(session: Session, job_id: str) -> bool:
    job = session.get_one(Job, job_id)
    if job.finished_at is None:
        return False
    return job.state != JobState.FINISHED or finished(session, job.catalog_id).id != job.id
