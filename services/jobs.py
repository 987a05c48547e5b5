"""What people do with jobs: stop them, and give what failed another try."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from services import content
from services.catalog import entries, jobs
from services.catalog.models import Job
from services.catalog.states import JobState
from services.errors import Conflict
from services.queue import Task
from services.wiring import Services


def cancel(services: Services, catalog_id: int, job_id: str) -> None:
    """Stop an import, a deletion or a search for duplicates: nothing more of it is done. A second time changes nothing.

    Pictures accepted so far stay, and become searchable; what was deleted is deleted.

    Raises:
        NotFound: the catalog has no such job.
        Conflict: it is over, or of a kind that cannot be stopped half-way.
    """
    with services.database.transaction() as session:
        job = _of_kind(session, catalog_id, job_id, [jobs.IMPORT, jobs.DELETE, jobs.DUPLICATES])
        if "catalog_id" in job.source:
            raise Conflict("a catalog that is being deleted cannot be brought back", code="not_cancellable")
        if job.state == JobState.CANCELLED:
            return
        if job.finished_at is not None:
            raise Conflict("the job is over: there is nothing left to cancel", code="job_over")
        jobs.cancel(job)
        stored = job.source.get("kind") in ("stored", "url")
    if stored:  # nothing of it will be read, nor retried
        services.blobs.delete(content.source_key(job_id))
    services.queue.wake(Task.IMPORTS)


def retry(services: Services, catalog_id: int, job_id: str) -> int:
    """Give the failed entries of an import that is over another try, and only those; returns how many.

    Raises:
        NotFound: the catalog has no such job.
        Conflict: it still runs, was cancelled, or is no import.
    """
    with services.database.transaction() as session:
        job = _of_kind(session, catalog_id, job_id, [jobs.IMPORT])
        if job.finished_at is None:
            raise Conflict("the job still runs: retry what failed when it is over", code="job_running")
        if job.state == JobState.CANCELLED:
            raise Conflict("the job was cancelled: import its pictures again", code="job_over")
        count = entries.retry(session, job_id)
        if count:
            jobs.reopen(session, job)
    services.queue.wake(Task.IMPORTS)
    services.queue.wake(Task.EMBED)
    return count


def _of_kind(session: Session, catalog_id: int, job_id: str, kinds: Sequence[str]) -> Job:
    job = jobs.get(session, job_id, catalog_id, lock=True)
    if job.kind not in kinds:
        raise Conflict(f"this cannot be done with a job of kind {job.kind}", code="wrong_kind_of_job")
    return job
