"""API keys: 256 random bits, kept as SHA-256 only; and publishable ones, which stand in the pages of a shop."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.orm import Session

from services.catalog.database import now
from services.catalog.models import Key
from services.catalog.prepared import Prepared, Row
from services.errors import InvalidRequest, NotFound

LOCAL = "this machine, while akin up runs"
# What a publishable key begins with.
PUBLISHABLE = "pk_"
MOST_ORIGINS = 50
# What the widget shows of an item, and asks about.
WIDGET_ATTRIBUTES: Final = ("price", "currency", "in_stock")
MOST_ATTRIBUTES = 100
PORTS: Final = {"http": 80, "https": 443}


class Scope(StrEnum):
    """What a key may do; `admin` includes the others, `search` includes `widget`."""

    SEARCH = "search"
    INGEST = "ingest"
    ADMIN = "admin"
    WIDGET = "widget"


def create(session: Session, name: str, scopes: Collection[Scope], catalog_id: int | None = None) -> str:
    """Make a key and return its secret, which cannot be had again.

    Raises:
        InvalidRequest: the scope `widget` alone is that of publishable keys.
    """
    if set(scopes) == {Scope.WIDGET}:
        raise InvalidRequest("a key for web pages needs a catalog and the origins of the pages")
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


def create_publishable(
    session: Session,
    name: str,
    catalog_id: int,
    origins: Collection[str],
    attributes: Collection[str] = WIDGET_ATTRIBUTES,
) -> str:
    """Make a key for the pages of these origins, and return it: no secret, so it can be read again.

    Args:
        attributes: names of those that the key shows, each with all that is nested in it.

    Raises:
        InvalidRequest: there is no origin, too many, or one that is none; or there are too many attributes.
    """
    allowed = list(dict.fromkeys(map(origin_of, origins)))
    if not 0 < len(allowed) <= MOST_ORIGINS:
        raise InvalidRequest(f"a publishable key has 1 to {MOST_ORIGINS} origins", code="invalid_origin")
    if len(attributes) > MOST_ATTRIBUTES:
        raise InvalidRequest(f"a publishable key shows {MOST_ATTRIBUTES} attributes at most")
    public = PUBLISHABLE + secrets.token_urlsafe(24)
    session.add(
        Key(
            name=name,
            prefix=public[:12],
            sha256=_digest(public),
            scopes=[Scope.WIDGET.value],
            public=public,
            origins=allowed,
            attributes=list(dict.fromkeys(attributes)),
            catalog_id=catalog_id,
        )
    )
    return public


def origin_of(text: str) -> str:
    """An origin as browsers write it: `https://shop.example`, with the port where it is not the scheme's own.

    Raises:
        InvalidRequest: it is none, or stands for more than one.
    """
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname or "", parts.port
        # A name in other letters is compared in the form in which browsers send it.
        host = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
    except ValueError:  # among them UnicodeError
        parts, host, port = urlsplit(""), "", None
    more = parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None
    if parts.scheme not in PORTS or not host or more or "*" in host or any(map(str.isspace, host)):
        raise InvalidRequest(
            f"{text[:200]!r} is no origin: give scheme and host, such as https://shop.example", code="invalid_origin"
        )
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, PORTS[parts.scheme]) else "")


def publishable(session: Session, catalog_id: int) -> Sequence[Key]:
    """The publishable keys of a catalog."""
    return [key for key in all_of(session) if key.public is not None and key.catalog_id == catalog_id]


class Held(NamedTuple):
    """What a request needs to know of the key that it came with."""

    id: int
    scopes: list[str]
    catalog_id: int | None
    public: str | None
    origins: list[str] | None
    attributes: list[str] | None


# Plain statements over columns, made once: every request has one of them, and objects of rows take four times as long.
_keys = Key.__table__.c
_HELD = select(_keys.id, _keys.scopes, _keys.catalog_id, _keys.public, _keys.origins, _keys.attributes).where(
    _keys.revoked_at.is_(None)
)
_BY_SECRET = Prepared(_HELD.where(_keys.sha256 == bindparam("sha256")))
_BY_ID = Prepared(_HELD.where(_keys.id == bindparam("key")))


def authenticate(connection: Connection, secret: str) -> Held | None:
    """The key of a secret, unless revoked. Equal digests mean equal secrets, so a plain lookup leaks nothing."""
    return _held(_BY_SECRET.rows(connection, {"sha256": _digest(secret)}))


def signed_in(connection: Connection, key_id: int) -> Held | None:
    """A key that is not revoked, by its id."""
    return _held(_BY_ID.rows(connection, {"key": key_id}))


def _held(rows: Sequence[Row]) -> Held | None:
    return Held._make(rows[0]) if rows else None


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
