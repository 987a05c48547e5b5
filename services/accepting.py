"""The imports loop: list what a source names, get the bytes, look at them, and open ledger rows.

A worker takes a turn with one import, a piece of it, and then the next turn, so that no import and no catalog waits
for the end of another. Entries that it has in its hands are not due for others until a lease has passed; whatever
it holds when it is killed is due again then, and settling twice is not possible: rows that are no longer pending are
left alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import Session

from services import content
from services.additions import Added, add, entry_states
from services.catalog import entries, items, jobs, ledger, removal
from services.catalog.database import now
from services.catalog.items import ItemFields, Picture
from services.catalog.models import Job, JobEntry
from services.catalog.states import EntryState, ImportMode, JobState, Priority
from services.errors import AkinError, ImageRejected
from services.gathering import FieldsOnly, Found, Gathered, NotYet, Refused, Unmodified, gather
from services.listing import FETCHED_SECONDS, list_more
from services.queue import Task
from services.sources.names import printable
from services.wiring import Services

logger = logging.getLogger(__name__)

ENTRIES_AT_ONCE = 256
# The encoders wait for the first of an import.
FIRST_ENTRIES = 64
TASK_SECONDS = 20.0
# Entries of one import that are listed before they are looked at, and pictures that imports put into the ledger
# before they are embedded: the rest waits where it is.
LISTED_AHEAD = 2_000
LEDGER_AHEAD = 5_000
LEFT_OUT_AT_ONCE = 1_000
# A server that does not give a picture is asked so often, after pauses that grow fourfold from this.
FETCH_ATTEMPTS = 4
FIRST_PAUSE = timedelta(seconds=5)
ENTRY_FAULT = "entry_fault"


@dataclass(frozen=True)
class Good:
    """A picture that can be embedded. `data` is None where it is stored already."""

    picture: Picture
    data: bytes | None


ITEM_EXISTS = Refused("item_exists", "the catalog has this item, and the import is to create only")
Outcome = Good | Unmodified | FieldsOnly | NotYet | Refused


def accept_pending(services: Services, seconds: float = TASK_SECONDS) -> None:
    """Go on with imports until there are none or the time is up; then the next run is in the queue.

    Raises:
        Unavailable: a part is away; what was in hand was given back.
    """
    until = time.monotonic() + seconds
    while take_turn(services):
        if time.monotonic() > until:
            services.queue.wake(Task.IMPORTS)
            return


def take_turn(services: Services) -> bool:
    """Go on with the import whose turn it is; False where none has anything to do."""
    with services.database.transaction() as session:
        job = jobs.take_turn(session, LEDGER_AHEAD)
        if job is None:
            return False
        if job.state == JobState.CANCELLED:
            entries.leave_out(session, job.id, LEFT_OUT_AT_ONCE)
            return True
        lists = job.listed_at is None and entries.due(session, job.id, LISTED_AHEAD) < LISTED_AHEAD
        lists = lists and jobs.hold_listing(session, job, now() + _listing_lease(services, job))
    if lists:
        try:
            list_more(services, job)
        finally:
            with services.database.transaction() as session:
                jobs.release_listing(session, job.id)
    _accept(services, job)
    services.queue.wake(Task.FINISH)
    return True


def _listing_lease(services: Services, job: Job) -> timedelta:
    """How long another worker waits for the next piece of a listing: one that is killed comes to no end."""
    fetching = FETCHED_SECONDS if job.source.get("kind") == "url" else 0.0
    return timedelta(seconds=services.settings.lease_seconds + fetching)


def _accept(services: Services, job: Job) -> None:
    """Look at the next entries of an import.

    The pictures are looked at outside of any transaction.
    """
    lease = timedelta(seconds=services.settings.lease_seconds)
    # As it was before this turn, in which it may have been listed.
    count = min(ENTRIES_AT_ONCE, FIRST_ENTRIES) if job.state == JobState.QUEUED else ENTRIES_AT_ONCE
    with services.database.transaction() as session:
        claimed = entries.claim(session, job.id, count, now() + lease)
    _accept_all(services, job, claimed)


def _accept_all(services: Services, job: Job, claimed: Sequence[JobEntry]) -> None:
    left = {entry.id for entry in claimed}
    try:
        if job.mode == ImportMode.CREATE:
            claimed = _without_existing(services, job, claimed)
            left = {entry.id for entry in claimed}
        for piece in gather(services, job, claimed):
            looked = _inspect(services, piece)
            blobs = {o.picture.sha256: o.data for o in looked.values() if isinstance(o, Good) and o.data is not None}
            content.ensure_stored(services, blobs)
            with services.database.transaction() as session:
                kept = _settle(session, job.id, looked) & blobs.keys()
                removal.keep_orphans(session, kept)
                removal.note_orphans(session, blobs.keys() - kept)
            content.ensure_stored(services, {sha256: blobs[sha256] for sha256 in kept})
            left -= looked.keys()
            services.queue.wake(Task.EMBED)
    except AkinError:
        raise
    except Exception:
        logger.exception("import %s: one of %d entries cannot be looked at", job.id, len(left))
        left = _accept_alone(services, job, [entry for entry in claimed if entry.id in left])
    finally:
        if left:
            with services.database.transaction() as session:
                entries.release(session, left)


def _accept_alone(services: Services, job: Job, claimed: Sequence[JobEntry]) -> set[int]:
    """Look at each by itself, as one of them met an unexpected error; returns those that there was no time for.

    A single one is it: it is put off, and fails after some attempts.
    """
    if len(claimed) == 1:
        fault = NotYet(ENTRY_FAULT, "looking at it met unexpected errors; the worker's log has them")
        with services.database.transaction() as session:
            for entry in entries.still_pending(session, [claimed[0].id]):
                _put_off(session, entry, fault)
        return set()
    until = time.monotonic() + TASK_SECONDS
    waiting = list(claimed)
    while waiting and time.monotonic() < until:
        _accept_all(services, job, [waiting.pop(0)])
    return {entry.id for entry in waiting}


def _without_existing(services: Services, job: Job, claimed: Sequence[JobEntry]) -> Sequence[JobEntry]:
    """Of an import that only creates, the entries whose bytes are worth getting: the others fail."""
    with services.database.reading() as session:
        there = _existing(session, job, claimed)
    refused: dict[int, Outcome] = {entry.id: ITEM_EXISTS for entry in claimed if entry.item["item_id"] in there}
    if refused:
        with services.database.transaction() as session:
            _settle(session, job.id, refused)
    return [entry for entry in claimed if entry.id not in refused]


def _existing(session: Session, job: Job, pending: Sequence[JobEntry]) -> set[str]:
    return items.older_than(session, job.catalog_id, {entry.item["item_id"] for entry in pending}, job.created_at)


def _inspect(services: Services, piece: Sequence[tuple[JobEntry, Gathered]]) -> dict[int, Outcome]:
    found = [(entry, gathered) for entry, gathered in piece if isinstance(gathered, Found)]
    looked: dict[int, Outcome] = {entry.id: g for entry, g in piece if not isinstance(g, Found)}
    headers = services.decoder.inspect_many([gathered.data for _, gathered in found])
    for (entry, gathered), info in zip(found, headers, strict=True):
        if isinstance(info, ImageRejected):
            looked[entry.id] = Refused(info.code, info.detail)
            continue
        data = gathered.data
        sha256 = entry.sha256 if gathered.stored and entry.sha256 else content.sha256_of(data)
        picture = Picture(sha256, info.format, info.media_type, info.width, info.height, len(data), gathered.origin)
        looked[entry.id] = Good(picture, None if gathered.stored else data)
    return looked


def _settle(session: Session, job_id: str, looked: Mapping[int, Outcome]) -> set[str]:
    """Bring the entries to where their outcomes take them; returns the hashes of the pictures that were accepted."""
    # Locked: a cancel comes before these entries are accepted, or after.
    job = jobs.lock(session, job_id)
    if job is None or job.state == JobState.CANCELLED:
        return set()
    jobs.start(job)
    pending = entries.still_pending(session, list(looked))
    if job.mode == ImportMode.CREATE:
        pending = _refuse_existing(session, job, pending)
    for entry in pending:
        outcome = looked[entry.id]
        if isinstance(outcome, Refused):
            _fail(session, entry, outcome)
        elif isinstance(outcome, NotYet):
            _put_off(session, entry, outcome)
    _settle_fields(session, job, [e for e in pending if isinstance(looked[e.id], FieldsOnly | Unmodified)], looked)
    good = [(entry, outcome) for entry in pending if isinstance(outcome := looked[entry.id], Good)]
    _settle_good(session, job, good)
    return {outcome.picture.sha256 for _, outcome in good}


def _refuse_existing(session: Session, job: Job, pending: Sequence[JobEntry]) -> list[JobEntry]:
    """Of an import that only creates, the entries whose item was there before it began fail."""
    there = _existing(session, job, pending)
    for entry in pending:
        if entry.item["item_id"] in there:
            _fail(session, entry, ITEM_EXISTS)
    return [entry for entry in pending if entry.item["item_id"] not in there]


def _fail(session: Session, entry: JobEntry, refused: Refused) -> None:
    entry.state, entry.error_code, entry.error_detail = EntryState.FAILED, refused.code, printable(refused.detail)
    if entry.sha256 is not None:
        removal.note_orphans(session, [entry.sha256])


def _put_off(session: Session, entry: JobEntry, reason: NotYet) -> None:
    entry.attempts += 1
    if entry.attempts >= FETCH_ATTEMPTS:
        _fail(session, entry, Refused(reason.code, reason.detail))
    else:
        entry.due_at = now() + FIRST_PAUSE * 4 ** (entry.attempts - 1)


def _settle_fields(session: Session, job: Job, unpictured: Sequence[JobEntry], looked: Mapping[int, Outcome]) -> None:
    """Entries without a picture, or with one that has not changed: what they say of their items."""
    if not unpictured:
        return
    item_pks = items.upsert(session, job.catalog_id, [ItemFields(**entry.item) for entry in unpictured])
    kept = [outcome.image_id for entry in unpictured if isinstance(outcome := looked[entry.id], Unmodified)]
    alive = items.images_by_id(session, job.catalog_id, kept)
    ledger.retry_failed(session, list(alive))
    places = {(one.item.item_id, one.origin) for one in alive.values() if one.item is not None and one.origin}
    there = items.all_from_origins(session, job.catalog_id, places)
    same: list[tuple[JobEntry, Added]] = []
    for entry in unpictured:
        outcome = looked[entry.id]
        entry.item_pk = item_pks[entry.item["item_id"]]
        if not isinstance(outcome, Unmodified):
            entry.state = EntryState.UNCHANGED
        elif (image := alive.get(outcome.image_id)) is not None:
            # Not what another import found there meanwhile: it is later than what the server was asked about.
            found = there.get((entry.item["item_id"], image.origin or ""), ())
            entry.replaces = max((one.id for one in found if one.id < image.id), default=None)
            same.append((entry, Added(entry.item_pk, image.id, created=False)))
        else:  # deleted meanwhile: fetched anew
            entry.due_at = now()
    _set_states(session, same)


def _settle_good(session: Session, job: Job, good: Sequence[tuple[JobEntry, Good]]) -> None:
    wanted = [(ItemFields(**entry.item), outcome.picture) for entry, outcome in good]
    places = {(f.item_id, picture.origin.place) for f, picture in wanted if picture.origin is not None}
    before = items.all_from_origins(session, job.catalog_id, places)
    all_added = add(session, job.catalog_id, wanted, Priority.IMPORT)
    for (entry, outcome), added in zip(good, all_added, strict=True):
        origin = outcome.picture.origin
        there = before.get((entry.item["item_id"], origin.place), ()) if origin is not None else ()
        # The latest image of the place that is not the one which lies there now.
        entry.replaces = max((image.id for image in there if image.id != added.image_id), default=None)
        entry.item_pk = added.item_pk
        entry.sha256 = outcome.picture.sha256
    _set_states(session, [(entry, added) for (entry, _), added in zip(good, all_added, strict=True)])


def _set_states(session: Session, settled: Sequence[tuple[JobEntry, Added]]) -> None:
    states = entry_states(session, [added for _, added in settled])
    for (entry, added), state in zip(settled, states, strict=True):
        entry.image_id, entry.state = added.image_id, state
