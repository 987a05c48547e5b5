"""Requests that were sent with an Idempotency-Key, and what they were answered."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, or_, select, update
from sqlalchemy.orm import Session

from services.catalog.database import now
from services.catalog.models import AnsweredRequest
from services.catalog.upserts import insert

# How long an answer is kept: clients repeat a request within minutes, or at the next run of a nightly job.
KEPT = timedelta(hours=25)
# A request says more often that it is at work (`renew`); one that does not was cut short with its process.
AT_WORK = timedelta(seconds=30)


class Answer(NamedTuple):
    """An answer as it was sent: its status and its JSON text."""

    status: int
    body: str


class Earlier(NamedTuple):
    """What is known of an earlier request with the same key; no answer while it is at work."""

    fingerprint: str
    answer: Answer | None


def claim(session: Session, key_id: int, name: str, fingerprint: str) -> Earlier | None:
    """Take a name for a request; if it is taken, return by what.

    Args:
        key_id: the API key that sent the request; names of others are others.
        name: the Idempotency-Key.
        fingerprint: SHA-256 over all that the request says.
    """
    expired = or_(
        AnsweredRequest.created_at < now() - KEPT,
        (AnsweredRequest.created_at < now() - AT_WORK) & AnsweredRequest.status.is_(None),
    )
    session.execute(delete(AnsweredRequest).where(*_named(key_id, name), expired))
    row = {"key_id": key_id, "name": name, "fingerprint": fingerprint, "created_at": now()}
    taken = session.execute(
        insert(session, AnsweredRequest)
        .values(row)
        .on_conflict_do_nothing(index_elements=["key_id", "name"])
        .returning(AnsweredRequest.name)
    ).all()
    if taken:
        return None
    found = session.scalar(select(AnsweredRequest).where(*_named(key_id, name)))
    if found is None:  # given back between the two statements
        return Earlier(fingerprint, None)
    answer = None if found.status is None else Answer(found.status, found.body or "")
    return Earlier(found.fingerprint, answer)


def remember(session: Session, key_id: int, name: str, answer: Answer) -> None:
    """Keep the answer of a request whose name was claimed."""
    session.execute(update(AnsweredRequest).where(*_named(key_id, name)).values(status=answer.status, body=answer.body))


def renew(session: Session, key_id: int, name: str) -> None:
    """Say that a request is still at work."""
    session.execute(
        update(AnsweredRequest).where(*_named(key_id, name), AnsweredRequest.status.is_(None)).values(created_at=now())
    )


def release(session: Session, key_id: int, name: str) -> None:
    """Give a name back: the request failed, and may be sent again."""
    session.execute(delete(AnsweredRequest).where(*_named(key_id, name), AnsweredRequest.status.is_(None)))


def forget_old(session: Session, limit: int) -> int:
    """Delete answers that are no longer kept, so many at a time; returns how many."""
    old = select(AnsweredRequest.id).where(AnsweredRequest.created_at < now() - KEPT).limit(limit)
    return len(
        session.scalars(delete(AnsweredRequest).where(AnsweredRequest.id.in_(old)).returning(AnsweredRequest.id)).all()
    )


def _named(key_id: int, name: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (AnsweredRequest.key_id == key_id, AnsweredRequest.name == name)
