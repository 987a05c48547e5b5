"""What nobody waits for: entries that were left behind, and answers, jobs and events that are no longer kept."""

from __future__ import annotations

import time
from datetime import timedelta

from sqlalchemy import select

from services import audit, content
from services.catalog import answered, duplicates, entries, events, jobs
from services.catalog.database import now
from services.catalog.models import Job
from services.wiring import Services

TASK_SECONDS = 20.0
# Rows deleted in one transaction.
PIECE = 2_000
# Archives and manifests go so long before their jobs, while it is known whose they are.
SOURCES_BEFORE = timedelta(minutes=5)
SOURCES_AT_ONCE = 100


def sweep(services: Services, seconds: float = TASK_SECONDS) -> None:
    """Settle what the ledger loop left, and delete what is older than it is kept.

    What the time does not suffice for is left to the next run.
    """
    with services.database.transaction() as session:
        entries.settle(session)
    audit.start_due(services, services.settings.audit_hours)
    until = time.monotonic() + seconds
    kept = timedelta(days=services.settings.job_history_days)
    days = services.settings.event_days
    _forget_sources(services, kept - SOURCES_BEFORE, until)
    for forget in (
        answered.forget_old,
        duplicates.forget_replaced,
        lambda session, limit: jobs.forget_old(session, kept, limit),
        lambda session, limit: events.forget_old(session, days, limit),
    ):
        more = True
        while more and time.monotonic() < until:
            with services.database.transaction() as session:
                more = forget(session, PIECE) > 0


def _forget_sources(services: Services, kept: timedelta, until: float) -> None:
    """Delete the archives and manifests of imports that were over so long ago."""
    old = (Job.kind == jobs.IMPORT, Job.source["kind"].as_string() == "stored", Job.finished_at < now() - kept)
    while time.monotonic() < until:
        with services.database.reading() as session:
            job_ids = session.scalars(select(Job.id).where(*old).limit(SOURCES_AT_ONCE)).all()
        if not job_ids:
            return
        for job_id in job_ids:
            services.blobs.delete(content.source_key(job_id))
        with services.database.transaction() as session:
            for job in session.scalars(select(Job).where(*old, Job.id.in_(job_ids)).with_for_update()):
                job.source = {**job.source, "kind": "forgotten"}
