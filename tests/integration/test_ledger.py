"""The ledger's table of races (services/catalog/ledger.py), on SQLite and on PostgreSQL."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.orm import Session

from services.bootstrap import migrate
from services.catalog import catalogs, comparison, entries, indexes, items, jobs, ledger, removal, revisions
from services.catalog.catalogs import lock_exclusive, lock_shared
from services.catalog.database import Database, now
from services.catalog.items import ItemFields, Origin, Picture
from services.catalog.ledger import Lease
from services.catalog.locking import in_order
from services.catalog.models import Catalog, Embedding, EncoderRow, Image, IndexRow, Item, Job, JobEntry, OrphanBlob
from services.catalog.states import EmbeddingState, EntryState, IndexState, Priority
from services.catalog.turns import Turn, turns

MINUTE = timedelta(minutes=1)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    migrate(database)
    with database.transaction() as session:
        session.add_all(
            EncoderRow(name=f"encoder-{n}", version=1, sha256=f"sha-{n}", dimension=8, manifest={}) for n in range(2)
        )
        catalog = Catalog(name="default")
        session.add(catalog)
        session.flush()
        catalog.live_index_id = indexes.create(session, catalog.id, 1, IndexState.LIVE, None).id
    yield database
    database.close()


def add_images(database: Database, count: int, start: int = 0) -> list[int]:
    ids = []
    with database.transaction() as session:
        lock_shared(session, 1)
        for number in range(start, start + count):
            item = items.upsert(session, 1, [ItemFields(f"item-{number}")])[f"item-{number}"]
            seen = Picture(f"sha-{number}", "jpeg", "image/jpeg", 10, 10, 100)
            ((image_id, created),) = items.add_images(session, 1, [(item, seen)])
            assert created
            ledger.open_rows(session, [image_id], 1, Priority.IMPORT)
            ids.append(image_id)
    return ids


def claim(database: Database, index_id: int = 1, limit: int = 10, lease: timedelta = MINUTE) -> Lease | None:
    with database.transaction() as session:
        ledger.recover(session, index_id, 3)
        return ledger.claim(session, index_id, limit=limit, lease=lease)


def claimed(database: Database, **options: int) -> Lease:
    lease = claim(database, **options)
    assert lease is not None
    return lease


def end_leases(database: Database) -> None:
    with database.transaction() as session:
        session.execute(update(Embedding).values(lease_until=now() - timedelta(hours=1)))


def mark(database: Database, lease: Lease) -> set[int]:
    with database.transaction() as session:
        described = revisions.described(session, [c.embedding_id for c in lease.claims])
        return ledger.mark_indexed(session, lease, {one: of.rev for one, of in described.items()})


def states(database: Database, index_id: int = 1) -> dict[str, int]:
    with database.reading() as session:
        return {state.value: count for state, count in ledger.counts(session, index_id).items() if count}


def row(database: Database, image_id: int) -> Embedding:
    with database.reading() as session:
        return session.scalars(select(Embedding).where(Embedding.image_id == image_id)).one()


def test_eight_workers_at_once_claim_every_row_exactly_once(database: Database) -> None:
    images = add_images(database, 200)
    together = threading.Barrier(8)

    def work(_: int) -> list[int]:
        together.wait()
        mine: list[int] = []
        while (lease := claim(database, limit=7)) is not None:
            mine += [c.image_id for c in lease.claims]
            assert len(mark(database, lease)) == len(lease.claims)
        return mine

    with ThreadPoolExecutor(8) as pool:
        taken = [image for mine in pool.map(work, range(8)) for image in mine]

    assert sorted(taken) == images
    assert states(database) == {"indexed": 200}


def test_rows_of_a_dead_worker_come_back_when_its_lease_ends(database: Database) -> None:
    add_images(database, 3)
    claimed(database)
    assert claim(database) is None

    end_leases(database)

    assert len(claimed(database).claims) == 3


def test_the_later_of_two_holders_marks_and_the_earlier_does_not(database: Database) -> None:
    add_images(database, 2)
    slow = claimed(database)
    end_leases(database)
    quick = claimed(database)

    assert mark(database, slow) == set()
    assert len(mark(database, quick)) == 2
    with database.transaction() as session:
        assert ledger.lost(session, slow, {c.embedding_id for c in slow.claims}) == []


def test_a_deleted_image_is_the_abandoned_one(database: Database) -> None:
    kept, deleted = add_images(database, 2)
    lease = claimed(database)
    with database.transaction() as session:
        assert removal.delete_images(session, [deleted]) == 1

    marked = mark(database, lease)

    lost = {c.embedding_id for c in lease.claims} - marked
    with database.transaction() as session:
        assert ledger.lost(session, lease, lost) == [deleted]
    assert row(database, kept).state == EmbeddingState.INDEXED


def test_a_delete_waits_for_the_lease_and_only_for_that(database: Database) -> None:
    leased, _pending = add_images(database, 2)
    claimed(database, limit=1)
    with database.transaction() as session:
        removal.delete_images(session, select(Image.id))

    with database.reading() as session:
        first = removal.deletable(session, 10)
    assert first is not None
    assert leased not in first.image_ids

    end_leases(database)
    with database.transaction() as session:
        deletion = removal.deletable(session, 10)
        assert deletion is not None
        removal.forget(session, deletion)
        assert session.scalars(select(Image.id)).all() == []


def test_an_id_is_never_used_again(database: Database) -> None:
    *_, last = add_images(database, 3)
    with database.transaction() as session:
        removal.delete_images(session, select(Image.id))
    end_leases(database)
    with database.transaction() as session:
        deletion = removal.deletable(session, 10)
        assert deletion is not None
        removal.forget(session, deletion)

    (again,) = add_images(database, 1)

    assert again > last


def test_released_rows_cost_no_attempt(database: Database) -> None:
    (image,) = add_images(database, 1)
    for _ in range(10):
        with database.transaction() as session:
            lease = ledger.claim(session, 1, limit=1, lease=MINUTE)
            assert lease is not None
            ledger.release(session, lease)

    assert (row(database, image).state, row(database, image).attempts) == (EmbeddingState.PENDING, 0)


def test_what_kills_workers_ends_alone_and_failed_while_its_neighbours_pass(database: Database) -> None:
    images = add_images(database, 5)
    poison = images[2]
    for _ in range(20):
        lease = claim(database)
        if lease is None:
            break
        if poison in [c.image_id for c in lease.claims]:
            end_leases(database)  # the worker died
        else:
            mark(database, lease)

    assert states(database) == {"indexed": 4, "failed": 1}
    assert row(database, poison).error_code == "attempts_exhausted"


def test_a_single_picture_that_kills_every_worker_is_failed(database: Database) -> None:
    (poison,) = add_images(database, 1)
    deaths = 0
    while claim(database) is not None:
        end_leases(database)
        deaths += 1
        assert deaths < 10

    assert deaths == 3
    assert row(database, poison).state == EmbeddingState.FAILED


def test_the_live_index_comes_before_a_building_one(database: Database) -> None:
    with database.transaction() as session:
        building = indexes.create(session, 1, 2, IndexState.BUILDING, None).id
    add_images(database, 1)

    with database.reading() as session:
        assert turns(session) == [Turn(1, refreshes=False), Turn(building, refreshes=False)]


def test_uploads_racing_the_start_of_a_reindex_all_get_a_row_in_it(database: Database) -> None:
    """Without the catalog's lock an upload that read the indexes before the start commits after the backfill."""
    started = threading.Event()

    def upload(worker: int) -> None:
        for number in range(15):
            add_images(database, 1, start=1000 * (worker + 1) + number)
            if number == 5:
                started.set()

    def reindex() -> int:
        started.wait()
        with database.transaction() as session:
            lock_exclusive(session, 1)
            index = indexes.create(session, 1, 2, IndexState.BUILDING, None)
        while True:
            with database.transaction() as session:
                lock_shared(session, 1)
                current = indexes.get(session, index.id)
                assert current is not None
                if not indexes.backfill(session, current, 7):
                    return index.id

    with ThreadPoolExecutor(5) as pool:
        building = pool.submit(reindex)
        for future in [pool.submit(upload, worker) for worker in range(4)]:
            future.result()
    with database.reading() as session:
        index = indexes.get(session, building.result())
        assert index is not None
        assert indexes.missing(session, index) is None
    assert sum(states(database, index.id).values()) == 60


