"""Deleting by filter, by ids, and whole catalogs."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from services import content, deletion, embedding, purging, reindex
from services.catalog import catalogs, items, removal
from services.catalog.database import now
from services.catalog.items import ItemFields
from services.catalog.models import Embedding, Image, Item, OrphanBlob
from services.storage.blobs import key_of
from tests.integration.conftest import Akin, picture
from tests.servers import wait_until


def fill(akin: Akin, count: int = 12) -> None:
    for seed in range(count):
        akin.upload(picture(seed), f"item-{seed}", attributes=f'{{"price": {seed}, "brand": "{"ab"[seed % 2]}"}}')
    akin.work()


def start(akin: Akin, **body: Any) -> Any:
    response = akin.call("POST", "/v1/deletions", json=body)
    assert response.status_code == 202, response.text
    return response.json


def item_ids(akin: Akin, query: str = "") -> set[str]:
    return {item["item_id"] for item in akin.get(f"/v1/items?limit=200{query}")["data"]}


def test_items_of_a_filter_are_deleted_as_a_job(either_akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    akin = either_akin
    monkeypatch.setattr(deletion, "ITEMS_AT_ONCE", 2)
    fill(akin)
    chosen = {"and": [{"field": "brand", "eq": "a"}, {"field": "price", "gte": 4}]}

    assert start(akin, filter=chosen, dry_run=True) == {"matched": 4, "job_id": None, "links": {}}
    assert len(item_ids(akin)) == 12
    started = start(akin, filter=chosen)
    akin.upload(picture(50), "later", attributes='{"price": 8, "brand": "a"}')
    akin.work()
    job = akin.get(started["links"]["job"])

    assert (job["state"], job["total"], job["done"]) == ("finished", 4, 4)
    assert job["result"] == {"items": 4, "images": 4}
    gone = {"item-4", "item-6", "item-8", "item-10"}
    assert item_ids(akin) == {f"item-{seed}" for seed in range(12)} - gone | {"later"}
    assert not {hit["item"]["item_id"] for hit in akin.search(picture(4), limit=50)["hits"]} & gone


def test_what_was_deleted_is_gone_from_milvus_and_later_from_the_blobs(either_akin: Akin) -> None:
    akin = either_akin
    fill(akin, 6)
    start(akin, item_ids=["item-0", "item-1", "unknown"])
    akin.work()
    with akin.services.database.reading() as session:
        collection = catalogs.live_index(session, akin.catalog_id).collection

    assert purging.purge(akin.services) == 2
    assert akin.services.vectors.count(collection) == 4
    with akin.services.database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Image)) == 4
        session.execute(update(OrphanBlob).values(since=now() - 2 * content.GRACE))
    assert content.collect_orphans(akin.services) == 2


def test_a_deletion_can_be_stopped_and_one_that_died_goes_on(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "ITEMS_AT_ONCE", 2)
    fill(akin)
    started = start(akin, filter={"field": "price", "gte": 0})
    deletion.advance(akin.services, seconds=0)
    at_two = akin.get(started["links"]["job"])

    stopped = akin.call("POST", f"{started['links']['job']}/cancel").json
    akin.work()

    assert (at_two["state"], at_two["done"], at_two["total"]) == ("running", 2, 12)
    assert stopped["state"] == "cancelled"
    assert len(item_ids(akin)) == 10


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"filter": {"field": "price", "eq": 1}, "item_ids": ["a"]},
        {"filter": {}},
        {"filter": {"or": []}},
        {"filter": {"field": "price'; DROP TABLE items; --"}},
        {"item_ids": []},
    ],
)
def test_a_deletion_that_does_not_say_what_is_refused(akin: Akin, body: Any) -> None:
    fill(akin, 1)

    assert akin.call("POST", "/v1/deletions", json=body).status_code == 422
    assert item_ids(akin) == {"item-0"}


def test_a_catalog_is_gone_at_once_with_its_keys_and_later_with_all_it_held(either_akin: Akin) -> None:
    akin = either_akin
    fill(akin, 2)
    assert akin.call("POST", "/v1/catalogs", json={"name": "shop"}).status_code == 201
    key = akin.call("POST", "/v1/admin/keys", json={"name": "s", "scopes": ["ingest"], "catalog": "shop"}).json["key"]
    for seed in range(5):
        form = {"image": (io.BytesIO(picture(seed)), "x.jpg"), "item_id": f"shop-{seed}"}
        assert akin.call("POST", "/v1/images", key=key, data=form).status_code == 202
    akin.work()
    pending = akin.call("POST", "/v1/imports", key=key, data={"files": [(io.BytesIO(picture(9)), "9.jpg")]}).json["id"]
    with akin.services.database.reading() as session:
        collection = catalogs.live_index(session, catalogs.by_name(session, "shop").id).collection

    started = akin.call("DELETE", "/v1/catalogs/shop")
    assert started.status_code == 202

    assert akin.call("GET", "/v1/items", key=key).status_code == 401
    assert akin.call("GET", "/v1/items?catalog=shop").status_code == 404
    assert {catalog["name"] for catalog in akin.get("/v1/catalogs")["data"]} == {"default"}
    akin.work()
    assert akin.get(started.json["links"]["job"])["result"] == {"items": 5, "images": 5}
    reindex.drop_retired(akin.services)
    assert not akin.services.vectors.exists(collection)
    with akin.services.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Image)) == 2
        assert session.scalar(select(func.count()).select_from(Item)) == 2
        assert session.scalar(select(func.count()).select_from(Embedding)) == 2
    assert akin.call("GET", f"/v1/jobs/{pending}").status_code == 404
    assert akin.call("POST", "/v1/catalogs", json={"name": "shop"}).status_code == 201, "the name is free again"
    assert item_ids(akin, "&catalog=shop") == set()


def test_a_catalog_whose_indexes_are_dropped_before_its_items_leaves_nothing_behind(
    either_akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Purging runs by the clock, and does not wait for the end of a deletion."""
    akin = either_akin
    monkeypatch.setattr(deletion, "ITEMS_AT_ONCE", 2)
    akin.call("POST", "/v1/catalogs", json={"name": "shop"})
    akin.upload(picture(0), "kept")
    for seed in range(5):
        form = {"image": (io.BytesIO(picture(seed)), "x.jpg"), "item_id": f"shop-{seed}"}
        assert akin.call("POST", "/v1/images?catalog=shop", data=form).status_code == 202
    akin.work()
    started = akin.call("DELETE", "/v1/catalogs/shop").json

    deletion.advance(akin.services, seconds=0)
    reindex.drop_retired(akin.services)
    akin.work()
    purging.purge(akin.services)

    assert akin.get(started["links"]["job"])["result"] == {"items": 5, "images": 5}
    with akin.services.database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Image)) == 1
        session.execute(update(OrphanBlob).values(since=now() - 2 * content.GRACE))
    assert content.collect_orphans(akin.services) == 4
    assert akin.services.blobs.exists(key_of(content.sha256_of(picture(0))))


