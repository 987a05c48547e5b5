"""Jobs: how far they are, what failed, stopping them, giving what failed another try."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import current_app
from sqlalchemy.orm import Session

from services.api import present
from services.api.contract import Call, Router
from services.api.schemas import EntryError, JobList, JobListQuery, JobOut, Page, PageQuery
from services.api.snapshots import Snapshots
from services.catalog import jobs
from services.catalog.keys import Scope
from services.catalog.models import Job
from services.errors import Conflict
from services.jobs import cancel, retry

router = Router("jobs")

SNAPSHOTS = "akin.snapshots"


def shown(call: Call[Any, Any], job_id: str) -> JobOut:
    """A job as it is now."""
    with call.services.database.reading() as session:
        return _snapshots().renew(jobs.get(session, job_id, call.caller.catalog_id), partial(present.job, session))


@router.route("GET", "/v1/jobs", scope=Scope.INGEST, query=JobListQuery, returns=JobList)
def list_jobs(call: Call[JobListQuery, None]) -> JobList:
    """The latest jobs, newest first."""
    with call.services.database.reading() as session:
        rows = jobs.page(session, call.caller.catalog_id, call.query.limit)
        return JobList(data=[_kept(session, row) for row in rows])


@router.route("GET", "/v1/jobs/<job_id>", scope=Scope.INGEST, returns=JobOut, versioned=True)
def get_job(call: Call[None, None], job_id: str) -> JobOut:
    """State, counts, rate and first errors of a job.

    Ask as often as you like, best with `If-None-Match`: viewers of one job share its counting.
    """
    with call.services.database.reading() as session:
        return _kept(session, jobs.get(session, job_id, call.caller.catalog_id))


@router.route("GET", "/v1/jobs/<job_id>/errors", scope=Scope.INGEST, query=PageQuery, returns=Page[EntryError])
def list_job_errors(call: Call[PageQuery, None], job_id: str) -> Page[EntryError]:
    """Everything that failed in a job, with its reason."""
    query = call.query
    with call.services.database.reading() as session:
        job = jobs.get(session, job_id, call.caller.catalog_id)
        errors, last = present.job_errors(session, job, after=query.cursor, limit=query.limit)
        return Page(data=errors, next_cursor=None if last is None else str(last))


@router.route("POST", "/v1/jobs/<job_id>/cancel", scope=Scope.INGEST, returns=JobOut, errors=(Conflict,))
def cancel_job(call: Call[None, None], job_id: str) -> JobOut:
    """Stop an import or a deletion.

    Nothing more of it is done, within seconds. What was accepted before stays, and becomes searchable.
    """
    cancel(call.services, call.caller.catalog_id, job_id)
    return shown(call, job_id)


@router.route("POST", "/v1/jobs/<job_id>/retry", scope=Scope.INGEST, returns=JobOut, errors=(Conflict,))
def retry_job(call: Call[None, None], job_id: str) -> JobOut:
    """Give the failed entries of an import that is over another try, and only those."""
    retry(call.services, call.caller.catalog_id, job_id)
    return shown(call, job_id)


def _kept(session: Session, row: Job) -> JobOut:
    return _snapshots().get(row, partial(present.job, session))


def _snapshots() -> Snapshots:
    found: Snapshots = current_app.extensions[SNAPSHOTS]
    return found