def test_a_delete_racing_the_backfill_leaves_no_row_to_embed(database: Database) -> None:
    images = add_images(database, 60)
    with database.transaction() as session:
        index = indexes.create(session, 1, 2, IndexState.BUILDING, None)
    together = threading.Barrier(2)

    def backfill() -> None:
        together.wait()
        while True:
            with database.transaction() as session:
                current = indexes.get(session, index.id)
                assert current is not None
                if not indexes.backfill(session, current, 5):
                    return

    def delete() -> None:
        together.wait()
        for image in images:
            with database.transaction() as session:
                removal.delete_images(session, [image])

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(backfill), pool.submit(delete)]:
            future.result()

    assert set(states(database, index.id)) <= {"deleting"}


def test_an_entry_follows_the_index_that_is_live_now(database: Database) -> None:
    (image,) = add_images(database, 1)
    with database.transaction() as session:
        job = Job(catalog_id=1, kind=jobs.IMPORT, total=1)
        session.add(job)
        session.flush()
        entry = JobEntry(job_id=job.id, ref="x", item={}, sha256="s", state=EntryState.ACCEPTED, image_id=image)
        session.add(entry)
        building = indexes.create(session, 1, 2, IndexState.BUILDING, None)
        ledger.open_rows(session, [image], 1, Priority.IMPORT)
    mark(database, claimed(database, index_id=building.id))
    with database.transaction() as session:
        entries.settle(session)
        assert entries.counts(session, job.id)[EntryState.ACCEPTED] == 1

        catalog = catalogs.lock_exclusive(session, 1)
        live = indexes.get(session, building.id)
        assert live is not None
        indexes.switch(session, catalog, live)
        entries.settle(session)

        assert entries.counts(session, job.id)[EntryState.INDEXED] == 1


