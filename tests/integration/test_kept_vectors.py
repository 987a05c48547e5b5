"""Vectors in the cache: kept when they are written, there for searches, gone with their pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import SecretStr

from services import caching, kept_vectors, purging
from services.catalog import catalogs, found
from services.catalog.found import LiveIndex
from services.errors import Unavailable
from services.search import known
from services.wiring import Services, build
from tests.integration.conftest import Akin, picture
from tests.servers import free_ports


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process remembers by itself, it has not read yet."""
    monkeypatch.setattr(known, "_vectors", caching.Recent(known.VECTOR_BYTES, seconds=3600))
    monkeypatch.setattr(kept_vectors, "_room", caching.Recent(16, seconds=1))


def live_index(akin: Akin) -> LiveIndex:
    with akin.services.database.rows() as connection:
        return found.live_index(connection, akin.catalog_id)


def image_of(akin: Akin, item_id: str) -> int:
    image_id: int = akin.get(f"/v1/items/{item_id}")["images"][0]["id"]
    return image_id


def test_what_workers_write_is_found_without_asking_milvus_for_it(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    akin.upload(picture(1), "mug")
    akin.work()
    index, image_id = live_index(akin), image_of(akin, "mug")
    written = akin.services.vectors.fetch(index.collection, [image_id], strong=True)[image_id]

    def refuse(*_: object, **__: object) -> None:
        raise Unavailable("nobody may ask")

    monkeypatch.setattr(akin.services.vectors, "fetch", refuse)

    vector = known.vectors_of(akin.services, index, [image_id])[image_id]
    assert np.linalg.norm(vector) == pytest.approx(1)
    np.testing.assert_allclose(vector, written / np.linalg.norm(written), atol=1e-6)


def test_what_had_to_be_fetched_is_kept(akin: Akin) -> None:
    akin.upload(picture(1), "mug")
    akin.work()
    index, image_id = live_index(akin), image_of(akin, "mug")
    akin.services.cache.flushall()

    fetched = known.vectors_of(akin.services, index, [image_id, image_id + 1])

    kept = kept_vectors.recalled(akin.services, index.collection, [image_id, image_id + 1])
    assert list(kept) == list(fetched) == [image_id]
    np.testing.assert_array_equal(kept[image_id], fetched[image_id])


def test_of_a_search_only_what_it_searches_with_is_kept(akin: Akin) -> None:
    for seed in range(4):
        akin.upload(picture(seed), f"item-{seed}")
    akin.work()
    index, images = live_index(akin), [image_of(akin, f"item-{seed}") for seed in range(4)]
    akin.services.cache.flushall()

    asked = {"query": [{"image_id": images[0]}], "collapse": "near", "diversity": 0.5}
    assert len(akin.call("POST", "/v1/search", json=asked).json["hits"]) == 3

    assert list(kept_vectors.recalled(akin.services, index.collection, images)) == [images[0]]


def test_many_vectors_are_asked_for_a_piece_at_a_time(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    index = live_index(akin)
    kept = {number: np.full(index.dimension, number, np.float32) for number in range(1, 6)}
    kept_vectors.keep_asked(akin.services, index.collection, kept)
    monkeypatch.setattr(kept_vectors, "KEPT_AT_ONCE", 2)
    cache, asked = akin.services.cache, []
    mget = cache.mget
    monkeypatch.setattr(cache, "mget", lambda keys: asked.append(len(keys)) or mget(keys))

    recalled = kept_vectors.recalled(akin.services, index.collection, [*kept, 99])

    assert asked == [2, 2, 2]
    assert {number: vector.tobytes() for number, vector in recalled.items()} == {
        number: vector.tobytes() for number, vector in kept.items()
    }


def test_the_vector_of_a_deleted_picture_is_dropped(akin: Akin) -> None:
    akin.upload(picture(1), "mug")
    akin.upload(picture(2), "jug")
    akin.work()
    index, mug, jug = live_index(akin), image_of(akin, "mug"), image_of(akin, "jug")

    assert akin.call("DELETE", "/v1/items/mug").status_code == 204
    purging.purge(akin.services)

    assert list(kept_vectors.recalled(akin.services, index.collection, [mug, jug])) == [jug]


def test_workers_leave_room_for_what_searches_keep(akin: Akin) -> None:
    index = live_index(akin)
    # No Redis has so little memory that less than half of this is taken.
    full = Services(akin.services.settings.model_copy(update={"cache_memory": 1}))
    vectors = np.ones((2, index.dimension), np.float32)

    kept_vectors.keep_written(full, index.collection, [1, 2], vectors)
    assert kept_vectors.recalled(full, index.collection, [1, 2]) == {}
    kept_vectors.keep_written(akin.services, index.collection, [1, 2], vectors)
    assert set(kept_vectors.recalled(akin.services, index.collection, [1, 2])) == {1, 2}


def test_a_cache_with_a_smaller_limit_of_its_own_is_held_to_that(akin: Akin) -> None:
    cache = akin.services.cache
    used = caching.memory_used(akin.services)
    cache.config_set("maxmemory", 32 * 1024 * 1024)
    try:
        limited = caching.memory_used(akin.services)
    finally:
        cache.config_set("maxmemory", 0)
    assert used is not None
    assert limited is not None
    assert limited == pytest.approx(used * akin.services.settings.cache_memory / (32 * 1024 * 1024), rel=0.2)


def test_without_the_cache_pictures_are_embedded_and_searched_with_all_the_same(akin: Akin) -> None:
    (port,) = free_ports(1)
    nowhere = SecretStr(f"redis://127.0.0.1:{port}/0")
    akin.services = build(akin.services.settings.model_copy(update={"cache_url": nowhere}))
    try:
        akin.upload(picture(1), "mug")
        akin.work()
        index, image_id = live_index(akin), image_of(akin, "mug")
        assert list(known.vectors_of(akin.services, index, [image_id])) == [image_id]
        assert caching.memory_used(akin.services) is None
    finally:
        akin.services.close()


def test_another_collection_has_vectors_of_its_own(akin: Akin) -> None:
    index = live_index(akin)
    kept_vectors.keep_asked(akin.services, index.collection, {1: np.ones(index.dimension, np.float32)})

    other = replace(index, collection="akin_9_other")

    assert kept_vectors.recalled(akin.services, other.collection, [1]) == {}


def test_plain_rows_are_read_without_a_transaction(akin: Akin) -> None:
    with akin.services.database.rows() as connection:
        first = catalogs.id_of(connection, catalogs.DEFAULT)
        assert akin.call("POST", "/v1/catalogs", json={"name": "later"}).status_code == 201
        assert catalogs.id_of(connection, "later") != first
