"""What people do with jobs: stop them, and give what failed another try."""

from __future__ import annotations

from sqlalchemy.orm import Session

from services.catalog import jobs, ledger
from services.catalog.models import Job, JobState
from services.errors import Conflict
from services.queue import Task
from services.wiring import Services

# Entries that a cancelled import leaves out in one transaction.
CANCELLED_AT_ONCE = 1_000


def cancel(services: Services, catalog_id: int, job_id: str) -> None:
    """Stop an import: nothing more of it is accepted. Cancelling it again changes nothing.

    Pictures accepted so far stay, and become searchable.

    Raises:
        NotFound: the catalog has no such job.
        Conflict: it is over, or is no import.
    """
    with services.database.transaction() as session:
        job = _import(session, catalog_id, job_id)
        if job.state == JobState.CANCELLED:
            return
        if job.finished_at is not None:
            raise Conflict("the job is over: there is nothing left to cancel", code="job_over")
        jobs.cancel(job)
    services.queue.wake(Task.IMPORTS)


def leave_out(session: Session, job_id: str) -> None:
    """Leave out the next entries of a cancelled import; nothing refers to their bytes any more."""
    ledger.note_orphans(session, jobs.cancel_entries(session, job_id, CANCELLED_AT_ONCE))


def retry(services: Services, catalog_id: int, job_id: str) -> int:
    """Give the failed entries of an import that is over another try, and only those; returns how many.

    Raises:
        NotFound: the catalog has no such job.
        Conflict: it still runs, was cancelled, or is no import.
    """
    with services.database.transaction() as session:
        job = _import(session, catalog_id, job_id)
        if job.finished_at is None:
            raise Conflict("the job still runs: retry what failed when it is over", code="job_running")
        if job.state == JobState.CANCELLED:
            raise Conflict("the job was cancelled: import its pictures again", code="job_over")
        count = jobs.retry_entries(session, job_id)
        if count:
            jobs.reopen(job)
    services.queue.wake(Task.IMPORTS)
    services.queue.wake(Task.EMBED)
    return count


def _import(session: Session, catalog_id: int, job_id: str) -> Job:
    job = jobs.get(session, job_id, catalog_id, lock=True)
    if job.kind != jobs.IMPORT:
        raise Conflict(f"a job of kind {job.kind} is neither cancelled nor retried", code="not_an_import")
    return job