def test_two_uploads_of_the_same_bytes_at_once_are_one_image(database: Database) -> None:
    together = threading.Barrier(6)
    seen = Picture("same", "jpeg", "image/jpeg", 10, 10, 100)

    def upload(_: int) -> tuple[int, bool]:
        together.wait()
        with database.transaction() as session:
            item = items.upsert(session, 1, [ItemFields("item")])["item"]
            return items.add_images(session, 1, [(item, seen)])[0]

    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(upload, range(6)))

    assert len({image for image, _ in outcomes}) == 1
    assert sum(created for _, created in outcomes) == 1


def test_two_batches_with_the_same_items_do_not_lock_each_other_out(database: Database) -> None:
    together = threading.Barrier(4)

    def upload(worker: int) -> None:
        for round_ in range(10):
            order = list(range(20)) if worker % 2 else list(reversed(range(20)))
            wanted = [ItemFields(f"item-{n}", title=f"{worker}-{round_}") for n in order]
            together.wait()
            with database.transaction() as session:
                lock_shared(session, 1)
                pks = items.upsert(session, 1, wanted)
                seen = [(pks[f.item_id], Picture(f"sha-{f.item_id}", "jpeg", "image/jpeg", 1, 1, 1)) for f in wanted]
                items.add_images(session, 1, seen)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(upload, worker) for worker in range(4)]:
            future.result()

    with database.reading() as session:
        assert catalogs.sizes(session, 1) == (20, 20)


def test_the_same_bytes_twice_in_one_batch_are_new_once(database: Database) -> None:
    seen = Picture("same", "jpeg", "image/jpeg", 10, 10, 100)
    with database.transaction() as session:
        item = items.upsert(session, 1, [ItemFields("a"), ItemFields("a", title="later")])["a"]
        (first, second) = items.add_images(session, 1, [(item, seen), (item, seen)])

        assert first[0] == second[0]
        assert (first[1], second[1]) == (True, False)
        assert items.get(session, 1, "a").title == "later"


def test_a_steady_stream_of_uploads_does_not_keep_a_switch_waiting(database: Database) -> None:
    """Row locks would: a new shared lock does not queue behind an exclusive one that waits."""
    stop = threading.Event()

    def upload(_: int) -> None:
        while not stop.is_set():
            with database.transaction() as session:
                lock_shared(session, 1)
                stop.wait(0.02)

    with ThreadPoolExecutor(10) as pool:
        uploads = [pool.submit(upload, worker) for worker in range(10)]
        try:
            began = time.monotonic()
            for _ in range(3):
                with database.transaction() as session:
                    lock_exclusive(session, 1)
            waited = time.monotonic() - began
        finally:
            stop.set()
        for future in uploads:
            future.result()
    if database.url.get_backend_name() == "postgresql":
        assert waited < 5


def test_two_that_each_drop_a_row_of_an_image_do_not_leave_it_behind(database: Database) -> None:
    with database.transaction() as session:
        standby = indexes.create(session, 1, 2, IndexState.STANDBY, None)
    images = add_images(database, 20)
    with database.transaction() as session:
        removal.delete_images(session, images)
    end_leases(database)
    together = threading.Barrier(2)

    def forget(index_id: int) -> None:
        with database.reading() as session:
            rows = session.execute(select(Embedding.id, Embedding.image_id).where(Embedding.index_id == index_id)).all()
        deletion = removal.Deletion("any", tuple(r.image_id for r in rows), tuple(r.id for r in rows))
        together.wait()
        with database.transaction() as session:
            removal.forget(session, deletion)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(forget, 1), pool.submit(forget, standby.id)]:
            future.result()

    with database.reading() as session:
        assert session.scalars(select(Image.id)).all() == []
        assert len(session.scalars(select(OrphanBlob.sha256)).all()) == 20


# -- what filters see: changed items, and rows whose vectors are refreshed


def indexed_images(database: Database, count: int) -> list[int]:
    images = add_images(database, count)
    mark(database, claimed(database, limit=count))
    return images


