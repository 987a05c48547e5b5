"""The end of imports: what they replace goes once everything else succeeded, then they are over."""

from __future__ import annotations

import logging
import time
from collections import defaultdict

from sqlalchemy.orm import Session

from services import content, writing
from services.catalog import catalogs, entries, jobs, replacing
from services.catalog.models import Job
from services.catalog.states import ImportMode, JobState
from services.errors import NotFound, Unavailable
from services.queue import Task
from services.wiring import Services

logger = logging.getLogger(__name__)

JOBS_AT_ONCE = 500
REMOVED_AT_ONCE = 1_000
TASK_SECONDS = 20.0


def finish_imports(services: Services, seconds: float = TASK_SECONDS) -> bool:
    """Finish imports whose every entry is settled, once a search is sure to see their vectors.

    What was accepted of a cancelled import takes the place of what was there before, as in others.

    Returns whether something is left for another run, which is then in the queue: further pieces of what imports
    replace, or what the time did not suffice for.
    """
    until = time.monotonic() + seconds
    with services.database.reading() as session:
        settled: dict[int, list[Job]] = defaultdict(list)
        for job in (
            *jobs.settled_imports(session, JOBS_AT_ONCE),
            *replacing.left_by_cancelled(session, JOBS_AT_ONCE),
        ):
            settled[job.catalog_id].append(job)
    again = False
    for catalog_id, finished in settled.items():
        # What Milvus acknowledged may not be visible to a search yet; after one Strong query it is.
        try:
            with services.database.reading() as session:
                collection = catalogs.live_index(session, catalog_id).collection
            services.vectors.barrier(collection)
            writing.seal(services, collection, sum(job.total for job in finished))
        except NotFound:
            pass  # no picture was ever embedded: the imports only had failures; or the catalog was deleted meanwhile
        except Unavailable as error:
            logger.warning("%d imports wait for their barrier: %s", len(finished), error)
            continue
        for job in finished:
            if time.monotonic() > until:
                again = True
                break
            again |= _finish(services, job)
    if settled:
        services.queue.wake(Task.NOTIFY)
    if again:
        services.queue.wake(Task.FINISH)
    return again


def _finish(services: Services, job: Job) -> bool:
    """Remove the next piece of what an import replaces, or finish it; whether there is more to remove.

    A piece at a time, so that other imports do not wait for the end of a large removal.
    """
    with services.database.transaction() as session:
        current = jobs.lock(session, job.id)
        if current is None or not entries.are_settled(session, job.id):
            return False  # its catalog was deleted, or it was retried
        if current.state == JobState.CANCELLED:
            return replacing.go_on_for_cancelled(session, current, REMOVED_AT_ONCE)
        if current.finished_at is not None:
            return False  # another worker was quicker
        with_errors = entries.any_failed(session, job.id)
        if _remove_former(session, current, complete=current.error_code is None and not with_errors):
            return True
        if current.error_code is not None:
            jobs.fail(current, current.error_code, current.error_detail or "")
        elif current.mode == ImportMode.REPLACE and not current.total:
            jobs.fail(current, "source_empty", "the source names nothing: a replacing import removes nothing then")
        else:
            jobs.finish(current, with_errors=with_errors)
    if job.source.get("kind") == "stored" and not with_errors:
        services.walks.forget(job.id)
        services.blobs.delete(content.source_key(job.id))
    return False


def _remove_former(session: Session, job: Job, *, complete: bool) -> bool:
    """Remove the next pictures and items that the import replaces; False when there are none left.

    Args:
        complete: all that it names is there: what is not named because it could not be read must not go.
    """
    replaced = replacing.remove_replaced(session, job, REMOVED_AT_ONCE)
    removed = {"replaced_images": replaced or 0}
    if job.mode == ImportMode.REPLACE and complete and job.total and replaced is None:
        removed["removed_images"] = replacing.remove_unnamed_images(session, job, REMOVED_AT_ONCE)
        if not removed["removed_images"]:
            removed["removed_items"] = replacing.remove_unnamed_items(session, job, REMOVED_AT_ONCE)
    counted = {name: job.result.get(name, 0) + count for name, count in removed.items() if count}
    job.result = {**job.result, **counted}
    return replaced is not None or bool(counted)
