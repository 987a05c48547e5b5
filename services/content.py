"""Bytes of pictures in the blob store: kept once by SHA-256, collected when nothing refers to them, and shown."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from sqlalchemy import select

from services.catalog import entries
from services.catalog.database import now
from services.catalog.models import Image, OrphanBlob
from services.errors import NotFound
from services.images.thumbnails import SIZES
from services.storage.blobs import key_of
from services.wiring import Services

GRACE = timedelta(hours=1)
TASK_SECONDS = 20.0
# Pictures may be large: a batch is read in pieces of about this size.
PIECE_BYTES = 64 * 1024 * 1024


def store(services: Services, data: bytes) -> str:
    """Put bytes under their SHA-256, which is returned."""
    sha256 = sha256_of(data)
    services.blobs.put(key_of(sha256), data)
    return sha256


def sha256_of(data: bytes) -> str:
    """What bytes are known by: 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def ensure_stored(services: Services, blobs: Mapping[str, bytes]) -> None:
    """Put bytes under their SHA-256, which is known, unless they are there.

    Once more after the commit of their rows: a collection may have taken them between their first storing and it.
    """
    for sha256, data in blobs.items():
        services.blobs.put(key_of(sha256), data)


def pieces(services: Services, hashes: Sequence[str]) -> Iterator[list[tuple[int, bytes | None]]]:
    """The bytes of many pictures, a bounded amount at a time, each with its position; None where they are gone."""
    piece: list[tuple[int, bytes | None]] = []
    size = 0
    for position, sha256 in enumerate(hashes):
        try:
            data = services.blobs.get(key_of(sha256))
        except NotFound:
            data = None
        piece.append((position, data))
        size += len(data or b"")
        if size >= PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def source_key(job_id: str) -> str:
    """Where the archive or manifest of an import is kept."""
    return f"sources/{job_id}"


def collect_orphans(services: Services, seconds: float = TASK_SECONDS) -> int:
    """Delete bytes that nothing has referred to for the grace period; returns how many.

    What the time does not suffice for is left to the next run.

    The blob goes while its orphan row is locked. An upload of the same bytes deletes that row in its own
    transaction: it either comes first, and the row is not found here, or waits, and then finds the bytes gone
    and stores them again (`ensure_stored`).
    """
    until = time.monotonic() + seconds
    collected = 0
    while time.monotonic() < until:
        with services.database.transaction() as session:
            orphan = session.scalar(
                select(OrphanBlob).where(OrphanBlob.since < now() - GRACE).limit(1).with_for_update()
            )
            if orphan is None:
                return collected
            session.delete(orphan)
            if not entries.bytes_awaited(session, orphan.sha256):
                for size in SIZES:
                    services.blobs.delete(_thumbnail_key(orphan.sha256, size))
                services.blobs.delete(key_of(orphan.sha256))
                collected += 1
    return collected


def _thumbnail_key(sha256: str, size: int) -> str:
    """Where the thumbnail of a picture is kept."""
    return f"thumbnails/{size}/{sha256[:2]}/{sha256}.webp"


def image_bytes(services: Services, image: Image) -> bytes:
    """The stored bytes of an image."""
    return services.blobs.get(key_of(image.sha256))


def thumbnail(services: Services, image: Image, size: int) -> bytes:
    """WebP thumbnail that fits `size` × `size`; drawn once, then kept."""
    key = _thumbnail_key(image.sha256, size)
    try:
        return services.blobs.get(key)
    except NotFound:
        drawn = services.decoder.thumbnail(image_bytes(services, image), size)
        services.blobs.put(key, drawn)
        return drawn
