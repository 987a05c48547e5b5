"""The end of imports: what they replace goes once everything else succeeded, then they are over."""

from __future__ import annotations

import logging
import time
from collections import defaultdict

from services import content
from services.catalog import catalogs, entries, jobs, replacing
from services.catalog.models import Job
from services.catalog.states import ImportMode
from services.errors import NotFound, Unavailable
from services.queue import Task
from services.wiring import Services

logger = logging.getLogger(__name__)

JOBS_AT_ONCE = 500
REMOVED_AT_ONCE = 1_000
TASK_SECONDS = 20.0


def finish_imports(services: Services, seconds: float = TASK_SECONDS) -> None:
    """Finish imports whose every entry is settled, once a search is sure to see their vectors.

    What the time does not suffice for is left to the next run.
    """
    until = time.monotonic() + seconds
    with services.database.reading() as session:
        settled: dict[int, list[Job]] = defaultdict(list)
        for job in jobs.settled_imports(session, JOBS_AT_ONCE):
            settled[job.catalog_id].append(job)
        collections = {catalog_id: catalogs.live_index(session, catalog_id).collection for catalog_id in settled}
    for catalog_id, finished in settled.items():
        # What Milvus acknowledged may not be visible to a search yet; after one Strong query it is.
        try:
            services.vectors.barrier(collections[catalog_id])
        except NotFound:
            pass  # no picture was ever embedded: the imports only had failures
        except Unavailable as error:
            logger.warning("%d imports wait for their barrier: %s", len(finished), error)
            continue
        for job in finished:
            if time.monotonic() > until:
                return
            _finish(services, job, until)
    if settled:
        services.queue.wake(Task.NOTIFY)


def _finish(services: Services, job: Job, until: float) -> None:
    while _remove_former(services, job):
        if time.monotonic() > until:
            return
    with services.database.transaction() as session:
        current = jobs.get(session, job.id, lock=True)
        if current.finished_at is not None or not entries.are_settled(session, job.id):
            return  # cancelled, or retried, or another worker was quicker
        with_errors = entries.any_failed(session, job.id)
        if current.error_code is not None:
            jobs.fail(current, current.error_code, current.error_detail or "")
        else:
            jobs.finish(current, with_errors=with_errors)
    if job.source.get("kind") == "stored" and not with_errors:
        services.walks.forget(job.id)
        services.blobs.delete(content.source_key(job.id))


def _remove_former(services: Services, job: Job) -> bool:
    """Remove the next pictures and items that the import replaces; False when there are none left."""
    if job.source.get("kind", "files") == "files" and job.mode != ImportMode.REPLACE:
        return False
    with services.database.transaction() as session:
        current = jobs.get(session, job.id, lock=True)
        catalogs.lock_shared(session, current.catalog_id)
        removed = {"replaced_images": replacing.remove_replaced(session, current, REMOVED_AT_ONCE)}
        # Whatever is not named because it could not be read must not go.
        complete = current.error_code is None and not entries.any_failed(session, job.id)
        if current.mode == ImportMode.REPLACE and complete and not removed["replaced_images"]:
            removed["removed_images"] = replacing.remove_unnamed_images(session, current, REMOVED_AT_ONCE)
            if not removed["removed_images"]:
                removed["removed_items"] = replacing.remove_unnamed_items(session, current, REMOVED_AT_ONCE)
        counted = {name: current.result.get(name, 0) + count for name, count in removed.items() if count}
        current.result = {**current.result, **counted}
    return bool(counted)
