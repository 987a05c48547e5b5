"""What filters see of items follows their changes, without encoding a picture again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import select, update

from services import embedding, purging, refreshing, writing
from services.catalog import catalogs, items
from services.catalog.database import now
from services.catalog.filters import parse
from services.catalog.models import Embedding, IndexRow
from services.config import Settings
from services.errors import Unavailable
from services.facets import condition
from services.queue import Task
from services.wiring import Services, build
from tests.integration.conftest import Akin, _akin, picture
from tests.integration.test_backup import back_up, bring_back


def production(test: Callable[..., None]) -> Callable[..., None]:
    """A test on the servers that keep facets."""
    return pytest.mark.postgres(pytest.mark.milvus(test))  # type: ignore[no-any-return]


@pytest.fixture
def filtering(settings: Settings, postgres_database: str, milvus_uri: str) -> Iterator[Akin]:
    """A service on servers that keep facets."""
    there = {"database_url": SecretStr(postgres_database), "milvus_uri": milvus_uri}
    yield from _akin(settings.model_copy(update=there))


def index_of(services: Services, catalog: str = "default") -> IndexRow:
    with services.database.reading() as session:
        return catalogs.live_index(session, catalogs.by_name(session, catalog).id)


def met(services: Services, body: dict[str, Any], catalog: str = "default") -> set[int]:
    """The images whose vectors meet a filter's condition in the vector store."""
    index = index_of(services, catalog)
    query = np.eye(1, index.encoder.dimension, dtype=np.float32)
    (hits,) = services.vectors.search(index.collection, query, 100, strong=True, where=condition(parse(body)))
    return {hit.id for hit in hits}


def put(akin: Akin, item_id: str, **fields: Any) -> None:
    response = akin.call("PUT", f"/v1/items/{item_id}", json=fields)
    assert response.status_code == 200, response.text


def vectors_of(akin: Akin) -> dict[int, bytes]:
    index = index_of(akin.services)
    with akin.services.database.reading() as session:
        ids = session.scalars(select(Embedding.image_id)).all()
    return {one: v.tobytes() for one, v in akin.services.vectors.fetch(index.collection, ids, strong=True).items()}


def end_leases(akin: Akin) -> None:
    with akin.services.database.transaction() as session:
        leased = update(Embedding).where(Embedding.lease_until.is_not(None))
        session.execute(leased.values(lease_until=now() - timedelta(hours=1)))


def rows(akin: Akin) -> list[tuple[str, int, bool]]:
    """State, attempts, and whether it is up to date, of each row."""
    with akin.services.database.reading() as session:
        found = session.scalars(select(Embedding).order_by(Embedding.id)).all()
    return [(row.state, row.attempts, row.indexed_rev == row.wanted_rev) for row in found]


def refuse_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing may be decoded or encoded."""

    def refuse(*_: object) -> None:
        raise AssertionError("a picture is encoded again")

    monkeypatch.setattr(embedding, "_decode", refuse)
    monkeypatch.setattr(embedding, "encode", refuse)


def at_the_write(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen once, after the items were read and before their vectors are written."""
    upsert = writing.upsert

    def late(*arguments: Any) -> None:
        monkeypatch.setattr(writing, "upsert", upsert)
        happens()
        upsert(*arguments)

    monkeypatch.setattr(writing, "upsert", late)


DEAR = {"field": "price", "gte": 100}
ACME = {"field": "brand", "eq": "Acme"}
BOLT = {"not": ACME}


def fill(akin: Akin) -> list[int]:
    """Ids of four embedded pictures; the last is of the first one's item."""
    ids = [akin.upload(picture(seed), f"item-{seed % 3}")["image_id"] for seed in range(4)]
    for number in range(3):
        put(akin, f"item-{number}", attributes={"price": 10 * number, "brand": "Bolt"})
    akin.work()
    return ids