def change(database: Database, *numbers: int, **fields: Any) -> None:
    with database.transaction() as session:
        items.upsert(session, 1, [ItemFields(f"item-{number}", **fields) for number in numbers])


def claim_stale(database: Database, index_id: int = 1, limit: int = 10, lease: timedelta = MINUTE) -> Lease | None:
    with database.transaction() as session:
        return revisions.claim(session, index_id, limit=limit, lease=lease)


def claimed_stale(database: Database, **options: int) -> Lease:
    lease = claim_stale(database, **options)
    assert lease is not None
    return lease


def read(database: Database, lease: Lease) -> dict[int, int]:
    """The versions of what a worker is about to write."""
    with database.reading() as session:
        described = revisions.described(session, [c.embedding_id for c in lease.claims])
    return {one: of.rev for one, of in described.items()}


def mark_refreshed(database: Database, lease: Lease, revs: dict[int, int]) -> set[int]:
    with database.transaction() as session:
        return revisions.mark(session, lease, revs)


def lose(database: Database, lease: Lease) -> list[int]:
    with database.transaction() as session:
        return ledger.lost(session, lease, {c.embedding_id for c in lease.claims})


def stale(database: Database) -> list[int]:
    """The images whose vectors are to be refreshed."""
    with database.reading() as session:
        return list(session.scalars(select(Embedding.image_id).where(revisions.stale()).order_by(Embedding.image_id)))


CHANGES: list[dict[str, Any]] = [
    {"title": "New"},
    {"url": "https://shop.example/new"},
    {"attributes": {"price": 2}},
    {"attributes": {"price": True}},
    {"attributes": {"price": 1, "size": None}},
]


@pytest.mark.parametrize("fields", CHANGES)
def test_only_what_really_changed_is_refreshed(database: Database, fields: dict[str, Any]) -> None:
    first, second, _ = indexed_images(database, 3)
    change(database, 0, 1, 2, attributes={"price": 1}, title="Old")
    while (lease := claim_stale(database)) is not None:
        mark_refreshed(database, lease, read(database, lease))
    change(database, 0, 1, 2, attributes={"price": 1}, title="Old")
    assert stale(database) == []

    change(database, 0, 1, **fields)
    change(database, 99, **fields)

    assert stale(database) == [first, second]
    with database.reading() as session:
        item = items.get(session, 1, "item-0")
        assert {name: getattr(item, name) for name in fields} == fields
        assert json.dumps(item.attributes) == json.dumps(fields.get("attributes", {"price": 1}))


def test_a_change_before_the_read_is_written_and_one_after_it_is_refreshed(database: Database) -> None:
    add_images(database, 2)
    lease = claimed(database)
    change(database, 0, title="before the read")
    revs = read(database, lease)
    change(database, 1, title="after the read")
    with database.transaction() as session:
        assert len(ledger.mark_indexed(session, lease, revs)) == 2

    refresh = claimed_stale(database)
    assert [c.image_id for c in refresh.claims] == [lease.claims[1].image_id]
    revs = read(database, refresh)
    change(database, 1, title="after this read too")
    assert len(mark_refreshed(database, refresh, revs)) == 1

    last = claimed_stale(database)
    assert len(mark_refreshed(database, last, read(database, last))) == 1
    assert claim_stale(database) is None
    assert stale(database) == []


def test_a_row_is_searchable_while_it_is_refreshed_and_costs_no_attempt(database: Database) -> None:
    (image,) = indexed_images(database, 1)
    change(database, 0, title="New")
    before = row(database, image)

    lease = claimed_stale(database)

    with database.reading() as session:
        assert ledger.searchable(session, [image]) == {image}
    assert claim(database) is None, "nobody encodes it"
    mark_refreshed(database, lease, read(database, lease))
    after = row(database, image)
    assert (after.state, after.attempts, after.lease, after.lease_until) == ("indexed", before.attempts, None, None)


def test_eight_refreshers_at_once_claim_every_row_exactly_once(database: Database) -> None:
    images = indexed_images(database, 60)
    change(database, *range(60), title="New")
    together = threading.Barrier(8)

    def work(_: int) -> list[int]:
        together.wait()
        mine: list[int] = []
        while (lease := claim_stale(database, limit=7)) is not None:
            mine += [c.image_id for c in lease.claims]
            assert len(mark_refreshed(database, lease, read(database, lease))) == len(lease.claims)
        return mine

    with ThreadPoolExecutor(8) as pool:
        taken = [image for mine in pool.map(work, range(8)) for image in mine]

    assert sorted(taken) == images