def test_items_are_locked_in_the_order_in_which_uploads_lock_them(either_akin: Akin) -> None:
    akin = either_akin
    for item_id in ("b", "a"):  # by their ids the other way round
        akin.upload(picture(ord(item_id)), item_id)
    akin.work()
    database = akin.services.database
    started = start(akin, item_ids=["a", "b"])
    holds, release = threading.Event(), threading.Event()

    def hold() -> None:
        with database.transaction() as session:
            items.upsert(session, akin.catalog_id, [ItemFields("a")])
            holds.set()
            assert release.wait(30)

    def change() -> None:
        with database.transaction() as session:
            items.upsert(session, akin.catalog_id, [ItemFields("a"), ItemFields("b")])

    def waiting(count: int) -> bool:
        if database.url.get_backend_name() == "sqlite":
            return True  # one writer at a time
        with database.reading() as session:
            found = session.scalar(text("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"))
        return (found or 0) >= count

    with ThreadPoolExecutor(3) as pool:
        holding = pool.submit(hold)
        assert holds.wait(30)
        changing = pool.submit(change)
        try:
            wait_until(lambda: waiting(1), "the upload waits")
            deleting = pool.submit(deletion.advance, akin.services)
            wait_until(lambda: waiting(2), "the deletion waits")
        finally:
            release.set()
        for future in (holding, changing, deleting):
            future.result()

    assert akin.get(started["links"]["job"])["state"] == "finished"


def test_the_default_catalog_stays(akin: Akin) -> None:
    refused = akin.call("DELETE", "/v1/catalogs/default")

    assert refused.status_code == 409 and refused.json["code"] == "catalog_default"


def test_a_picture_in_a_workers_hands_is_gone_all_the_same(either_akin: Akin) -> None:
    """The worker holds the row while the item is deleted: what it writes, it takes back."""
    akin = either_akin
    fill(akin, 2)
    akin.upload(picture(77), "held")
    batch = embedding.prepare(akin.services)
    assert batch is not None

    start(akin, item_ids=["held"])
    deletion.advance(akin.services)
    assert akin.write(batch) == 0

    image_id = batch.claims[0].image_id
    assert akin.services.vectors.present(batch.collection, [image_id], strong=True) == set()
    with akin.services.database.transaction() as session:
        session.execute(update(Embedding).values(lease_until=now() - removal.WRITE_MARGIN - timedelta(seconds=1)))
    assert purging.purge(akin.services) == 1


def test_a_collection_in_a_workers_hands_is_not_dropped_under_it(akin: Akin) -> None:
    akin.call("POST", "/v1/catalogs", json={"name": "shop"})
    form = {"image": (io.BytesIO(picture(1)), "x.jpg"), "item_id": "x"}
    assert akin.call("POST", "/v1/images?catalog=shop", data=form).status_code == 202
    batch = embedding.prepare(akin.services)
    assert batch is not None
    akin.call("DELETE", "/v1/catalogs/shop")
    deletion.advance(akin.services)

    reindex.drop_retired(akin.services)
    akin.write(batch)
    with akin.services.database.transaction() as session:
        session.execute(update(Embedding).values(lease_until=now() - 2 * removal.WRITE_MARGIN))
    reindex.drop_retired(akin.services)

    assert not akin.services.vectors.exists(batch.collection)
