"""The ledger's table of races (services/catalog/ledger.py), on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from services.bootstrap import migrate
from services.catalog import catalogs, entries, indexes, items, jobs, ledger, removal
from services.catalog.catalogs import lock_exclusive, lock_shared
from services.catalog.database import Database, now
from services.catalog.items import ItemFields, Picture
from services.catalog.ledger import Lease
from services.catalog.models import Catalog, Embedding, EncoderRow, Image, Job, JobEntry, OrphanBlob
from services.catalog.states import EmbeddingState, EntryState, IndexState, Priority

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
        return ledger.mark_indexed(session, lease, [c.embedding_id for c in lease.claims])


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
    with database.reading() as session:
        assert ledger.abandoned(session, slow, {c.embedding_id for c in slow.claims}) == []


def test_a_deleted_image_is_the_abandoned_one(database: Database) -> None:
    kept, deleted = add_images(database, 2)
    lease = claimed(database)
    with database.transaction() as session:
        assert removal.delete_images(session, [deleted]) == 1

    marked = mark(database, lease)

    lost = {c.embedding_id for c in lease.claims} - marked
    with database.reading() as session:
        assert ledger.abandoned(session, lease, lost) == [deleted]
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
        assert ledger.indexes_with_work(session) == [1, building]


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