def test_a_row_of_a_refresher_that_died_is_claimable_when_its_lease_ends(database: Database) -> None:
    (image,) = indexed_images(database, 1)
    change(database, 0, title="New")
    claimed_stale(database)
    assert claim_stale(database) is None

    end_leases(database)

    assert [c.image_id for c in claimed_stale(database).claims] == [image]


def test_what_two_have_written_is_written_once_more(database: Database) -> None:
    (image,) = indexed_images(database, 1)
    change(database, 0, title="New")
    slow = claimed_stale(database)
    revs = read(database, slow)
    end_leases(database)
    change(database, 0, title="Newer")
    quick = claimed_stale(database)
    assert len(mark_refreshed(database, quick, read(database, quick))) == 1
    assert stale(database) == []

    assert mark_refreshed(database, slow, revs) == set()
    assert lose(database, slow) == []

    assert stale(database) == [image]


def test_what_a_slow_worker_has_embedded_after_the_next_one_is_refreshed(database: Database) -> None:
    (image,) = add_images(database, 1)
    slow = claimed(database)
    end_leases(database)
    mark(database, claimed(database))

    assert mark(database, slow) == set()
    assert lose(database, slow) == []

    assert stale(database) == [image]


def test_a_delete_waits_for_the_lease_of_a_refresh(database: Database) -> None:
    refreshed, given_back, _idle = indexed_images(database, 3)
    change(database, 0, title="New")
    lease = claimed_stale(database)
    change(database, 1, title="New")
    away = claimed_stale(database)
    with database.transaction() as session:
        revisions.give_back(session, away)
        removal.delete_images(session, select(Image.id))
        first = removal.deletable(session, 10)

    assert first is not None
    assert {refreshed, given_back}.isdisjoint(first.image_ids)
    assert mark_refreshed(database, lease, {c.embedding_id: 1 for c in lease.claims}) == set()
    assert lose(database, lease) == [refreshed]
    end_leases(database)
    with database.reading() as session:
        deletion = removal.deletable(session, 10)
    assert deletion is not None
    assert {refreshed, given_back} < set(deletion.image_ids)


def test_rows_that_were_given_back_are_claimable_at_once(database: Database) -> None:
    indexed_images(database, 2)
    change(database, 0, 1, title="New")
    lease = claimed_stale(database)
    with database.transaction() as session:
        revisions.give_back(session, lease)

    assert len(claimed_stale(database).claims) == 2


def test_a_row_without_a_vector_is_embedded_again(database: Database) -> None:
    there, absent = indexed_images(database, 2)
    change(database, 0, 1, title="New")
    lease = claimed_stale(database)
    revs = read(database, lease)
    gone = next(c.embedding_id for c in lease.claims if c.image_id == absent)
    with database.transaction() as session:
        assert revisions.put_back(session, lease, [gone]) == {gone}
    mark_refreshed(database, lease, revs)

    assert (row(database, there).state, row(database, absent).state) == ("indexed", "pending")
    assert row(database, absent).attempts == 0
    mark(database, claimed(database))
    assert stale(database) == []


def test_an_audit_may_put_a_row_back_while_it_is_refreshed(database: Database) -> None:
    (image,) = indexed_images(database, 1)
    change(database, 0, title="New")
    lease = claimed_stale(database)
    known = row(database, image)
    with database.transaction() as session:
        comparison.put_back(session, [comparison.Row(image, known.id, known.state, known.updated_at)])

    with database.reading() as session:
        assert removal.may_be_written(session, 1)
    assert mark_refreshed(database, lease, read(database, lease)) == set()
    assert lose(database, lease) == []

    assert row(database, image).state == EmbeddingState.PENDING
    mark(database, claimed(database))
    assert row(database, image).state == EmbeddingState.INDEXED


def test_a_retired_index_is_kept_as_long_as_it_is_refreshed(database: Database) -> None:
    with database.transaction() as session:
        standby = indexes.create(session, 1, 2, IndexState.STANDBY, None).id
    add_images(database, 2)
    mark(database, claimed(database))
    mark(database, claimed(database, index_id=standby))
    change(database, 0, title="New")
    claimed_stale(database, index_id=standby)
    with database.transaction() as session:
        session.execute(update(IndexRow).where(IndexRow.id == standby).values(state=IndexState.RETIRED))

    with database.reading() as session:
        assert removal.may_be_written(session, standby)
        assert not removal.may_be_written(session, 1)
    end_leases(database)
    with database.reading() as session:
        assert not removal.may_be_written(session, standby)
        assert turns(session) == [Turn(1, refreshes=True)], "nobody refreshes a retired index"


