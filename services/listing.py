"""Listing what the source of an import names, in bounded pieces, as entries of its job.

How far it got is kept with the entries in one transaction. A worker keeps the source open from piece to piece;
another, after a crash, goes on from what is kept.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert

from services import content
from services.catalog import jobs, removal
from services.catalog.database import now
from services.catalog.models import Job, JobEntry
from services.catalog.states import EntryState, JobState
from services.errors import (
    AkinError,
    FetchFailed,
    FetchRefused,
    Forbidden,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unavailable,
)
from services.sources import stored
from services.sources.base import Cursor, Reference, Source
from services.sources.names import printable
from services.wiring import Services

logger = logging.getLogger(__name__)

LISTED_AT_ONCE = 1_000
PIECE_SECONDS = 5.0
# The file at an address is fetched within one task.
FETCHED_BYTES = 512 * 1024 * 1024
FETCHED_SECONDS = 120.0
# How long a source that is away is waited for.
PATIENCE = timedelta(minutes=10)
SOURCE_AWAY = "source_unavailable"
AWAY_SINCE = "source_away_since"
# So often in a row a piece may end with what nobody foresaw.
FAULTS = 5
SOURCE_FAULT = "source_fault"
FAULTS_SO_FAR = "source_faults"


def list_more(services: Services, job: Job) -> None:
    """List the next references of an import's source.

    A source that cannot be read on ends the listing, and the job will fail with the reason; what was listed before
    remains. So does one that makes a piece fail in a way that nobody foresaw, FAULTS times in a row.

    Raises:
        Unavailable: the storage, or the server that has the manifest, does not answer; nothing was listed. Where that
            is not Akin's own storage, the listing ends after PATIENCE.
    """
    try:
        _list_piece(services, job)
    except AkinError:
        raise
    except Exception:
        services.walks.forget(job.id)
        if not _is_hopeless(services, job):
            raise
        logger.exception("the source of import %s is given up", job.id)


def _is_hopeless(services: Services, job: Job) -> bool:
    """Note that a piece failed; whether that was once too often, and the listing has ended."""
    with services.database.transaction() as session:
        current = jobs.get(session, job.id, lock=True)
        faults = current.result.get(FAULTS_SO_FAR, 0) + 1
        if faults < FAULTS or current.listed_at is not None:
            current.result = {**current.result, FAULTS_SO_FAR: faults}
            return False
        current.result = _without_passing(current)
        jobs.start(current)
        current.listed_at = now()
        current.error_code = SOURCE_FAULT
        current.error_detail = f"reading the source on met {faults} unexpected errors; the worker's log has them"
        return True


def _list_piece(services: Services, job: Job) -> None:
    error: AkinError | None = None
    references: list[Reference] = []
    cursor, done = job.cursor, False
    try:
        if job.source["kind"] == "url":
            _fetch_source(services, job)
        references, cursor, done = _next_piece(services, job)
    except (InvalidRequest, NotFound, Forbidden, TooLarge) as problem:
        error, done = problem, True
    except Unavailable as problem:
        if not _is_given_up(services, job):
            raise
        error, done = InvalidRequest(problem.detail, code=SOURCE_AWAY), True
    blobs = {content.store(services, found.data): found.data for found in references if found.data is not None}
    with services.database.transaction() as session:
        current = jobs.get(session, job.id, lock=True)
        if current.cursor != job.cursor or current.listed_at is not None or current.state == JobState.CANCELLED:
            services.walks.forget(job.id)  # another worker was quicker, or nobody wants it any more
            removal.note_orphans(session, list(blobs))
            return
        if references:
            session.execute(insert(JobEntry), [_row(job.id, found) for found in references])
        removal.keep_orphans(session, list(blobs))
        jobs.start(current)
        current.cursor = cursor
        current.total += len(references)
        current.result = _without_passing(current)
        if done:
            current.listed_at = now()
        if error is not None:
            current.error_code, current.error_detail = error.code, printable(error.detail)
    content.ensure_stored(services, blobs)


def _without_passing(job: Job) -> dict[str, Any]:
    """Of what the job says came of it, all but how the source is at the moment."""
    return {name: value for name, value in job.result.items() if name not in (AWAY_SINCE, FAULTS_SO_FAR)}


def _is_given_up(services: Services, job: Job) -> bool:
    """Whether a source that is not Akin's own has been away for too long; the job says since when."""
    if job.source["kind"] not in ("location", "url"):
        return False
    with services.database.transaction() as session:
        current = jobs.get(session, job.id, lock=True)
        since = current.result.get(AWAY_SINCE, now().isoformat())
        current.result = {**current.result, AWAY_SINCE: since}
        return datetime.fromisoformat(since) < now() - PATIENCE


