"""Audits: their jobs, what one piece of an audit finds, and how that is counted and listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from services.catalog import jobs
from services.catalog.catalogs import LOCK_SPACE
from services.catalog.database import now
from services.catalog.models import Catalog, Image, IndexRow, Job, JobEntry
from services.catalog.states import MAINTAINED, EntryState
from services.errors import Conflict

# Findings that are listed one by one; all are counted.
LISTED = 10_000
FAMILIES = ("missing", "orphaned", "stale", "mismatched")


class Kind(StrEnum):
    """What an audit finds; the first word is the family that summaries count."""

    MISSING_VECTOR = "missing_vector"
    MISSING_COLLECTION = "missing_collection"
    MISSING_ROW = "missing_row"
    MISSING_BLOB = "missing_blob"
    MISSING_WEIGHTS = "missing_weights"
    ORPHANED_VECTOR = "orphaned_vector"
    ORPHANED_COLLECTION = "orphaned_collection"
    ORPHANED_BLOB = "orphaned_blob"
    ORPHANED_THUMBNAIL = "orphaned_thumbnail"
    ORPHANED_SOURCE = "orphaned_source"
    STALE_ROW = "stale_row"
    STALE_IMAGE = "stale_image"
    STALE_ENTRY = "stale_entry"
    STALE_JOB = "stale_job"
    MISMATCHED_COLLECTION = "mismatched_collection"
    MISMATCHED_BLOB = "mismatched_blob"


@dataclass(frozen=True)
class Finding:
    """One thing that does not agree, and whether it does by now or will once the workers have worked."""

    kind: Kind
    ref: str
    detail: str
    repaired: bool


# Where a step is: its own words, kept in the job's cursor.
Place = Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """What one piece of a step came to, and where the step goes on; `onward` is None where it is done.

    `settle` runs in the transaction that keeps the progress: it looks at rows again, locked, and heals them.
    """

    checked: int
    onward: Place | None
    findings: Sequence[Finding] = ()
    settle: Callable[[Session], Sequence[Finding]] | None = None


def open_job(session: Session, catalog_id: int, *, repair: bool, deep: bool) -> Job:
    """Add the job of an audit.

    Raises:
        Conflict: an audit is unfinished.
    """
    # One at a time, whoever asks at the same moment; no catalog has the id 0. SQLite has one writer anyway.
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(LOCK_SPACE, 0)))
    if unfinished(session) is not None:
        raise Conflict("an audit is running; see `akin jobs list`", code="audit_running")
    counted = select(func.count()).select_from(Image).where(Image.deleted_at.is_(None))
    in_indexes = counted.join(IndexRow, IndexRow.catalog_id == Image.catalog_id).where(IndexRow.state.in_(MAINTAINED))
    total = (session.scalar(in_indexes) or 0) + (session.scalar(counted) or 0) * (2 if deep else 1)
    job = Job(
        catalog_id=catalog_id,
        kind=jobs.AUDIT,
        total=total,
        source={"repair": repair, "deep": deep},
        listed_at=now(),
        result={"found": {}, "repaired": {}},
    )
    session.add(job)
    session.flush()
    return job


def unfinished(session: Session) -> Job | None:
    """The audit that is waiting or running."""
    return session.scalar(
        select(Job).where(Job.kind == jobs.AUDIT, Job.finished_at.is_(None)).order_by(Job.created_at).limit(1)
    )


def any_since(session: Session, moment: datetime) -> bool:
    """Whether an audit was begun after a moment."""
    # Spelt out, as a partial index is used for a literal only.
    begun = select(Job.id).where(text("kind = 'audit'"), Job.created_at > moment).limit(1)
    return session.scalar(begun) is not None


def oldest_catalog(session: Session, before: datetime) -> int | None:
    """The catalog that audits nobody asked for are filed under; None in an installation that is younger."""
    return session.scalar(
        select(Catalog.id)
        .where(Catalog.deleted_at.is_(None), Catalog.created_at < before)
        .order_by(Catalog.id)
        .limit(1)
    )


def record(session: Session, job: Job, findings: Sequence[Finding]) -> None:
    """Count findings and list the first of them as failed entries of the job."""
    found = Counter(job.result["found"])
    room = max(0, LISTED - found.total())
    rows = [
        {
            "job_id": job.id,
            "ref": finding.ref,
            "item": {},
            "state": EntryState.FAILED,
            "error_code": finding.kind,
            "error_detail": f"{finding.detail}; repaired" if finding.repaired else finding.detail,
            "attempts": 0,
            "due_at": now(),
        }
        for finding in findings[:room]
    ]
    if rows:
        session.execute(insert(JobEntry), rows)
    found.update(finding.kind.value for finding in findings)
    repaired = Counter(job.result["repaired"])
    repaired.update(finding.kind.value for finding in findings if finding.repaired)
    job.result = {"found": dict(found), "repaired": dict(repaired)}


def finish(job: Job) -> None:
    """Running → finished; with errors where something was found and not repaired."""
    found, repaired = job.result["found"], job.result["repaired"]
    job.total = job.cursor["done"]
    job.result = {**job.result, "summary": summary(found, repaired)}
    jobs.finish(job, with_errors=sum(found.values()) > sum(repaired.values()))


def summary(found: Mapping[str, int], repaired: Mapping[str, int]) -> str:
    """One line: how many are missing, orphaned, stale and mismatched, and what was repaired of them."""
    by_family: Counter[str] = Counter()
    for kind, count in found.items():
        by_family[kind.partition("_")[0]] += count
    line = ", ".join(f"{by_family[family]:,} {family}" for family in FAMILIES)
    all_found, all_repaired = sum(found.values()), sum(repaired.values())
    if not all_repaired:
        return line
    return f"{line}; " + ("all repaired" if all_found == all_repaired else f"{all_repaired:,} repaired")