def test_building_and_standby_indexes_are_refreshed_after_the_live_one(database: Database) -> None:
    with database.transaction() as session:
        others = [indexes.create(session, 1, 2, state, None).id for state in (IndexState.BUILDING, IndexState.STANDBY)]
    add_images(database, 1)
    for index_id in (1, *others):
        mark(database, claimed(database, index_id=index_id))
    change(database, 0, title="New")
    with database.transaction() as session:
        session.execute(update(IndexRow).values(claimed_at=None))
        assert turns(session) == [Turn(index_id, refreshes=True) for index_id in (1, *others)]

    for index_id in others:
        lease = claimed_stale(database, index_id=index_id)
        assert len(mark_refreshed(database, lease, read(database, lease))) == 1
    with database.reading() as session:
        assert turns(session) == [Turn(1, refreshes=True)]


def test_a_refresh_comes_after_uploads_and_before_imports(database: Database) -> None:
    indexed_images(database, 1)
    change(database, 0, title="New")
    with database.transaction() as session:
        second = Catalog(name="second")
        session.add(second)
        session.flush()
        other = indexes.create(session, second.id, 1, IndexState.LIVE, None).id
        second.live_index_id = other
        pks = items.upsert(session, second.id, [ItemFields("a")])
        ((image, _),) = items.add_images(session, second.id, [(pks["a"], Picture("s", "jpeg", "image/jpeg", 1, 1, 1))])
        ledger.open_rows(session, [image], second.id, Priority.UPLOAD)
        assert turns(session) == [Turn(other, refreshes=False), Turn(1, refreshes=True)]
        session.execute(update(Embedding).values(priority=Priority.IMPORT))
        session.execute(update(IndexRow).values(claimed_at=now()))
        assert turns(session) == [Turn(1, refreshes=True), Turn(other, refreshes=False)]


def add_catalog(session: Session, name: str, priority: Priority, count: int = 3) -> int:
    """A catalog with pictures that wait; returns the id of its live index."""
    catalog = Catalog(name=name)
    session.add(catalog)
    session.flush()
    catalog.live_index_id = indexes.create(session, catalog.id, 1, IndexState.LIVE, None).id
    for number in range(count):
        pk = items.upsert(session, catalog.id, [ItemFields(f"i{number}")])[f"i{number}"]
        looked = Picture(f"{name}-{number}", "jpeg", "image/jpeg", 1, 1, 1)
        ((image, _),) = items.add_images(session, catalog.id, [(pk, looked)])
        ledger.open_rows(session, [image], catalog.id, priority)
    return catalog.live_index_id


def serve(session: Session, *indexes_and_seconds: tuple[int, float]) -> None:
    """Note when a worker last came to indexes."""
    for index_id, ago in indexes_and_seconds:
        moment = now() - timedelta(seconds=ago)
        session.execute(update(IndexRow).where(IndexRow.id == index_id).values(claimed_at=moment))


@pytest.mark.parametrize("flood", ["uploads", "changed items"])
def test_what_floods_a_catalog_does_not_stop_the_import_of_another(database: Database, flood: str) -> None:
    if flood == "changed items":
        indexed_images(database, 3)
        change(database, 0, 1, 2, title="New")
    with database.transaction() as session:
        flooded = add_catalog(session, "flooded", Priority.UPLOAD) if flood == "uploads" else 1
        imports = [add_catalog(session, name, Priority.IMPORT) for name in ("one", "another")]
        serve(session, (flooded, 4.5), *((index_id, 60) for index_id in imports))

        taken, overdue = [], False
        for ago in (4, 3, 2, 1):
            turn = turns(session, in_order=overdue)[0]
            taken.append(turn.index_id)
            overdue = turn.overdue
            serve(session, (turn.index_id, ago))
        serve(session, (flooded, 0))
        assert turns(session)[0].index_id == flooded, "nobody else has waited for long"

    assert taken == [imports[0], flooded, imports[1], flooded]


def test_an_upload_does_not_wait_for_two_imports_one_after_the_other(database: Database) -> None:
    with database.transaction() as session:
        imports = [add_catalog(session, name, Priority.IMPORT) for name in ("one", "another")]
        fresh = add_catalog(session, "fresh", Priority.UPLOAD, count=1)
        serve(session, (fresh, 1), (imports[0], 60), (imports[1], 60))
        first = turns(session)[0]
        serve(session, (first.index_id, 0))

        assert first == Turn(imports[0], refreshes=False, overdue=True)
        assert turns(session, in_order=first.overdue)[0] == Turn(fresh, refreshes=False)


def test_uploads_that_come_to_catalogs_in_turn_do_not_stop_an_import(database: Database) -> None:
    """The catalog that had the last turn may have nothing left to do, as each of these is done with one batch."""
    with database.transaction() as session:
        drained = add_catalog(session, "drained", Priority.UPLOAD, count=0)
        fresh = add_catalog(session, "fresh", Priority.UPLOAD, count=1)
        waiting = add_catalog(session, "waiting", Priority.IMPORT)
        serve(session, (drained, 0), (fresh, 4), (waiting, 60))

        assert [turn.index_id for turn in turns(session)] == [waiting, fresh]


