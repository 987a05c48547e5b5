"""The ledger loop: claim → read → decode and preprocess → encode → upsert → mark; and, in turn with it, refreshes.

The table of races is in services/catalog/ledger.py. Reading and decoding of the next batch and
writing of the last go on while the present one is encoded.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from services import content, pace, refreshing, writing
from services.catalog import entries, indexes, ledger, turns
from services.catalog.database import now
from services.catalog.ledger import Claim, Lease
from services.catalog.models import IndexRow
from services.catalog.turns import Turn
from services.encoders.manifest import Manifest
from services.errors import AkinError, ConfigurationError, ImageReason, ImageRejected, NotFound, Unavailable
from services.queue import Task
from services.wiring import Services

logger = logging.getLogger(__name__)

TASK_SECONDS = 20.0
# Pictures after which it is asked whether the lease still lasts.
DECODED_AT_ONCE = 32
LATE = "encoding took longer than AKIN_LEASE_SECONDS: make that longer, or AKIN_EMBED_BATCH smaller"
# The decoder may have failed for want of memory or time, not because of the picture: worth another try.
RETRIED = (ImageReason.TIMEOUT, ImageReason.CRASHED)


@dataclass(frozen=True)
class Batch:
    """Claimed pictures, decoded: `pixels` is uint8 (n, size, size, 3), a row for each of `claims`.

    Attributes:
        overdue: of an index that went before others because it had waited for long.
    """

    lease: Lease
    collection: str
    encoder: str
    dimension: int
    claims: tuple[Claim, ...]
    pixels: NDArray[np.uint8]
    rejected: tuple[tuple[Claim, ImageRejected], ...]
    overdue: bool


@dataclass(frozen=True)
class Encoded:
    """A batch with its vectors: float32 (n, d), a row for each of `good`; the encoder sees nothing in `degenerate`."""

    lease: Lease
    collection: str
    dimension: int
    good: tuple[Claim, ...]
    vectors: NDArray[np.float32]
    degenerate: tuple[Claim, ...]
    rejected: tuple[tuple[Claim, ImageRejected], ...]


def drain(services: Services, seconds: float = TASK_SECONDS) -> int:
    """Embed and refresh what the ledger holds until it is empty or the time is up; returns how many were indexed.

    Where time ran out, the next run is already in the queue.

    Raises:
        Unavailable: Milvus, storage or database are away; every claimed row was given back.
    """
    until = time.monotonic() + seconds
    indexed = 0
    upcoming: Future[Batch | None] | None = None
    encoded: Encoded | None = None
    being_written: Future[int] | None = None
    with (
        ThreadPoolExecutor(1, thread_name_prefix="prepare") as ahead,
        ThreadPoolExecutor(1, thread_name_prefix="write") as behind,
    ):
        try:
            upcoming = ahead.submit(prepare, services, until)
            while upcoming is not None and (batch := upcoming.result()) is not None:
                goes_on = time.monotonic() < until
                upcoming = ahead.submit(prepare, services, until, in_order=batch.overdue) if goes_on else None
                encoded = encode(services, batch)
                indexed += being_written.result() if being_written else 0
                being_written = behind.submit(write, services, encoded) if encoded else None
                encoded = None
            indexed += being_written.result() if being_written else 0
        except BaseException:
            _give_back(services, upcoming, encoded)
            raise
    if upcoming is None or time.monotonic() > until:
        services.queue.wake(Task.EMBED)
    if indexed:
        services.queue.wake(Task.FINISH)
    return indexed


def _give_back(services: Services, upcoming: Future[Batch | None] | None, encoded: Encoded | None) -> None:
    # A step that failed gave its own rows back.
    batch = upcoming.result() if upcoming and upcoming.exception() is None else None
    for in_hand in (batch, encoded):
        if in_hand:
            _release(services, in_hand.lease)


def prepare(services: Services, until: float = math.inf, *, in_order: bool = False) -> Batch | None:
    """Claim a batch of any index with work and decode it; None where nothing is pending.

    What is to be refreshed has its turn before: None too where that took longer than until the clock says `until`.

    Args:
        in_order: what is overdue does not go before others, as it did the last time.

    Raises:
        Unavailable: a part is away; the rows were given back.
    """
    while True:
        with services.database.reading() as session:
            order = turns.turns(session, in_order=in_order)
        for turn in order:
            if turn.refreshes:
                if refreshing.refresh(services, turn.index_id):
                    in_order = turn.overdue
                    break  # an upload may have come, and goes first
            elif (batch := _prepare_from(services, turn)) is not None:
                return batch
        else:
            return None
        if time.monotonic() > until:
            return None


def _prepare_from(services: Services, turn: Turn) -> Batch | None:
    while (claimed := _claim(services, turn.index_id)) is not None:
        lease, index = claimed
        with _accounting(services, lease) as account:
            manifest = Manifest.model_validate(index.encoder.manifest)
            claims, pixels, rejected = _decode(services, manifest, lease)
        if not account.failed:
            encoder = index.encoder
            return Batch(
                lease, index.collection, encoder.sha256, encoder.dimension, claims, pixels, rejected, turn.overdue
            )
    return None


def _claim(services: Services, index_id: int) -> tuple[Lease, IndexRow] | None:
    settings = services.settings
    with services.database.transaction() as session:
        index = indexes.get(session, index_id)
        exhausted = ledger.recover(session, index_id, settings.max_attempts)
        if exhausted:
            entries.settle(session, exhausted)
        lease = None
        if index is not None:
            limit = pace.at_once(index.encoder.sha256, settings.embed_batch, settings.lease_seconds)
            lease = ledger.claim(session, index_id, limit=limit, lease=timedelta(seconds=settings.lease_seconds))
    return (lease, index) if lease and index else None


@dataclass
class _Account:
    """Whether a step with a batch failed for a reason of its own."""

    failed: bool = False


@contextmanager
def _accounting(services: Services, lease: Lease) -> Iterator[_Account]:
    """Give the rows of a lease back when a step with them fails.

    A part that is away, a wrong setting, or a stop of this process costs them nothing. Anything else, such as
    damaged weights or a device out of memory, costs an attempt and is recorded: such rows must end failed, not stop
    all others.
    """
    account = _Account()
    try:
        yield account
    except Exception as error:
        if isinstance(error, Unavailable | ConfigurationError):
            _release(services, lease)
            raise
        logger.exception("a batch of index %s failed", lease.index_id)
        account.failed = True
        code = error.code if isinstance(error, AkinError) else "embedding_failed"
        with services.database.transaction() as session:
            for claim in lease.claims:
                ledger.mark_for_retry(session, lease, claim.embedding_id, code, str(error) or type(error).__name__)
    except BaseException:
        _release(services, lease)
        raise


def _release(services: Services, lease: Lease) -> None:
    with services.database.transaction() as session:
        ledger.release(session, lease)


def _decode(
    services: Services, manifest: Manifest, lease: Lease
) -> tuple[tuple[Claim, ...], NDArray[np.uint8], tuple[tuple[Claim, ImageRejected], ...]]:
    """What can be decoded while the lease lasts: pictures that hang must not hold the worker for longer."""
    claims = lease.claims
    gone = ImageRejected(ImageReason.MISSING, "the stored bytes are gone")
    rejected: list[tuple[Claim, ImageRejected]] = []
    good: list[Claim] = []
    arrays: list[NDArray[np.uint8]] = []
    for piece in content.pieces(services, [claim.sha256 for claim in claims]):
        rejected += [(claims[position], gone) for position, data in piece if data is None]
        found = [(claims[position], data) for position, data in piece if data is not None]
        for start in range(0, len(found), DECODED_AT_ONCE):
            if now() > lease.until:
                break
            some = found[start : start + DECODED_AT_ONCE]
            decoded = services.decoder.preprocess_many([data for _, data in some], manifest.preprocessing)
            for (claim, _), outcome in zip(some, decoded, strict=True):
                if isinstance(outcome, ImageRejected):
                    rejected.append((claim, outcome))
                else:
                    good.append(claim)
                    arrays.append(outcome)
    size = manifest.preprocessing.size
    pixels = np.stack(arrays) if arrays else np.empty((0, size, size, 3), np.uint8)
    return tuple(good), pixels, tuple(rejected)


def encode(services: Services, batch: Batch) -> Encoded | None:
    """Encode a batch; None where that failed, which is recorded.

    Raises:
        Unavailable: the encoder's weights cannot be read; the rows were given back.
    """
    with _accounting(services, batch.lease):
        vectors = np.empty((0, batch.dimension), np.float32)
        if batch.claims:
            encoder = services.encoders.encoder(batch.encoder)
            began = time.monotonic()
            vectors = encoder.encode(batch.pixels)
            pace.took(batch.encoder, len(batch.claims), time.monotonic() - began)
        directed: NDArray[np.bool_] = np.any(vectors, axis=1)
        good = tuple(claim for claim, has_direction in zip(batch.claims, directed, strict=True) if has_direction)
        degenerate = tuple(claim for claim, has_one in zip(batch.claims, directed, strict=True) if not has_one)
        return Encoded(
            batch.lease, batch.collection, batch.dimension, good, vectors[directed], degenerate, batch.rejected
        )
    return None


def write(services: Services, encoded: Encoded) -> int:
    """Upsert a batch's vectors and mark its rows; returns how many were marked indexed.

    Raises:
        Unavailable: Milvus or the database is away; the rows were given back.
    """
    with _accounting(services, encoded.lease) as account:
        if now() > encoded.lease.until:
            # Others may hold the rows by now; a write that ends after `ledger.WRITE_MARGIN` could outlive a delete.
            logger.warning("lease %s ended before its batch was encoded", encoded.lease.token)
            _mark_late(services, encoded)
            return 0
        revs = _upsert(services, encoded) if encoded.good else {}
    if account.failed:
        return 0
    return _mark(services, encoded, revs)


def _mark_late(services: Services, encoded: Encoded) -> None:
    """Record what decoding has shown, as far as nobody else holds the rows by now, and give the others back."""
    with services.database.transaction() as session:
        _mark_rejected(session, encoded)
        for claim in (*encoded.good, *encoded.degenerate):
            ledger.mark_for_retry(session, encoded.lease, claim.embedding_id, "lease_ended", LATE)
        ledger.release(session, encoded.lease)
        entries.settle(session, [claim.image_id for claim, _ in encoded.rejected])


def _upsert(services: Services, encoded: Encoded) -> dict[int, int]:
    """Write the vectors; returns the versions of what filters see of their items, by embedding id."""
    described = writing.describe(services, encoded.good)
    services.vectors.create(encoded.collection, encoded.dimension)
    try:
        writing.upsert(services, encoded.collection, encoded.good, encoded.vectors, described)
    except NotFound:  # lost since this process made it: made anew, and the audit brings back what it held
        services.vectors.create(encoded.collection, encoded.dimension)
        writing.upsert(services, encoded.collection, encoded.good, encoded.vectors, described)
    return {embedding_id: of.rev for embedding_id, of in described.items()}


def _mark(services: Services, encoded: Encoded, revs: dict[int, int]) -> int:
    lease = encoded.lease
    with services.database.transaction() as session:
        marked = ledger.mark_indexed(session, lease, revs)
        for claim in encoded.degenerate:
            ledger.mark_failed(
                session, lease, claim.embedding_id, "embedding_degenerate", "the encoder sees nothing in it"
            )
        _mark_rejected(session, encoded)
        entries.settle(session, [claim.image_id for claim in lease.claims])
    writing.clean_up(services, encoded.collection, lease, {claim.embedding_id for claim in encoded.good} - marked)
    return len(marked)


def _mark_rejected(session: Session, encoded: Encoded) -> None:
    for claim, error in encoded.rejected:
        mark = ledger.mark_for_retry if error.reason in RETRIED else ledger.mark_failed
        mark(session, encoded.lease, claim.embedding_id, error.code, error.detail)
