"""What nobody waits for: entries that were left behind, and answers, jobs and events that are no longer kept."""

from __future__ import annotations

import time
from datetime import timedelta

from services import audit
from services.catalog import answered, duplicates, entries, events, jobs
from services.wiring import Services

TASK_SECONDS = 20.0
# Rows deleted in one transaction.
PIECE = 2_000


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