def test_a_clock_that_was_ahead_keeps_no_catalog_from_its_turn(database: Database) -> None:
    with database.transaction() as session:
        ahead, other = (add_catalog(session, name, Priority.IMPORT) for name in ("ahead", "other"))
        serve(session, (ahead, -3600), (other, 1))

        assert turns(session)[0].index_id == ahead


def test_a_row_made_while_its_item_is_changed_is_written_as_it_is_afterwards(database: Database) -> None:
    add_images(database, 1)
    with database.transaction() as session:
        building = indexes.create(session, 1, 2, IndexState.BUILDING, None).id
    changed, about_to_read = threading.Event(), threading.Event()

    def change_slowly() -> None:
        with database.transaction() as session:
            items.upsert(session, 1, [ItemFields("item-0", title="New")])
            session.flush()
            changed.set()
            about_to_read.wait(0.5)  # in vain on SQLite, where the backfill waits for the end of this
            time.sleep(0.1)

    def backfill_and_read() -> str | None:
        changed.wait()
        with database.transaction() as session:
            index = indexes.get(session, building)
            assert index is not None
            indexes.backfill(session, index, 10)
        lease = claimed(database, index_id=building)
        about_to_read.set()
        with database.reading() as session:
            (described,) = revisions.described(session, [c.embedding_id for c in lease.claims]).values()
        return described.item.title

    with ThreadPoolExecutor(2) as pool:
        changing, reading = pool.submit(change_slowly), pool.submit(backfill_and_read)
        assert reading.result() == "New"
        changing.result()


