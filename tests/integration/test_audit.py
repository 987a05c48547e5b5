"""Audits: every kind of disagreement made on purpose, found, repaired; nothing found where nothing is wrong."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import delete, func, insert, literal, select, update

from services import audit, audit_bytes, audit_vectors, content, embedding, purging
from services.catalog import audits, catalogs, jobs
from services.catalog.database import now
from services.catalog.models import Catalog, Embedding, Image, IndexRow, Job, JobEntry, OrphanBlob
from services.catalog.states import EmbeddingState, EntryState, IndexState, JobState
from services.cli.audit import audit as command
from services.storage.blobs import key_of
from services.wiring import build
from tests.integration.conftest import Akin, picture, served

CLEAN = "0 missing, 0 orphaned, 0 stale, 0 mismatched"
AGO = timedelta(days=2)


def run(akin: Akin, *, repair: bool = False, deep: bool = False) -> Any:
    """An audit from its start to its end, as the API shows it."""
    job_id = audit.start(akin.services, akin.catalog_id, repair=repair, deep=deep)
    audit.advance(akin.services, 120)
    return akin.get(f"/v1/jobs/{job_id}")


def found(job: Any) -> dict[str, int]:
    return dict(job["result"]["found"])


def live(akin: Akin) -> IndexRow:
    with akin.services.database.reading() as session:
        return catalogs.live_index(session, akin.catalog_id)


def image_ids(akin: Akin) -> list[int]:
    with akin.services.database.reading() as session:
        return list(session.scalars(select(Image.id).where(Image.deleted_at.is_(None)).order_by(Image.id)))


def fill(akin: Akin, pictures: dict[str, bytes]) -> list[int]:
    akin.upload_many(pictures)
    akin.work()
    return image_ids(akin)


def execute(akin: Akin, *statements: Any) -> None:
    with akin.services.database.transaction() as session:
        for statement in statements:
            session.execute(statement)


def age_images(akin: Akin) -> None:
    execute(akin, update(Image).values(created_at=now() - AGO))


def stored_file(akin: Akin, key: str) -> Path:
    return akin.services.settings.data_dir / "blobs" / key


def put_old(akin: Akin, key: str, data: bytes) -> None:
    akin.services.blobs.put(key, data)
    os.utime(stored_file(akin, key), (time.time() - AGO.total_seconds(),) * 2)


def strange_vectors(count: int, dimension: int) -> Any:
    return np.random.default_rng(9).standard_normal((count, dimension), dtype=np.float32)


def every_picture_finds_itself(akin: Akin, pictures: dict[str, bytes]) -> bool:
    akin.services.vectors.barrier(live(akin).collection)
    return all(akin.search(data, limit=1)["hits"][0]["score"] >= 0.999 for data in pictures.values())


def test_where_all_agree_nothing_is_found(either_akin: Akin, pictures: dict[str, bytes]) -> None:
    akin = either_akin
    ids = fill(akin, pictures)
    assert akin.call("DELETE", f"/v1/images/{ids[3]}").status_code == 204
    akin.get(f"/v1/images/{ids[4]}")
    assert akin.call("GET", f"/v1/images/{ids[4]}/thumbnail").status_code == 200
    age_images(akin)

    for deep in (False, True):
        job = run(akin, deep=deep)

        assert job["state"] == "finished"
        assert job["result"] == {"found": {}, "repaired": {}, "summary": CLEAN}
        assert job["done"] == job["total"] == 29 * (3 if deep else 2)
        assert job["errors"] == []


def test_an_empty_catalog_agrees(either_akin: Akin) -> None:
    assert run(either_akin, repair=True)["result"]["summary"] == CLEAN


def test_vectors_that_are_missing_or_nobodys_are_found_and_healed(
    either_akin: Akin, pictures: dict[str, bytes]
) -> None:
    akin = either_akin
    ids = fill(akin, pictures)
    index = live(akin)
    akin.services.vectors.delete(index.collection, ids[:3])
    dimension = index.encoder.dimension
    akin.services.vectors.upsert(index.collection, [10**6, 10**9], strange_vectors(2, dimension))
    execute(akin, delete(Embedding).where(Embedding.image_id == ids[7]))  # its vector stays
    expected = {"missing_vector": 3, "orphaned_vector": 2, "missing_row": 1}

    only_listed = run(akin)
    still = run(akin)
    repaired = run(akin, repair=True)
    akin.work()
    afterwards = run(akin)

    assert found(only_listed) == found(still) == found(repaired) == expected
    assert only_listed["state"] == "finished_with_errors"
    assert only_listed["result"]["repaired"] == {}
    assert only_listed["failed_by_code"] == expected
    listed = {error["ref"]: error["code"] for error in akin.get(f"/v1/jobs/{only_listed['id']}/errors")["data"]}
    assert listed[f"image {ids[0]} in default, index {index.id}"] == "missing_vector"
    assert listed[f"vector {10**9} of index {index.id} in default"] == "orphaned_vector"
    assert repaired["state"] == "finished" and repaired["result"]["repaired"] == expected
    assert repaired["result"]["summary"] == "4 missing, 2 orphaned, 0 stale, 0 mismatched; all repaired"
    assert afterwards["result"]["summary"] == CLEAN
    assert akin.services.vectors.present(index.collection, [*ids, 10**6, 10**9], strong=True) == set(ids)
    assert every_picture_finds_itself(akin, pictures)


def test_vectors_of_deleted_pictures_are_orphans_once_their_rows_are_gone(akin: Akin) -> None:
    first, second = akin.upload(picture(1), "a")["image_id"], akin.upload(picture(2), "b")["image_id"]
    akin.work()
    index = live(akin)
    vector = akin.services.vectors.fetch(index.collection, [first], strong=True)[first][None]
    for item in ("a", "b"):
        assert akin.call("DELETE", f"/v1/items/{item}").status_code == 204
    on_its_way = run(akin, repair=True)
    assert purging.purge(akin.services) == 2
    akin.services.vectors.upsert(index.collection, [first], vector)  # a worker that outlived its lease

    late = run(akin, repair=True)

    assert found(on_its_way) == {}
    assert found(late) == {"orphaned_vector": 1}
    assert akin.services.vectors.present(index.collection, [first, second], strong=True) == set()


def test_a_lost_collection_is_one_finding_and_comes_back(
    either_akin: Akin, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    akin = either_akin
    monkeypatch.setattr(audit_vectors, "AT_ONCE", 10)
    fill(akin, pictures)
    akin.services.vectors.drop(live(akin).collection)

    only_listed, repaired = run(akin), run(akin, repair=True)
    akin.work()

    assert found(only_listed) == found(repaired) == {"missing_collection": 1}
    assert repaired["state"] == "finished"
    assert run(akin)["result"]["summary"] == CLEAN
    assert every_picture_finds_itself(akin, pictures)


def test_a_collection_of_another_dimension_is_made_anew(either_akin: Akin, pictures: dict[str, bytes]) -> None:
    akin = either_akin
    ids = fill(akin, pictures)
    collection = live(akin).collection
    akin.services.vectors.drop(collection)
    akin.services.vectors.create(collection, 8)
    akin.services.vectors.upsert(collection, ids, strange_vectors(len(ids), 8))

    only_listed, repaired = run(akin), run(akin, repair=True)
    akin.work()

    assert found(only_listed) == found(repaired) == {"mismatched_collection": 1}
    assert run(akin)["result"]["summary"] == CLEAN
    assert every_picture_finds_itself(akin, pictures)


def test_many_orphans_between_few_pictures_are_found_in_bounded_pieces(
    akin: Akin, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_vectors, "AT_ONCE", 7)
    ids = fill(akin, pictures)
    index = live(akin)
    strange = list(range(ids[-1] + 1, ids[-1] + 41)) + list(range(10**6, 10**6 + 40))
    akin.services.vectors.upsert(index.collection, strange, strange_vectors(80, index.encoder.dimension))

    assert found(run(akin, repair=True)) == {"orphaned_vector": 80}
    assert run(akin)["result"]["summary"] == CLEAN
    assert akin.services.vectors.count(index.collection, strong=True) == len(ids)


def test_a_collection_that_no_index_names_is_listed_and_never_dropped(akin: Akin) -> None:
    akin.upload(picture(1), "a")
    akin.work()
    akin.services.vectors.create("akin_1_0123456789abcdef", 4)
    try:
        job = run(akin, repair=True)
        assert found(job) == {"orphaned_collection": 1}
        assert job["state"] == "finished_with_errors"
        assert akin.services.vectors.exists("akin_1_0123456789abcdef")
    finally:
        akin.services.vectors.drop("akin_1_0123456789abcdef")


def test_a_building_index_lacks_no_row_that_its_backfill_has_not_come_to(
    akin: Akin, pictures: dict[str, bytes]
) -> None:
    ids = fill(akin, pictures)
    response = akin.call("POST", "/v1/admin/reindex", json={"encoder": "conv-ae-64"})
    assert response.status_code == 202

    before = run(akin)
    execute(akin, update(IndexRow).where(IndexRow.state == IndexState.BUILDING).values(backfilled_to=ids[4]))
    passed_over = run(akin, repair=True)
    akin.work()

    assert found(before) == {}
    assert found(passed_over) == {"missing_row": 5}
    assert run(akin)["result"]["summary"] == CLEAN


@pytest.mark.parametrize("at_once", [5_000, 3])
def test_bytes_that_are_gone_cut_or_damaged_are_listed_until_they_are_uploaded_again(
    either_akin: Akin, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    akin = either_akin
    monkeypatch.setattr(audit_bytes, "AT_ONCE", at_once)
    data = [picture(seed) for seed in range(5)]
    fill(akin, {f"{seed}.jpg": one for seed, one in enumerate(data)})
    gone, cut, damaged = (key_of(content.sha256_of(data[seed])) for seed in (1, 2, 3))
    akin.services.blobs.delete(gone)
    stored_file(akin, cut).write_bytes(data[2][:100])
    stored_file(akin, damaged).write_bytes(data[3][:-1] + bytes([data[3][-1] ^ 1]))

    assert found(run(akin)) == {"mismatched_blob": 1}  # a request that stores a new picture may still be at it
    age_images(akin)
    listed, repaired, deep = run(akin), run(akin, repair=True), run(akin, deep=True)
    akin.services.blobs.delete(damaged)
    akin.upload_many({f"{seed}.jpg": one for seed, one in enumerate(data)})
    akin.work()
    healed = run(akin, deep=True)

    assert found(listed) == found(repaired) == {"missing_blob": 1, "mismatched_blob": 1}
    assert repaired["result"]["repaired"] == {} and repaired["state"] == "finished_with_errors"
    assert found(deep) == {"missing_blob": 1, "mismatched_blob": 2}
    assert {error["ref"].split(" in ")[1] for error in deep["errors"]} == {"default"}
    assert healed["result"]["summary"] == CLEAN
    assert len(akin.get("/v1/items")["data"]) == 5


@pytest.mark.parametrize("at_once", [5_000, 1])
def test_bytes_that_nothing_refers_to_go(either_akin: Akin, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    akin = either_akin
    monkeypatch.setattr(audit_bytes, "AT_ONCE", at_once)
    image = akin.upload(picture(1), "a")
    assert akin.call("GET", f"{image['links']['self']}/thumbnail").status_code == 200
    akin.work()
    waiting, nobodys, fresh = picture(2), picture(3), picture(4)
    akin.upload_many({"waiting.jpg": waiting})
    sha256 = content.sha256_of(nobodys)
    put_old(akin, key_of(sha256), nobodys)
    put_old(akin, key_of(content.sha256_of(waiting)), waiting)
    akin.services.blobs.put(key_of(content.sha256_of(fresh)), fresh)
    thumbnail = f"thumbnails/128/{'ab' * 1}/{'ab' * 32}.webp"
    put_old(akin, thumbnail, b"drawn")
    put_old(akin, "sources/nobodys", b"zip")
    akin.services.blobs.put("sources/arriving", b"zip")
    expected = {"orphaned_blob": 1, "orphaned_thumbnail": 1, "orphaned_source": 1}

    only_listed, repaired, again = run(akin), run(akin, repair=True), run(akin)

    assert found(only_listed) == found(repaired) == expected
    assert repaired["result"]["repaired"] == expected
    assert again["result"]["summary"] == CLEAN
    assert not akin.services.blobs.exists(thumbnail) and not akin.services.blobs.exists("sources/nobodys")
    assert akin.services.blobs.exists("sources/arriving")
    execute(akin, update(OrphanBlob).values(since=now() - AGO))
    assert content.collect_orphans(akin.services) == 1
    assert not akin.services.blobs.exists(key_of(sha256))
    akin.work()
    assert run(akin)["result"]["summary"] == CLEAN


def test_weights_that_are_gone_are_listed(akin: Akin) -> None:
    weights = [blob.key for blob in akin.services.blobs.list("encoders")]
    akin.services.blobs.delete(weights[0])

    job = run(akin, repair=True)

    assert found(job) == {"missing_weights": 1}
    assert "@1" in job["errors"][0]["ref"]


def test_what_the_loops_left_long_ago_is_moved_on(either_akin: Akin) -> None:
    akin = either_akin
    ended = now() - AGO
    held, gone = akin.upload(picture(1), "held"), akin.upload(picture(2), "gone")
    akin.work()
    waiting = akin.upload(picture(3), "waiting")
    akin.work()
    execute(
        akin,
        update(Embedding)
        .where(Embedding.image_id == held["image_id"])
        .values(state=EmbeddingState.LEASED, lease="dead", lease_until=ended, attempts=1),
        update(JobEntry)
        .where(JobEntry.image_id == waiting["image_id"])
        .values(state=EntryState.ACCEPTED, due_at=ended),
        update(Job)
        .where(Job.id == waiting["job_id"])
        .values(state=JobState.RUNNING, finished_at=None, listed_at=ended),
    )
    assert akin.call("DELETE", "/v1/items/gone").status_code == 204
    execute(akin, update(Embedding).where(Embedding.state == EmbeddingState.DELETING).values(updated_at=ended))
    execute(akin, update(Embedding).where(Embedding.state == EmbeddingState.DELETING).values(lease_until=ended))

    only_listed, repaired = run(akin), run(akin, repair=True)
    akin.work()
    afterwards = run(akin)

    assert found(only_listed) == {"stale_row": 2, "stale_entry": 1}
    # Its entry settled, nothing of the import is on its way: that is stale by then, and finished.
    assert found(repaired) == {"stale_row": 2, "stale_entry": 1, "stale_job": 1}
    assert repaired["result"]["repaired"] == found(repaired)
    assert afterwards["result"]["summary"] == CLEAN
    assert akin.get(waiting["links"]["job"])["state"] == "finished"
    assert akin.get(held["links"]["self"])["state"] == "indexed"
    with akin.services.database.reading() as session:
        assert session.get(Image, gone["image_id"]) is None


def test_a_deleted_picture_whose_ledger_rows_went_first_is_removed(either_akin: Akin) -> None:
    akin = either_akin
    gone, recent = akin.upload(picture(1), "gone"), akin.upload(picture(2), "recent")
    akin.upload(picture(3), "kept")
    akin.work()
    tombstoned = [(gone["image_id"], now() - AGO), (recent["image_id"], now())]
    execute(
        akin,
        delete(Embedding).where(Embedding.image_id.in_([one for one, _ in tombstoned])),
        *(update(Image).where(Image.id == one).values(deleted_at=moment, item_pk=None) for one, moment in tombstoned),
    )
    akin.services.vectors.delete(live(akin).collection, [one for one, _ in tombstoned])

    only_listed, repaired, again = run(akin), run(akin, repair=True), run(akin)

    assert found(only_listed) == found(repaired) == {"stale_image": 1}
    assert [error["ref"] for error in only_listed["errors"]] == [f"image {gone['image_id']}"]
    assert repaired["result"]["repaired"] == {"stale_image": 1}
    assert again["result"]["summary"] == CLEAN
    execute(akin, update(OrphanBlob).values(since=now() - AGO))
    assert content.collect_orphans(akin.services) == 1
    assert not akin.services.blobs.exists(key_of(content.sha256_of(picture(1))))


def test_work_that_is_under_way_is_not_stale(akin: Akin, pictures: dict[str, bytes]) -> None:
    akin.upload_many(pictures)
    akin.upload(picture(100), "single")
    assert embedding.prepare(akin.services) is not None  # a worker holds its row

    assert run(akin, repair=True)["result"]["summary"] == CLEAN


Meanwhile = Callable[[], object]


def at_the_read_of_vectors(
    akin: Akin, monkeypatch: pytest.MonkeyPatch, *, before: Meanwhile | None = None, after: Meanwhile | None = None
) -> Any:
    """An audit, with something else happening right before or right after it reads the ids of vectors."""
    real = akin.services.vectors.ids

    def ids(collection: str, **options: Any) -> Iterator[list[int]]:
        if before is not None:
            before()
        batches = list(real(collection, **options))
        if after is not None:
            after()
        return iter(batches)

    monkeypatch.setattr(akin.services.vectors, "ids", ids)
    return run(akin, repair=True)


def test_a_picture_deleted_between_the_reads_of_ledger_and_vectors_lacks_no_vector(
    akin: Akin, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = fill(akin, pictures)

    def delete_and_purge() -> None:
        akin.call("DELETE", f"/v1/images/{first}")
        purging.purge(akin.services)

    job = at_the_read_of_vectors(akin, monkeypatch, before=delete_and_purge)

    assert first not in image_ids(akin)
    assert found(job) == {}


def test_a_vector_purged_between_the_reads_of_vectors_and_ledger_is_no_orphan(
    akin: Akin, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = fill(akin, pictures)
    assert akin.call("DELETE", f"/v1/images/{first}").status_code == 204

    job = at_the_read_of_vectors(akin, monkeypatch, after=lambda: purging.purge(akin.services))

    assert akin.services.vectors.count(live(akin).collection, strong=True) == len(pictures) - 1
    assert found(job) == {}


def test_a_picture_uploaded_and_embedded_between_the_reads_is_no_orphan(
    akin: Akin, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(akin, pictures)

    def add() -> None:
        akin.upload(picture(500), "late")
        embedding.drain(akin.services)

    job = at_the_read_of_vectors(akin, monkeypatch, before=add)

    assert akin.services.vectors.count(live(akin).collection, strong=True) == len(pictures) + 1
    assert found(job) == {}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_index_retired_between_the_reads_is_left_alone(
    akin: Akin, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    ids = fill(akin, pictures)
    index = live(akin)
    akin.services.vectors.delete(index.collection, ids[:2])
    retired = update(IndexRow).values(state=IndexState.RETIRED)

    job = at_the_read_of_vectors(akin, monkeypatch, **{moment: lambda: execute(akin, retired, delete(Embedding))})

    assert found(job) == {}
    assert akin.services.vectors.count(index.collection, strong=True) == len(ids) - 2


def test_bytes_collected_between_their_listing_and_the_look_into_sql_are_no_orphans(
    akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = content.sha256_of(b"old")
    put_old(akin, key_of(sha256), b"old")
    execute(akin, insert(OrphanBlob).values(sha256=sha256, since=now() - AGO))
    real = akin.services.blobs.list

    def listing(prefix: str = "") -> Iterator[Any]:
        listed = list(real(prefix))
        content.collect_orphans(akin.services)
        return iter(listed)

    monkeypatch.setattr(akin.services.blobs, "list", listing)

    assert found(run(akin, repair=True)) == {}
    assert not akin.services.blobs.exists(key_of(sha256))


def test_uploads_and_deletes_meanwhile_are_not_taken_for_disagreement(either_akin: Akin) -> None:
    akin = either_akin
    stop, failures = threading.Event(), []

    def upload() -> None:
        try:
            for seed in range(10_000):
                if stop.is_set():
                    return
                akin.upload(picture(seed), f"item-{seed}")
                if seed % 4 == 3:
                    assert akin.call("DELETE", f"/v1/items/item-{seed - 2}").status_code == 204
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failures.append(error)

    def embed() -> None:
        services = build(akin.services.settings)
        try:
            while not stop.is_set():
                embedding.drain(services)
                purging.purge(services)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)
        finally:
            services.close()

    workers = [threading.Thread(target=upload), threading.Thread(target=embed)]
    services = build(akin.services.settings)
    results = []
    for worker in workers:
        worker.start()
    try:
        until = time.monotonic() + 12
        while (time.monotonic() < until or len(image_ids(akin)) <= 10 or len(results) < 3) and not failures:
            job_id = audit.start(services, akin.catalog_id, repair=True)
            audit.advance(services, 60)
            with services.database.reading() as session:
                results.append(jobs.get(session, job_id).result)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
        services.close()

    assert failures == []
    assert len(results) >= 3
    assert {result["summary"] for result in results} == {CLEAN}
    assert len(image_ids(akin)) > 10


def test_an_audit_goes_on_in_another_process_where_it_was_cut_off(
    either_akin: Akin, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    akin = either_akin
    monkeypatch.setattr(audit_vectors, "AT_ONCE", 4)
    ids = fill(akin, pictures)
    akin.services.vectors.delete(live(akin).collection, ids[::3])
    job_id = audit.start(akin.services, akin.catalog_id, repair=True)

    runs = 0
    while akin.get(f"/v1/jobs/{job_id}")["finished_at"] is None:
        services = build(akin.services.settings)
        audit.advance(services, 0)
        services.close()
        runs += 1

    assert runs > 10  # one piece each
    assert found(akin.get(f"/v1/jobs/{job_id}")) == {"missing_vector": 10}
    akin.work()
    assert run(akin)["result"]["summary"] == CLEAN


def test_a_worker_that_dies_between_repair_and_its_record_leaves_nothing_undone(
    either_akin: Akin, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    akin = either_akin
    ids = fill(akin, pictures)
    index = live(akin)
    akin.services.vectors.upsert(index.collection, [10**6], strange_vectors(1, index.encoder.dimension))
    akin.services.vectors.delete(index.collection, ids[:2])
    job_id = audit.start(akin.services, akin.catalog_id, repair=True)

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(audits, "record", killed)
        patched.setattr(audit, "_let_go", lambda *_: None)  # as by kill -9
        with pytest.raises(SystemExit):
            audit.advance(akin.services)
    audit.advance(akin.services)
    held = akin.get(f"/v1/jobs/{job_id}")
    execute(akin, update(Job).where(Job.id == job_id).values(served_at=now() - 2 * audit.HELD))
    audit.advance(akin.services, 60)

    assert held["finished_at"] is None  # nobody else goes on while the dead one may still be at it
    assert akin.get(f"/v1/jobs/{job_id}")["state"] == "finished"
    akin.work()
    assert run(akin)["result"]["summary"] == CLEAN
    assert akin.services.vectors.present(index.collection, [*ids, 10**6], strong=True) == set(ids)


def test_losing_redis_with_all_its_messages_loses_nothing(either_akin: Akin, pictures: dict[str, bytes]) -> None:
    akin = either_akin
    fill(akin, dict(list(pictures.items())[:10]))
    akin.upload_many(dict(list(pictures.items())[10:]))
    akin.services.vectors.drop(live(akin).collection)
    job_id = audit.start(akin.services, akin.catalog_id, repair=True)
    audit.advance(akin.services, 0)

    akin.services.redis.flushall()
    audit.advance(akin.services, 60)
    akin.work()
    akin.work()

    assert akin.get(f"/v1/jobs/{job_id}")["state"] == "finished"
    assert run(akin)["result"]["summary"] == CLEAN
    assert every_picture_finds_itself(akin, pictures)


def test_a_step_that_fails_ends_the_audit_with_the_reason(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(audits, "record", broken)
    job_id = audit.start(akin.services, akin.catalog_id)

    audit.advance(akin.services)

    job = akin.get(f"/v1/jobs/{job_id}")
    assert job["state"] == "failed"
    assert (job["error"]["code"], job["error"]["detail"]) == ("audit_failed", "a bug")


def add_rows(akin: Akin, count: int) -> None:
    """So many images, indexed as SQL says, of which there is neither a vector nor a byte."""
    with akin.services.database.transaction() as session:
        pattern = session.scalars(select(Image).order_by(Image.id).limit(1)).one()
        last = session.scalars(select(func.max(Image.id))).one()
        index_id = catalogs.live_index(session, akin.catalog_id).id
        common = {c.name: getattr(pattern, c.name) for c in Image.__table__.columns if c.name not in ("id", "sha256")}
        common["created_at"] = now() - AGO
        for start in range(last, last + count, 1_000):
            hashes = [content.sha256_of(str(number).encode()) for number in range(start, start + 1_000)]
            session.execute(insert(Image), [{**common, "sha256": sha256} for sha256 in hashes])
        columns = {"index_id": index_id, "state": "indexed", "attempts": 1, "priority": 1, "updated_at": now()}
        new = select(Image.id, *map(literal, columns.values())).where(Image.id > last)
        session.execute(insert(Embedding).from_select(["image_id", *columns], new))


def test_everything_is_counted_the_first_are_listed_and_memory_does_not_grow_with_it(akin: Akin) -> None:
    akin.upload(picture(1), "a")
    akin.work()
    peaks, listed = [], []
    for count, added in ((10_000, 10_000), (50_000, 40_000)):
        add_rows(akin, added)
        job_id = audit.start(akin.services, akin.catalog_id)
        tracemalloc.start()
        audit.advance(akin.services, 300)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
        job = akin.get(f"/v1/jobs/{job_id}")
        assert found(job) == {"missing_vector": count, "missing_blob": count}
        listed.append(job["failed"])

    assert listed == [audits.LISTED, audits.LISTED]
    assert peaks[1] < 1.25 * peaks[0] < 25


# -- the ways in


def test_one_audit_runs_at_a_time_and_only_for_administrators_of_all(akin: Akin) -> None:
    bound = akin.call("POST", "/v1/admin/keys", json={"name": "bound", "scopes": ["admin"], "catalog": "default"})
    searcher = akin.call("POST", "/v1/admin/keys", json={"name": "searcher", "scopes": ["search"]})

    first = akin.call("POST", "/v1/admin/audits", json={"repair": True})
    second = akin.call("POST", "/v1/admin/audits", json={})
    audit.advance(akin.services, 60)
    third = akin.call("POST", "/v1/admin/audits", json={})

    assert (first.status_code, third.status_code) == (202, 202)
    assert (second.status_code, second.json["code"]) == (409, "audit_running")
    for key in (bound, searcher):
        assert akin.call("POST", "/v1/admin/audits", json={}, key=key.json["key"]).status_code == 403
    assert akin.get(first.json["links"]["job"])["source"] == {"repair": True, "deep": False}


def test_a_catalog_that_is_deleted_or_not_whole_yet_is_left_alone(akin: Akin, pictures: dict[str, bytes]) -> None:
    ids, catalog_id = fill(akin, pictures), akin.catalog_id
    age_images(akin)
    akin.services.vectors.delete(live(akin).collection, ids[:5])
    for data in pictures.values():
        akin.services.blobs.delete(key_of(content.sha256_of(data)))
    execute(akin, update(Catalog).values(deleted_at=now()))

    job_id = audit.start(akin.services, catalog_id, repair=True)
    audit.advance(akin.services, 60)

    with akin.services.database.reading() as session:
        assert jobs.get(session, job_id).result["summary"] == CLEAN


def test_of_many_that_start_an_audit_at_once_one_does(either_akin: Akin) -> None:
    akin = either_akin
    outcomes: list[str] = []

    def begin() -> None:
        try:
            outcomes.append(audit.start(akin.services, akin.catalog_id))
        except Exception as error:  # noqa: BLE001
            outcomes.append(getattr(error, "code", repr(error)))

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert outcomes.count("audit_running") == 5


def test_an_audit_is_due_when_the_last_one_is_so_long_ago(akin: Akin) -> None:
    def count() -> int:
        with akin.services.database.reading() as session:
            return session.scalar(select(func.count()).where(Job.kind == jobs.AUDIT)) or 0

    counts = []
    audit.start_due(akin.services, 24)  # a new installation has nothing to compare yet
    execute(akin, update(Catalog).values(created_at=now() - timedelta(hours=25)))
    audit.start_due(akin.services, 0)
    counts.append(count())
    audit.start_due(akin.services, 24)
    audit.start_due(akin.services, 24)  # one is running
    counts.append(count())
    audit.advance(akin.services, 60)
    audit.start_due(akin.services, 24)
    counts.append(count())
    execute(akin, update(Job).where(Job.kind == jobs.AUDIT).values(created_at=now() - timedelta(hours=25)))
    audit.start_due(akin.services, 24)
    counts.append(count())

    assert counts == [0, 1, 1, 2]


def test_the_command_prints_what_it_found_and_its_last_line_is_the_summary(akin: Akin) -> None:
    image = akin.upload(picture(1), "a")["image_id"]
    akin.work()
    akin.services.vectors.delete(live(akin).collection, [image])
    with served(akin, audit.advance) as url:

        def invoke(*options: str) -> Any:
            return CliRunner().invoke(command, [*options, "--url", url, "--key", akin.key])

        listed, repaired = invoke(), invoke("--repair")
        akin.work()
        clean, as_json = invoke("--deep"), invoke("--json")

    assert [result.exit_code for result in (listed, repaired, clean, as_json)] == [3, 0, 0, 0]
    assert f"image {image} in default" in listed.stdout and "missing_vector" in listed.stdout
    assert listed.stdout.splitlines()[-1] == "1 missing, 0 orphaned, 0 stale, 0 mismatched"
    assert repaired.stdout.splitlines()[-1] == "1 missing, 0 orphaned, 0 stale, 0 mismatched; all repaired"
    assert clean.stdout.splitlines() == [CLEAN]
    assert CLEAN in as_json.stdout
