"""API keys: 256 random bits, kept as SHA-256 only."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Sequence
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.catalog.database import now
from services.catalog.models import Key
from services.errors import NotFound

LOCAL = "this machine, while akin up runs"


class Scope(StrEnum):
    """What a key may do; `admin` includes the others."""

    SEARCH = "search"
    INGEST = "ingest"
    ADMIN = "admin"


def create(session: Session, name: str, scopes: Collection[Scope], catalog_id: int | None = None) -> str:
    """Make a key and return its secret, which cannot be had again."""
    secret = f"akin_{secrets.token_urlsafe(32)}"
    session.add(
        Key(
            name=name,
            prefix=secret[:12],
            sha256=_digest(secret),
            scopes=sorted(scope.value for scope in scopes),
            catalog_id=catalog_id,
        )
    )
    return secret


def authenticate(session: Session, secret: str) -> Key | None:
    """The key of a secret, unless revoked. Equal digests mean equal secrets, so a plain lookup leaks nothing."""
    return session.scalar(select(Key).where(Key.sha256 == _digest(secret), Key.revoked_at.is_(None)))


def by_id(session: Session, key_id: int) -> Key | None:
    """A key that is not revoked."""
    return session.scalar(select(Key).where(Key.id == key_id, Key.revoked_at.is_(None)))


def all_of(session: Session) -> Sequence[Key]:
    """Every key that is not revoked."""
    return session.scalars(select(Key).where(Key.revoked_at.is_(None)).order_by(Key.id)).all()


def has_admin(session: Session) -> bool:
    """Whether a person holds an admin key already."""
    return any(Scope.ADMIN in key.scopes and key.name != LOCAL for key in all_of(session))


def revoke(session: Session, key_id: int) -> None:
    """End a key.

    Raises:
        NotFound: there is no such key, or it was revoked before.
    """
    key = by_id(session, key_id)
    if key is None:
        raise NotFound(f"there is no key {key_id}", code="key_not_found")
    key.revoked_at = now()


def replace_local(session: Session) -> str:
    """End the keys of earlier runs on this machine and make this run's."""
    for key in session.scalars(select(Key).where(Key.name == LOCAL, Key.revoked_at.is_(None))):
        key.revoked_at = now()
    return create(session, LOCAL, [Scope.ADMIN])


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
