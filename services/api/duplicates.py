"""Duplicates: which pictures of a catalog are near-identical?"""

from __future__ import annotations

from http import HTTPStatus

from sqlalchemy.orm import Session

from services import duplicates
from services.api import present
from services.api.contract import Call, Router
from services.api.schemas import JobStarted
from services.api.schemas_duplicates import ClusterOut, DuplicateOut, DuplicatesOut, DuplicatesQuery, DuplicatesRequest
from services.catalog import duplicates as found
from services.catalog.keys import Scope
from services.catalog.models import Job
from services.errors import Conflict, NotFound

router = Router("duplicates")


@router.route(
    "POST",
    "/v1/duplicates",
    scope=Scope.INGEST,
    body=DuplicatesRequest,
    status=HTTPStatus.ACCEPTED,
    returns=JobStarted,
    errors=(Conflict,),
)
def find_duplicates(call: Call[None, DuplicatesRequest]) -> JobStarted:
    """Look for near-identical pictures in the catalog.

    Every picture is compared with its nearest by the live index; the same bytes always count. Uploads, deletes and
    searches go on meanwhile; pictures uploaded later are left for the next time. One such job of a catalog runs at
    a time. What it finds replaces what was found before.
    """
    job_id = duplicates.start(call.services, call.caller.catalog_id, call.body.threshold)
    return JobStarted(job_id=job_id, links={"job": f"/v1/jobs/{job_id}", "duplicates": f"/v1/duplicates?job={job_id}"})


@router.route(
    "GET",
    "/v1/duplicates",
    scope=Scope.SEARCH,
    query=DuplicatesQuery,
    returns=DuplicatesOut,
    errors=(NotFound, Conflict),
)
def list_duplicates(call: Call[DuplicatesQuery, None]) -> DuplicatesOut:
    """Clusters of near-identical pictures, largest first, as a job found them.

    Each has a picture that all others in it are near-identical to. Pictures deleted since are left out, and clusters
    that have one picture left.
    """
    query, catalog_id = call.query, call.caller.catalog_id
    place = found.Place.parse(query.cursor) if query.cursor else None
    with call.services.database.reading() as session:
        job = found.finished(session, catalog_id, query.job or (place.job_id if place else None))
        totals = found.totals(session, job, across_items=query.across_items)
        clusters = found.page(session, job, across_items=query.across_items, after=place, limit=query.limit)
        more = len(clusters) == query.limit
        return DuplicatesOut(
            job_id=job.id,
            threshold=job.source["threshold"],
            encoder=job.source["encoder"],
            found_at=job.finished_at,
            clusters=totals.clusters,
            count=totals.images,
            wasted_bytes=totals.wasted_bytes,
            data=_shown(session, job, clusters),
            next_cursor=str(found.Place(job.id, clusters[-1].size, clusters[-1].id)) if more else None,
        )


def _shown(session: Session, job: Job, clusters: list[found.Cluster]) -> list[ClusterOut]:
    members = found.members(session, job, [cluster.id for cluster in clusters])
    return [
        ClusterOut(
            id=cluster.id,
            count=cluster.images,
            wasted_bytes=cluster.wasted_bytes,
            images=[
                DuplicateOut(image=present.image(image), item=present.item(image.item), score=score)
                for image, score in members[cluster.id]
                if image.item is not None
            ],
        )
        for cluster in clusters
    ]
