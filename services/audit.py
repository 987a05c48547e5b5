"""Audits: a job that compares SQL, ledger, vector store and bytes, in bounded pieces, and heals what it may.

A worker takes the audit for a few seconds, goes on with the step where its cursor stands, and keeps the findings of
a piece, what SQL had to be healed, and the new cursor in one transaction. What lies outside of SQL is healed before,
so a piece that is cut short is done again and finds less; nothing is done half. Another worker goes on when the
first one stopped, or `HELD` after it was killed.

SQL is the truth: missing vectors are embedded anew, whole collections included. What cannot be had again is listed:
bytes that are gone or damaged, and collections that may belong to others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

from services import audit_bytes, audit_rows, audit_vectors
from services.catalog import audits, jobs
from services.catalog.audits import Piece, Place
from services.catalog.database import now
from services.catalog.models import Job
from services.errors import ConfigurationError, Conflict, Unavailable
from services.queue import Task
from services.wiring import Services

logger = logging.getLogger(__name__)

TASK_SECONDS = 5.0
# A worker that kept no piece for so long is dead.
HELD = timedelta(seconds=120)

Step = Callable[[Services, bool, Place], Piece]
# In this order; what is healed in SQL first is not found again by what comes later.
STEPS: Mapping[str, Step] = {
    "leased": audit_rows.find_leased,
    "deleting": audit_rows.find_deleting,
    "deleted": audit_rows.find_deleted,
    "vectors": audit_vectors.compare,
    "collections": audit_vectors.list_unnamed,
    "pictures": audit_bytes.compare_pictures,
    "thumbnails": audit_bytes.compare_thumbnails,
    "sources": audit_bytes.compare_sources,
    "weights": audit_bytes.compare_weights,
    "entries": audit_rows.find_accepted,
    "imports": audit_rows.find_imports,
}
DEEP: Mapping[str, Step] = {"contents": audit_bytes.compare_contents}


def start(services: Services, catalog_id: int, *, repair: bool = False, deep: bool = False) -> str:
    """Begin an audit of all catalogs, filed under one of them; returns the job's id.

    Args:
        repair: heal what can be healed.
        deep: read all pictures in full.

    Raises:
        Conflict: an audit is unfinished.
    """
    with services.database.transaction() as session:
        job = audits.open_job(session, catalog_id, repair=repair, deep=deep)
    services.queue.wake(Task.AUDIT)
    return job.id


def start_due(services: Services, hours: float) -> None:
    """Begin an audit that repairs if the last one began so long ago; 0 hours are never."""
    if not hours:
        return
    last = now() - timedelta(hours=hours)
    with services.database.reading() as session:
        if audits.unfinished(session) is not None or audits.any_since(session, last):
            return
        catalog_id = audits.oldest_catalog(session, last)
    if catalog_id is not None:
        with suppress(Conflict):  # somebody else was quicker
            start(services, catalog_id, repair=True)


def advance(services: Services, seconds: float = TASK_SECONDS) -> None:
    """Go on with the audit, if there is one, until it is over or the time is up; then the next run is in the queue.

    Raises:
        Unavailable: a part is away; the next run goes on where this one stopped.
    """
    until = time.monotonic() + seconds
    with services.database.transaction() as session:
        job = jobs.take(session, jobs.AUDIT, HELD)
    while job is not None:
        held = job
        try:
            job = _advance_once(services, held)
        except (Unavailable, ConfigurationError):
            _let_go(services, held)
            raise
        except Exception as error:
            logger.exception("audit %s failed", held.id)
            _fail(services, held, error)
            return
        except BaseException:
            _let_go(services, held)
            raise
        if job is not None and time.monotonic() > until:
            _let_go(services, job)
            services.queue.wake(Task.AUDIT)
            return


def _advance_once(services: Services, job: Job) -> Job | None:
    """Work off one piece; None where the audit is over."""
    steps = {**STEPS, **(DEEP if job.source["deep"] else {})}
    name = job.cursor.get("step", next(iter(steps)))
    repair = bool(job.source["repair"])
    piece = steps[name](services, repair, job.cursor)
    following = _following(list(steps), name, piece.onward)
    with services.database.transaction() as session:
        current = jobs.get(session, job.id, lock=True)
        if current.finished_at is not None or current.cursor != job.cursor:
            return None  # another worker took it for dead, and goes on
        findings = [*piece.findings, *(piece.settle(session) if piece.settle else ())]
        audits.record(session, current, findings)
        current.cursor = {**(following or {}), "done": job.cursor.get("done", 0) + piece.checked}
        current.served_at = now()
        if following is None:
            audits.finish(current)
    if repair and findings:
        services.queue.wake(Task.EMBED)
    if following is None:
        logger.info("audit %s: %s", job.id, current.result["summary"])
        return None
    return current


def _following(names: list[str], name: str, onward: Place | None) -> dict[str, Any] | None:
    """The cursor after a piece of a step; None after the last step."""
    if onward is not None:
        return {"step": name, **onward}
    later = names[names.index(name) + 1 :]
    return {"step": later[0]} if later else None


def _let_go(services: Services, job: Job) -> None:
    with services.database.transaction() as session:
        jobs.get(session, job.id, lock=True).served_at = None


def _fail(services: Services, job: Job, error: Exception) -> None:
    with services.database.transaction() as session:
        jobs.fail(jobs.get(session, job.id, lock=True), "audit_failed", str(error) or type(error).__name__)
