"""Audit of rows: what the loops should have moved on long ago. Its repair is a run of the very loops."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from services import finishing, purging
from services.catalog import entries, ledger, removal, stale
from services.catalog.audits import Finding, Kind, Piece, Place
from services.wiring import Services

AT_ONCE = 1_000
REPAIR_SECONDS = 5.0


def find_leased(services: Services, repair: bool, place: Place) -> Piece:
    """Ledger rows of leases that ended long ago."""
    with services.database.reading() as session:
        seen = stale.leased(session, place.get("after", 0), AT_ONCE)

    def settle(session: Session) -> Sequence[Finding]:
        found = stale.leased(session, place.get("after", 0), AT_ONCE)
        if repair:
            for index_id in sorted({row.index_id for row in found}):
                exhausted = ledger.recover(session, index_id, services.settings.max_attempts)
                entries.settle(session, exhausted)
        detail = "a worker held it, and its lease ended long ago"
        return [Finding(Kind.STALE_ROW, f"image {row.image_id}, index {row.index_id}", detail, repair) for row in found]

    onward = {"after": seen[-1].id} if len(seen) == AT_ONCE else None
    return Piece(0, onward, settle=settle)


def find_deleting(services: Services, repair: bool, place: Place) -> Piece:
    """Ledger rows of images that were deleted long ago.

    Raises:
        Unavailable: Milvus or the database is away.
    """
    with services.database.reading() as session:
        found = stale.deleting(session, place.get("after", 0), AT_ONCE)
    if repair and found:
        purging.purge(services, REPAIR_SECONDS)
    with services.database.reading() as session:
        left = stale.remaining(session, [row.id for row in found])
    findings = [
        Finding(
            Kind.STALE_ROW,
            f"image {row.image_id}, index {row.index_id}",
            "deleted long ago, and its vector is not proven gone",
            row.id not in left,
        )
        for row in found
        if repair or row.id in left
    ]
    return Piece(0, {"after": found[-1].id} if len(found) == AT_ONCE else None, findings)


def find_deleted(services: Services, repair: bool, place: Place) -> Piece:
    """Images that were deleted long ago and have no ledger row left, with which they should have gone."""
    after = place.get("after", 0)
    with services.database.reading() as session:
        seen = stale.deleted(session, after, AT_ONCE)

    def settle(session: Session) -> Sequence[Finding]:
        found = stale.deleted(session, after, AT_ONCE)
        if repair:
            removal.purge_images(session, found)
        detail = "deleted long ago, and nothing of it is left but its row and its bytes"
        return [Finding(Kind.STALE_IMAGE, f"image {image_id}", detail, repair) for image_id in found]

    return Piece(0, {"after": seen[-1]} if len(seen) == AT_ONCE else None, settle=settle)


def find_accepted(services: Services, repair: bool, place: Place) -> Piece:
    """Entries of imports that wait for an encoder although their image is through."""
    after = place.get("after", 0)
    with services.database.reading() as session:
        seen = stale.accepted(session, after, AT_ONCE)

    def settle(session: Session) -> Sequence[Finding]:
        found = stale.accepted(session, after, AT_ONCE)
        if repair and found:
            entries.settle(session, [entry.image_id for entry in found if entry.image_id is not None])
        detail = "it waits for an encoder, although its image is indexed, failed or deleted"
        return [Finding(Kind.STALE_ENTRY, f"{entry.ref} of job {entry.job_id}", detail, repair) for entry in found]

    return Piece(0, {"after": seen[-1].id} if len(seen) == AT_ONCE else None, settle=settle)


def find_imports(services: Services, repair: bool, place: Place) -> Piece:
    """Imports that are not over although nothing of them is on its way."""
    with services.database.reading() as session:
        found = stale.imports(session, place.get("after", ""), AT_ONCE)
    if repair and found:
        finishing.finish_imports(services, REPAIR_SECONDS)
    with services.database.reading() as session:
        left = stale.unfinished(session, [job.id for job in found])
    findings = [
        Finding(Kind.STALE_JOB, f"job {job.id}", "nothing of it is on its way, and it is not over", job.id not in left)
        for job in found
        if repair or job.id in left
    ]
    return Piece(0, {"after": found[-1].id} if len(found) == AT_ONCE else None, findings)