def open_source(services: Services, job: Job) -> Source:
    """The source of an import, kept open for the next call.

    Raises:
        NotFound: its archive or manifest is gone.
        InvalidRequest: it cannot be read.
        Forbidden: no configured root holds it any more.
        Unavailable: the storage does not answer.
    """
    return services.walks.source(job.id, lambda: _open(services, job))


def _open(services: Services, job: Job) -> Source:
    source = job.source
    if source["kind"] == "location":
        return services.roots.open(source["location"])
    base = services.roots.open(source["base"]) if source.get("base") else None
    file = services.blobs.open(content.source_key(job.id))
    return stored.open_stored(
        file, form=source.get("form"), media_type=source.get("media_type"), base=base,
        max_bytes=services.settings.max_image_bytes,
    )  # fmt: skip


def _next_piece(services: Services, job: Job) -> tuple[list[Reference], Cursor, bool]:
    """References, perhaps none, the cursor after them, and whether there are no more."""
    source = open_source(services, job)
    walk = services.walks.walk(job.id, job.cursor, source)
    until = time.monotonic() + PIECE_SECONDS
    references: list[Reference] = []
    cursor, size = job.cursor, 0
    try:
        for reference, after in walk:
            cursor = after
            if reference is not None:
                references.append(reference)
                size += len(reference.data or b"")
            # A walk that would begin anew must have come further than this time.
            waits = time.monotonic() > until and (cursor != job.cursor or not services.walks.crowded)
            if waits or len(references) >= LISTED_AT_ONCE or size >= content.PIECE_BYTES:
                services.walks.keep(job.id, cursor, walk)
                return references, cursor, False
    except InvalidRequest:
        if not references:
            raise
        return references, cursor, False  # the next piece begins, and ends, where this one could not go on
    return references, cursor, True


def _row(job_id: str, found: Reference) -> dict[str, Any]:
    """An entry's row. Whatever a source says of it, no database refuses it: items are checked, the rest is made so."""
    row = {
        "job_id": job_id,
        "ref": printable(found.ref),
        "item": dict(vars(found.item)),
        "place": found.place,
        "url": found.url,
        "sha256": content.sha256_of(found.data) if found.data is not None else None,
        "state": EntryState.PENDING,
        "error_code": None,
        "error_detail": None,
        "due_at": now(),
    }
    if found.problem is not None:
        row |= {
            "state": EntryState.FAILED,
            "error_code": found.problem.code,
            "error_detail": printable(found.problem.detail),
        }
    return row


def _fetch_source(services: Services, job: Job) -> None:
    """Fetch an archive or manifest to where uploaded ones are kept.

    Raises:
        InvalidRequest: no server gives it.
        Unavailable: the server may give it later.
        TooLarge: it is too large to be fetched in one go.
    """
    began = time.monotonic()
    try:
        with services.fetcher.download(
            job.source["url"], max_bytes=FETCHED_BYTES, arriving=FETCHED_SECONDS
        ) as download:
            assert download is not None
            services.blobs.put_stream(content.source_key(job.id), download.chunks, FETCHED_BYTES)
    except FetchFailed as error:
        # What did not arrive in that time would hold the worker again for as long, and likely not arrive either.
        passing = error.passing and time.monotonic() - began < FETCHED_SECONDS
        failed = Unavailable if passing else InvalidRequest
        raise failed(f"{job.source['url']}: {error.detail}", code=error.code) from error
    except FetchRefused as error:
        raise InvalidRequest(f"{job.source['url']}: {error.detail}", code=error.code) from error
    with services.database.transaction() as session:
        current = jobs.get(session, job.id, lock=True)
        current.source = {**current.source, "kind": "stored"}
        cancelled = current.state == JobState.CANCELLED
    if cancelled:  # while it arrived
        services.blobs.delete(content.source_key(job.id))
    job.source = {**job.source, "kind": "stored"}
