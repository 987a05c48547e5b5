"""Near-identical pictures of a catalog: a job that finds them, in bounded pieces.

It compares first: each picture with its nearest in the live index. Then it divides what that connects into clusters,
and lists their pictures (services/duplicate_steps.py). Pieces are kept together with the job's cursor in one
transaction, so a worker that is killed takes nothing with it and no row comes twice; another one goes on when the
first one stopped, or `HELD` after it was killed.

| what goes on meanwhile      | what becomes of it                                                             |
| --------------------------- | ------------------------------------------------------------------------------ |
| upload                      | left for the next job: pictures above the greatest id at the start are ignored |
| delete                      | ignored from then on; who reads what was found does not see it either          |
| switch to another index     | the former one stays current, so the job goes on with it                       |
| two switches: index retired | the job fails, as its vectors are gone                                         |
| delete of the catalog       | the job is cancelled                                                           |
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta

from sqlalchemy.orm import Session

from services.catalog import candidates, catalogs, duplicates, jobs
from services.catalog.database import now
from services.catalog.models import IndexRow, Job
from services.duplicate_steps import STEPS
from services.encoders.manifest import Manifest
from services.errors import AkinError, ConfigurationError, Unavailable
from services.queue import Task
from services.wiring import Services

logger = logging.getLogger(__name__)

TASK_SECONDS = 5.0
# A worker that kept no piece for so long is dead.
HELD = timedelta(seconds=120)
LOWEST_THRESHOLD = 0.5
# Of encoders whose scores nobody has measured.
DEFAULT_THRESHOLD = 0.98


def start(services: Services, catalog_id: int, threshold: float | None = None) -> str:
    """Begin to look for near-identical pictures in a catalog; returns the job's id.

    Args:
        threshold: cosine from which on two are, LOWEST_THRESHOLD to 1; None for that of the live index's encoder.

    Raises:
        NotFound: the catalog was deleted.
        Conflict: such a job of the catalog is unfinished.
    """
    with services.database.reading() as session:
        index = catalogs.live_index(session, catalog_id)
        count, last = candidates.size(session, catalog_id)
    with services.database.transaction() as session:
        job = candidates.open_job(
            session, index, _default(index) if threshold is None else threshold, count=count, last=last
        )
    services.queue.wake(Task.DUPLICATES)
    return job.id


def advance(services: Services, seconds: float = TASK_SECONDS) -> None:
    """Go on with the oldest such job until it is over or the time is up; then the next run is in the queue.

    Raises:
        Unavailable: a part is away; the next run goes on where this one stopped.
    """
    until = time.monotonic() + seconds
    with services.database.transaction() as session:
        job = jobs.take(session, jobs.DUPLICATES, HELD)
    while job is not None:
        held = job
        try:
            job = _advance_once(services, held)
        except (Unavailable, ConfigurationError):
            _let_go(services, held)
            raise
        except AkinError as error:
            _fail(services, held, error.code, error.detail)
            return
        except Exception as error:
            logger.exception("search for duplicates %s failed", held.id)
            _fail(services, held, "duplicates_failed", str(error) or type(error).__name__)
            return
        except BaseException:
            _let_go(services, held)
            raise
        if job is not None and time.monotonic() > until:
            _let_go(services, job)
            services.queue.wake(Task.DUPLICATES)
            return


def _advance_once(services: Services, job: Job) -> Job | None:
    """Work off one piece; None where the job is over."""
    piece = STEPS[job.cursor["step"]](services, job)
    if piece is None:
        _finish(services, job)
        return None
    with services.database.transaction() as session:
        current = _unchanged(session, job)
        if current is not None:
            current.total += piece.settle(session)
            current.cursor = {**piece.cursor, "done": job.cursor["done"] + piece.done}
            current.served_at = now()
    return current


def _finish(services: Services, job: Job) -> None:
    with services.database.reading() as session:
        found = duplicates.totals(session, job, across_items=False)
    with services.database.transaction() as session:
        current = _unchanged(session, job)
        if current is not None:
            current.total = job.cursor["done"]
            current.result = {**found._asdict(), "summary": summary(found)}
            jobs.finish(current, with_errors=False)
    logger.info("duplicates %s: %s", job.id, summary(found))


def _unchanged(session: Session, job: Job) -> Job | None:
    """The job, locked; None where it was cancelled, or another worker took this one for dead and goes on."""
    current = jobs.get(session, job.id, lock=True)
    return current if current.finished_at is None and current.cursor == job.cursor else None


def summary(found: duplicates.Totals) -> str:
    """One line: how many clusters and pictures, and how much less it could be."""
    return f"{found.clusters:,} clusters, {found.images:,} pictures, {found.wasted_bytes:,} bytes could go"


def _default(index: IndexRow) -> float:
    calibration = Manifest.model_validate(index.encoder.manifest).calibration
    measured = DEFAULT_THRESHOLD if calibration is None else calibration.duplicate_threshold
    return min(1.0, max(LOWEST_THRESHOLD, measured))


def _let_go(services: Services, job: Job) -> None:
    with services.database.transaction() as session:
        jobs.get(session, job.id, lock=True).served_at = None


def _fail(services: Services, job: Job, code: str, detail: str) -> None:
    with services.database.transaction() as session:
        current = jobs.get(session, job.id, lock=True)
        if current.finished_at is None:
            jobs.fail(current, code, detail)