def test_a_changed_item_is_written_again_and_not_encoded(either_akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    akin = either_akin
    ids = fill(akin)
    before = vectors_of(akin)
    assert rows(akin) == [("indexed", 1, True)] * 4
    refuse_encoding(monkeypatch)

    put(akin, "item-0", attributes={"price": 250, "brand": "Acme"})
    assert rows(akin) == [("indexed", 1, False), *[("indexed", 1, True)] * 2, ("indexed", 1, False)]
    assert embedding.drain(akin.services) == 0

    assert rows(akin) == [("indexed", 1, True)] * 4
    assert vectors_of(akin) == before
    if akin.services.vectors.filters(index_of(akin.services).collection):
        assert met(akin.services, DEAR) == met(akin.services, ACME) == {ids[0], ids[3]}
        assert met(akin.services, BOLT) == {ids[1], ids[2]}


def test_more_rows_than_are_taken_at_once_are_refreshed_in_one_run(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(akin)
    for number in range(3):
        put(akin, f"item-{number}", title="New")
    monkeypatch.setattr(refreshing, "REFRESHED_AT_ONCE", 1)
    refuse_encoding(monkeypatch)

    embedding.drain(akin.services)

    assert rows(akin) == [("indexed", 1, True)] * 4


def test_a_refresh_that_time_does_not_suffice_for_is_left_to_the_next_run(
    akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(akin)
    put(akin, "item-0", title="New")
    monkeypatch.setattr(refreshing, "REFRESHED_AT_ONCE", 1)
    akin.services.queue.taken(Task.EMBED)

    embedding.drain(akin.services, seconds=0)

    assert rows(akin).count(("indexed", 1, False)) == 1
    assert akin.services.cache.exists("akin:waiting:akin.embed")
    embedding.drain(akin.services)
    assert rows(akin) == [("indexed", 1, True)] * 4


@production
def test_what_changes_while_it_is_embedded_or_refreshed_is_seen_in_the_end(
    filtering: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    akin = filtering
    first, second = (akin.upload(picture(seed), f"item-{seed}")["image_id"] for seed in range(2))
    batch = embedding.prepare(akin.services)
    assert batch is not None
    put(akin, "item-0", attributes={"brand": "Acme"})
    at_the_write(monkeypatch, lambda: put(akin, "item-1", attributes={"brand": "Acme"}))
    assert akin.write(batch) == 2
    assert rows(akin) == [("indexed", 1, True), ("indexed", 1, False)]
    assert met(akin.services, ACME) == {first}

    refuse_encoding(monkeypatch)
    at_the_write(monkeypatch, lambda: put(akin, "item-1", attributes={"brand": "Acme", "price": 300}))
    assert refreshing.refresh(akin.services, batch.lease.index_id) == 1
    assert met(akin.services, ACME) == {first, second}
    assert met(akin.services, DEAR) == set()
    assert rows(akin) == [("indexed", 1, True), ("indexed", 1, False)]

    embedding.drain(akin.services)
    assert met(akin.services, DEAR) == {second}
    assert rows(akin) == [("indexed", 1, True)] * 2


@production
def test_a_picture_deleted_while_it_is_refreshed_leaves_no_vector(
    filtering: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    akin = filtering
    ids = fill(akin)
    put(akin, "item-0", title="New")
    at_the_write(monkeypatch, lambda: akin.call("DELETE", f"/v1/images/{ids[0]}"))

    assert refreshing.refresh(akin.services, index_of(akin.services).id) == 2

    assert vectors_of(akin).keys() == set(ids[1:])
    assert purging.purge(akin.services) == 0, "its lease has not ended"
    end_leases(akin)
    assert purging.purge(akin.services) == 1
    assert rows(akin) == [("indexed", 1, True)] * 3


@production
def test_what_a_slow_refresher_writes_last_is_written_once_more(
    filtering: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    akin = filtering
    ids = fill(akin)
    put(akin, "item-1", attributes={"brand": "Acme"})

    def another_is_quicker() -> None:
        end_leases(akin)
        put(akin, "item-1", attributes={"brand": "Acme", "price": 300})
        embedding.drain(akin.services)
        assert met(akin.services, DEAR) == {ids[1]}

    at_the_write(monkeypatch, another_is_quicker)
    refreshing.refresh(akin.services, index_of(akin.services).id)
    assert met(akin.services, DEAR) == set()

    embedding.drain(akin.services)

    assert met(akin.services, DEAR) == {ids[1]}
    assert rows(akin) == [("indexed", 1, True)] * 4


@production
def test_a_vector_that_is_gone_is_encoded_again(filtering: Akin) -> None:
    akin = filtering
    ids = fill(akin)
    before = vectors_of(akin)
    index = index_of(akin.services)
    akin.services.vectors.delete(index.collection, ids[1:2])
    akin.services.vectors.barrier(index.collection)
    for number in range(3):
        put(akin, f"item-{number}", attributes={"price": 500})
    assert refreshing.refresh(akin.services, index.id) == 4
    assert rows(akin) == [("indexed", 1, True), ("pending", 0, False), *[("indexed", 1, True)] * 2]

    embedding.drain(akin.services)

    assert rows(akin) == [("indexed", 1, True)] * 4
    assert met(akin.services, DEAR) == set(ids)
    assert vectors_of(akin).keys() == before.keys()

    akin.services.vectors.drop(index.collection)
    put(akin, "item-2", attributes={"price": 600})
    embedding.drain(akin.services)
    assert met(akin.services, {"field": "price", "eq": 600}) == {ids[2]}


@production
def test_a_refresh_waits_for_milvus_without_costing_the_rows_anything(filtering: Akin) -> None:
    akin = filtering
    fill(akin)
    put(akin, "item-0", title="New")
    away = build(akin.services.settings.model_copy(update={"milvus_uri": "http://127.0.0.1:9"}))
    with pytest.raises(Unavailable):
        embedding.drain(away)
    away.close()
    assert rows(akin).count(("indexed", 1, False)) == 2

    embedding.drain(akin.services)

    assert rows(akin) == [("indexed", 1, True)] * 4


@production
def test_a_refresh_that_fails_keeps_nobody_from_embedding(filtering: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    akin = filtering
    fill(akin)
    put(akin, "item-0", title="New")
    akin.upload(picture(9), "item-9")

    def fail(*_: object) -> None:
        monkeypatch.undo()
        raise ZeroDivisionError

    monkeypatch.setattr(writing, "upsert", fail)
    refreshing.refresh(akin.services, index_of(akin.services).id)

    assert embedding.drain(akin.services) == 1
    assert rows(akin).count(("indexed", 1, False)) == 2, "not before the lease ends"
    end_leases(akin)
    embedding.drain(akin.services)
    assert rows(akin) == [("indexed", 1, True)] * 5


@production
def test_a_restored_catalog_can_be_filtered(filtering: Akin) -> None:
    fill(filtering)
    put(filtering, "item-2", attributes={"price": 700, "brand": "Acme"})
    bring_back(filtering.services, back_up(filtering.services))

    with filtering.services.database.reading() as session:
        catalog = catalogs.by_name(session, "again")
        item = items.get(session, catalog.id, "item-2")
        restored = set(items.image_ids_of(session, item.id))
    assert met(filtering.services, DEAR, "again") == met(filtering.services, ACME, "again") == restored
    assert len(met(filtering.services, BOLT, "again")) == 3
