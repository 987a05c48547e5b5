"""Registered encoders."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import false, select
from sqlalchemy.orm import Session

from services.catalog.models import EncoderRow
from services.errors import NotFound


def by_ref(session: Session, ref: str) -> EncoderRow:
    """Find an encoder by `name@version`, or the latest version of `name`.

    Raises:
        NotFound: none is registered; the detail names those that are.
    """
    name, _, version = ref.partition("@")
    query = select(EncoderRow).where(EncoderRow.name == name).order_by(EncoderRow.version.desc()).limit(1)
    if version:
        query = query.where(EncoderRow.version == int(version)) if version.isdigit() else query.where(false())
    row = session.scalar(query)
    if row is None:
        known = ", ".join(encoder.ref for encoder in all_of(session)) or "none"
        raise NotFound(f"there is no encoder {ref!r}; registered: {known}", code="encoder_not_found")
    return row


def all_of(session: Session) -> Sequence[EncoderRow]:
    """Every encoder, oldest first."""
    return session.scalars(select(EncoderRow).order_by(EncoderRow.id)).all()