def test_whatever_races_the_vectors_hold_what_the_items_say_in_the_end(database: Database) -> None:
    """Changes, deletes and workers, of which some are slow and some die; the vector store is a dictionary."""
    vectors: dict[int, Any] = {}
    images = add_images(database, 24)
    with database.transaction() as session:
        for number in range(0, 24, 2):  # some items have two pictures
            pk = items.get(session, 1, f"item-{number}").id
            ((image, _),) = items.add_images(
                session, 1, [(pk, Picture(f"more-{number}", "jpeg", "image/jpeg", 1, 1, 1))]
            )
            ledger.open_rows(session, [image], 1, Priority.IMPORT)
            images.append(image)
    prices = itertools.count()
    stop = threading.Event()

    def write(lease: Lease, refreshes: bool, rng: random.Random) -> None:
        with database.reading() as session:
            described = revisions.described(session, [c.embedding_id for c in lease.claims])
        stop.wait(rng.choice([0, 0, 0.03]))
        for c in lease.claims:
            if c.embedding_id in described:
                vectors[c.image_id] = described[c.embedding_id].item.attributes.get("price")
        revs = {one: of.rev for one, of in described.items()}
        if rng.random() < 0.1:  # it dies, and its lease ends at last
            with database.transaction() as session:
                ended = now() - timedelta(hours=1)
                session.execute(in_order(Embedding, Embedding.lease == lease.token))
                session.execute(update(Embedding).where(Embedding.lease == lease.token).values(lease_until=ended))
            return
        with database.transaction() as session:
            marked = (revisions.mark if refreshes else ledger.mark_indexed)(session, lease, revs)
            abandoned = ledger.lost(session, lease, {c.embedding_id for c in lease.claims} - marked)
        for image in abandoned:
            vectors.pop(image, None)

    def work(seed: int) -> None:
        rng = random.Random(seed)
        while not stop.is_set():
            refreshes = rng.random() < 0.5
            lasts = rng.choice([MINUTE, MINUTE, timedelta(milliseconds=5)])
            lease = (claim_stale if refreshes else claim_often)(database, limit=5, lease=lasts)
            if lease is None:
                stop.wait(0.005)
            else:
                write(lease, refreshes, rng)

    def claim_often(database: Database, limit: int, lease: timedelta) -> Lease | None:
        with database.transaction() as session:
            ledger.recover(session, 1, max_attempts=1000)
            return ledger.claim(session, 1, limit=limit, lease=lease)

    def reprice(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(30):
            with database.transaction() as session:
                some = [ItemFields(f"item-{n}", attributes={"price": next(prices)}) for n in rng.sample(range(24), 5)]
                items.upsert(session, 1, some)

    def delete(dead: list[int]) -> None:
        for image in dead:
            stop.wait(0.05)
            with database.transaction() as session:
                removal.lock_items(session, [image])
                removal.delete_images(session, [image])

    with ThreadPoolExecutor(6) as pool:
        workers = [pool.submit(work, seed) for seed in range(3)]
        others = [pool.submit(reprice, 10), pool.submit(reprice, 11), pool.submit(delete, images[-4:])]
        try:
            for future in others:
                future.result()
        finally:
            stop.set()
        for future in workers:
            future.result()

    end_leases(database)
    rng = random.Random(0)
    rng.random = lambda: 1.0  # type: ignore[method-assign] # nobody dies any more
    while (lease := claim_often(database, 50, MINUTE)) is not None:
        write(lease, False, rng)
    while (lease := claim_stale(database, limit=50)) is not None:
        write(lease, True, rng)
    with database.transaction() as session:
        while (deletion := removal.deletable(session, 50)) is not None:
            for image in deletion.image_ids:
                vectors.pop(image, None)
            removal.forget(session, deletion)
        expected = {
            image.id: image.item.attributes.get("price") for image in session.scalars(select(Image)) if image.item
        }
    assert stale(database) == []
    assert set(states(database)) == {"indexed"}
    assert vectors == expected
    assert len(expected) == 32


def retry_failed(session: Session, images: list[int], _: list[int]) -> None:
    ledger.retry_failed(session, images)


def forget(session: Session, images: list[int], rows: list[int]) -> None:
    removal.forget(session, removal.Deletion("c", tuple(images), tuple(rows)))


def clear_index(session: Session, _: list[int], __: list[int]) -> None:
    removal.clear_index(session, 1, 10)


@pytest.mark.parametrize("change", [retry_failed, forget, clear_index])
def test_who_changes_many_rows_locks_them_in_order(
    database: Database, change: Callable[[Session, list[int], list[int]], None]
) -> None:
    images = add_images(database, 2)
    with database.transaction() as session:
        session.execute(update(Embedding).values(state=EmbeddingState.FAILED))
        rows = sorted(session.scalars(select(Embedding.id)))
    # Written anew it lies behind the other, so that PostgreSQL finds that one first.
    with database.transaction() as session:
        session.execute(update(Embedding).where(Embedding.id == rows[0]).values(attempts=1))
    holds, release = threading.Event(), threading.Event()

    def hold() -> None:
        with database.transaction() as session:
            session.execute(select(Embedding.id).where(Embedding.id == rows[0]).with_for_update())
            holds.set()
            assert release.wait(30)

    def lock() -> None:
        with database.transaction() as session:
            session.execute(in_order(Embedding, Embedding.id.in_(rows)))

    def work() -> None:
        with database.transaction() as session:
            change(session, images, rows)

    with ThreadPoolExecutor(3) as pool:
        holding = pool.submit(hold)
        assert holds.wait(30)
        first = pool.submit(lock)
        time.sleep(0.3)  # it is to wait for the row before the other does
        second = pool.submit(work)
        time.sleep(0.3)
        release.set()
        for future in (holding, first, second):
            future.result()


def test_new_items_and_images_of_many_kinds_are_one_statement_each(database: Database) -> None:
    wanted = [ItemFields(f"kind-{n}", title="T" if n % 2 else None, url="u" if n % 3 else None) for n in range(60)]
    origins = [None, Origin("https://a.example/1", etag="x"), Origin("https://a.example/2", last_modified="then")]
    statements: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    with database.transaction() as session:
        pks = items.upsert(session, 1, wanted)
        pictures = [
            (pks[fields.item_id], Picture(f"{n:064x}", "PNG", "image/png", 1, 1, 1, origins[n % 3]))
            for n, fields in enumerate(wanted)
        ]
        items.add_images(session, 1, pictures)
    event.remove(database.engine, "before_cursor_execute", note)

    assert sum(statement.startswith("INSERT INTO items") for statement in statements) == 1
    assert sum(statement.startswith("INSERT INTO images") for statement in statements) == 1
    with database.reading() as session:
        stored = {item.item_id: (item.title, item.url) for item in session.scalars(select(Item))}
    assert {fields.item_id: (fields.title, fields.url) for fields in wanted}.items() <= stored.items()


def test_of_the_same_bytes_twice_in_a_batch_the_last_origin_is_kept(database: Database) -> None:
    first, last = Origin("https://a.example/1"), Origin("https://a.example/2")
    with database.transaction() as session:
        pk = items.upsert(session, 1, [ItemFields("twice")])["twice"]
        looked = [Picture("ab" * 32, "PNG", "image/png", 1, 1, 1, origin) for origin in (first, last, None)]
        outcome = items.add_images(session, 1, [(pk, picture) for picture in looked])

    assert [created for _, created in outcome] == [True, False, False]
    assert len({image_id for image_id, _ in outcome}) == 1
    with database.reading() as session:
        assert session.scalar(select(Image.origin).where(Image.item_pk == pk)) == "https://a.example/2"
