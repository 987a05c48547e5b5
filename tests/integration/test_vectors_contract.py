"""What every vector store must do, on Milvus Lite and on the real Milvus."""

from __future__ import annotations

import math
import operator
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from services.errors import ConfigurationError, Conflict, NotFound, Unavailable
from services.vectors import milvus
from services.vectors.base import MAX_DIMENSION, MAX_LIMIT, Hit, Vectors, VectorStore
from services.vectors.conditions import MAX_TOKENS, All, Bound, Compare, Condition, Facets, HasAny, HasNot
from services.vectors.conditions import Any as AnyOf
from services.vectors.milvus import MilvusStore
from tests.conftest import server_directory
from tests.servers import Server, free_ports, milvus_lite_server, running, wait_until

DIMENSION = 16


def random_vectors(count: int, dimension: int = DIMENSION, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)


LIBRARY = random_vectors(100)


def clustered_vectors(count: int, dimension: int, seed: int = 0) -> Vectors:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((50, dimension), dtype=np.float32)
    noise = random.standard_normal((count, dimension), dtype=np.float32)
    return centres[random.integers(50, size=count)] + np.float32(0.3) * noise


def cosines(queries: Vectors, vectors: Vectors) -> Vectors:
    def unit(rows: Vectors) -> Vectors:
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    return np.asarray(unit(queries) @ unit(vectors).T)


def recall_at_10(store: VectorStore, collection: str, queries: Vectors, vectors: Vectors) -> float:
    exact = np.argsort(-cosines(queries, vectors), axis=1)[:, :10]
    found = store.search(collection, queries, 10, strong=True)
    return float(
        np.mean([len({hit.id for hit in hits} & set(row)) / 10 for hits, row in zip(found, exact, strict=True)])
    )


@pytest.fixture
def filled(vector_store: VectorStore, collection: str) -> Vectors:
    """100 vectors under the ids 0 to 99."""
    vectors = random_vectors(100)
    vector_store.create(collection, DIMENSION)
    vector_store.upsert(collection, range(100), vectors)
    return vectors


@pytest.fixture(scope="module")
def library(vector_store: VectorStore) -> Iterator[str]:
    """A collection of LIBRARY under the ids 0 to 99, for tests that only read."""
    vector_store.create("library", DIMENSION)
    vector_store.upsert("library", range(100), LIBRARY)
    vector_store.barrier("library")
    yield "library"
    vector_store.drop("library")


@pytest.fixture
def own_lite() -> Iterator[tuple[Server, MilvusStore]]:
    """A Milvus Lite that the test may stop, and a store on it that is quick to give up."""
    with server_directory("milvus-lite") as directory:
        server, uri = milvus_lite_server(directory)
        store = MilvusStore(uri, timeout=2, connect_timeout=1)
        with running(server):
            yield server, store
        store.close()


# -- collections


def test_a_new_collection_is_there_and_empty(vector_store: VectorStore, collection: str) -> None:
    assert not vector_store.exists(collection)
    vector_store.create(collection, DIMENSION)
    assert vector_store.exists(collection)
    assert vector_store.count(collection) == 0
    assert vector_store.search(collection, random_vectors(1), 10, strong=True) == [[]]
    assert list(vector_store.ids(collection)) == []


def test_creating_again_changes_nothing(vector_store: VectorStore, library: str) -> None:
    vector_store.create(library, DIMENSION)
    assert vector_store.count(library) == len(LIBRARY)


def test_creating_with_another_dimension_is_a_conflict(vector_store: VectorStore, library: str) -> None:
    with pytest.raises(Conflict):
        vector_store.create(library, DIMENSION + 1)


def test_a_dropped_collection_is_gone_and_can_come_back(vector_store: VectorStore, collection: str) -> None:
    vector_store.create(collection, DIMENSION)
    vector_store.drop(collection)
    vector_store.drop(collection)
    assert not vector_store.exists(collection)
    vector_store.create(collection, 2 * DIMENSION)
    vector_store.upsert(collection, [1], random_vectors(1, 2 * DIMENSION))
    assert vector_store.count(collection) == 1


def test_collections_are_listed_by_the_beginning_of_their_names(vector_store: VectorStore, collection: str) -> None:
    others = [f"{collection}_b", f"{collection}_a"]
    for name in (collection, *others):
        vector_store.create(name, DIMENSION)
    assert vector_store.collections(f"{collection}_") == sorted(others)
    assert vector_store.collections(collection) == [collection, *sorted(others)]
    for name in others:
        vector_store.drop(name)
    assert vector_store.collections(collection) == [collection]


def test_the_dimension_is_that_of_the_present_collection(vector_store: MilvusStore, collection: str) -> None:
    vector_store.create(collection, DIMENSION)
    assert vector_store.dimension(collection) == DIMENSION
    other = MilvusStore(vector_store.uri)
    other.drop(collection)
    other.create(collection, 2 * DIMENSION)
    other.close()
    assert vector_store.dimension(collection) == 2 * DIMENSION


def test_an_unknown_collection_is_not_found(vector_store: VectorStore) -> None:
    for call in (
        lambda: vector_store.upsert("nowhere", [1], random_vectors(1)),
        lambda: vector_store.delete("nowhere", [1]),
        lambda: vector_store.search("nowhere", random_vectors(1), 10),
        lambda: vector_store.fetch("nowhere", [1]),
        lambda: vector_store.present("nowhere", [1], strong=True),
        lambda: vector_store.count("nowhere"),
        lambda: vector_store.dimension("nowhere"),
        lambda: list(vector_store.ids("nowhere")),
        lambda: vector_store.barrier("nowhere"),
    ):
        with pytest.raises(NotFound):
            call()


def test_a_collection_that_another_client_dropped_is_not_found(
    vector_store: MilvusStore, collection: str, filled: Vectors
) -> None:
    other = MilvusStore(vector_store.uri)
    other.drop(collection)
    other.close()
    with pytest.raises(NotFound):
        vector_store.upsert(collection, [1], filled[:1])
    with pytest.raises(NotFound):
        vector_store.search(collection, filled[:1], 1)


@pytest.mark.parametrize("dimension", [0, MAX_DIMENSION + 1])
def test_an_impossible_dimension_is_refused(vector_store: VectorStore, collection: str, dimension: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.32768"):
        vector_store.create(collection, dimension)


def test_the_largest_dimension_is_accepted(vector_store: VectorStore, collection: str) -> None:
    vectors = random_vectors(10, MAX_DIMENSION)
    vector_store.create(collection, MAX_DIMENSION)
    vector_store.upsert(collection, range(10), vectors)
    assert vector_store.search(collection, vectors[9:], 1, strong=True)[0][0].id == 9
    assert np.array_equal(vector_store.fetch(collection, [5])[5], vectors[5])


# -- writing


def test_an_upsert_replaces_what_was_there(vector_store: VectorStore, collection: str, filled: Vectors) -> None:
    replacement = random_vectors(1, seed=1)
    vector_store.upsert(collection, [7], replacement)
    assert vector_store.count(collection) == len(filled)
    assert np.array_equal(vector_store.fetch(collection, [7], strong=True)[7], replacement[0])
    (hits,) = vector_store.search(collection, replacement, 100, strong=True)
    assert [hit.id for hit in hits].count(7) == 1
    assert hits[0].id == 7


def test_of_an_id_named_twice_in_a_batch_the_last_counts(vector_store: VectorStore, collection: str) -> None:
    vectors = random_vectors(3)
    vector_store.create(collection, DIMENSION)
    vector_store.upsert(collection, [5, 6, 5], vectors)
    assert vector_store.count(collection) == 2
    assert np.array_equal(vector_store.fetch(collection, [5], strong=True)[5], vectors[2])


def test_a_strong_read_sees_each_write_at_once(vector_store: VectorStore, collection: str) -> None:
    vector_store.create(collection, DIMENSION)
    for number, vector in enumerate(random_vectors(5)):
        vector_store.upsert(collection, [number], vector[None])
        assert vector_store.present(collection, [number], strong=True) == {number}
        assert vector_store.search(collection, vector[None], 1, strong=True)[0][0].id == number


def test_after_a_barrier_every_read_sees_the_write(vector_store: VectorStore, collection: str) -> None:
    vector_store.create(collection, DIMENSION)
    for number, vector in enumerate(random_vectors(5)):
        vector_store.upsert(collection, [number], vector[None])
        vector_store.barrier(collection)
        assert vector_store.search(collection, vector[None], 1)[0][0].id == number
        assert vector_store.present(collection, [number], strong=False) == {number}
        vector_store.delete(collection, [number])
        vector_store.barrier(collection)
        assert vector_store.present(collection, [number], strong=False) == set()


def test_many_new_vectors_are_found_as_well_as_old_ones_soon_after_they_were_sealed(
    vector_store: VectorStore, collection: str
) -> None:
    """Unsealed, Milvus looks among the vectors of a few lists alone."""
    vectors = random_vectors(8000)
    vector_store.create(collection, DIMENSION)
    vector_store.upsert(collection, range(len(vectors)), vectors)
    vector_store.barrier(collection)
    among = list(range(0, len(vectors), 100))

    vector_store.seal(collection)

    def found() -> bool:
        return all(len(hits) == 60 for hits in vector_store.search(collection, vectors[:20], 60, among=among))

    wait_until(found, "all that is near, among the sealed vectors")


def test_deleted_vectors_are_gone(vector_store: VectorStore, collection: str, filled: Vectors) -> None:
    vector_store.delete(collection, [3, 4, 1000])
    assert vector_store.count(collection) == len(filled) - 2
    assert vector_store.present(collection, range(10), strong=True) == {0, 1, 2, 5, 6, 7, 8, 9}
    assert 3 not in [hit.id for hit in vector_store.search(collection, filled[3:4], 100, strong=True)[0]]


def test_empty_batches_do_nothing(vector_store: VectorStore, library: str) -> None:
    nothing = np.empty((0, DIMENSION), np.float32)
    vector_store.upsert(library, [], nothing)
    vector_store.delete(library, [])
    assert vector_store.search(library, nothing, 10) == []
    assert vector_store.fetch(library, []) == {}
    assert vector_store.present(library, [], strong=True) == set()
    assert vector_store.count(library) == len(LIBRARY)


@pytest.mark.parametrize(
    "vectors",
    [
        pytest.param(np.zeros((1, DIMENSION), np.float32), id="zero"),
        pytest.param(np.full((1, DIMENSION), np.nan, np.float32), id="not a number"),
        pytest.param(np.full((1, DIMENSION), np.inf, np.float32), id="infinite"),
        pytest.param(np.ones((1, DIMENSION + 1), np.float32), id="too long"),
        pytest.param(np.ones(DIMENSION, np.float32), id="not a matrix"),
    ],
)
def test_a_vector_that_has_no_cosine_is_refused(vector_store: VectorStore, library: str, vectors: Vectors) -> None:
    with pytest.raises(ValueError, match="vector"):
        vector_store.upsert(library, [1], vectors)
    with pytest.raises(ValueError, match="vector"):
        vector_store.search(library, vectors, 10)
    assert np.array_equal(vector_store.fetch(library, [1], strong=True)[1], LIBRARY[1])


def test_as_many_ids_as_vectors_are_needed(vector_store: VectorStore, library: str) -> None:
    with pytest.raises(ValueError, match="2 ids for 1 vectors"):
        vector_store.upsert(library, [1, 2], LIBRARY[:1])


def test_threads_may_write_through_one_store(vector_store: VectorStore, collection: str) -> None:
    vector_store.create(collection, DIMENSION)

    def write(first: int) -> None:
        for start in range(first, first + 500, 50):
            vector_store.upsert(collection, range(start, start + 50), random_vectors(50, seed=start))

    threads = [threading.Thread(target=write, args=(500 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert vector_store.present(collection, range(2000), strong=True) == set(range(2000))


# -- reading


def test_threads_that_search_at_the_same_time_have_their_own_answers(vector_store: VectorStore, library: str) -> None:
    vectors = random_vectors(64, seed=4)
    alone = [vector_store.search(library, vectors[[row]], 10)[0] for row in range(64)]

    with ThreadPoolExecutor(8) as pool:
        pairs = list(pool.map(lambda row: vector_store.search(library, vectors[[row, (row + 1) % 64]], 10), range(64)))

    ids = [[hit.id for hit in hits] for hits in alone]
    assert [[[hit.id for hit in hits] for hits in pair] for pair in pairs] == [
        [ids[row], ids[(row + 1) % 64]] for row in range(64)
    ]


def test_scores_are_cosines_best_first(vector_store: VectorStore, library: str) -> None:
    queries = random_vectors(3, seed=1)
    expected = cosines(queries, LIBRARY)
    found = vector_store.search(library, queries, 100, strong=True)
    for hits, row in zip(found, expected, strict=True):
        assert [hit.id for hit in hits] == np.argsort(-row).tolist()
        assert [hit.score for hit in hits] == pytest.approx(np.sort(row)[::-1], abs=1e-5)


def test_a_vector_finds_itself_with_a_score_of_one_at_most(vector_store: VectorStore, library: str) -> None:
    for number, (hit,) in enumerate(vector_store.search(library, 1000 * LIBRARY, 1, strong=True)):
        assert hit.id == number
        assert 0.99999 <= hit.score <= 1


def test_equal_scores_are_ordered_by_id(vector_store: VectorStore, collection: str) -> None:
    vector_store.create(collection, DIMENSION)
    vector_store.upsert(collection, [9, 2, 5, 7], np.repeat(random_vectors(1), 4, axis=0))
    (hits,) = vector_store.search(collection, random_vectors(1), 4, strong=True)
    assert [hit.id for hit in hits] == [2, 5, 7, 9]


def test_no_more_than_limit_are_found(vector_store: VectorStore, library: str) -> None:
    assert [len(hits) for hits in vector_store.search(library, LIBRARY[:2], 7, strong=True)] == [7, 7]
    assert len(vector_store.search(library, LIBRARY[:1], MAX_LIMIT, strong=True)[0]) == len(LIBRARY)


@pytest.mark.parametrize("limit", [0, MAX_LIMIT + 1])
def test_an_impossible_limit_is_refused(vector_store: VectorStore, library: str, limit: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.16384"):
        vector_store.search(library, LIBRARY[:1], limit)


def test_fetch_answers_the_vectors_that_are_there(vector_store: VectorStore, library: str) -> None:
    fetched = vector_store.fetch(library, [42, 1, 1000], strong=True)
    assert fetched.keys() == {1, 42}
    assert np.array_equal(fetched[42], LIBRARY[42])
    assert fetched[42].dtype == np.float32


def test_ids_stream_in_order_and_without_gaps(vector_store: VectorStore, collection: str) -> None:
    ids = np.random.default_rng(0).permutation(20_000)[:7000]
    vector_store.create(collection, 4)
    vector_store.upsert(collection, ids.tolist(), random_vectors(len(ids), 4))
    vector_store.upsert(collection, ids[:500].tolist(), random_vectors(500, 4, seed=1))
    vector_store.delete(collection, ids[1000:2000].tolist())
    expected = sorted([*ids[:1000].tolist(), *ids[2000:].tolist()])

    batches = list(vector_store.ids(collection, batch=1000))

    assert [one for batch in batches for one in batch] == expected
    assert max(len(batch) for batch in batches) <= 1000
    assert vector_store.present(collection, ids.tolist(), strong=True) == set(expected)
    assert vector_store.count(collection) == 6000


@pytest.mark.parametrize("after", [-1, 0, 4_999, 5_000, 19_999])
def test_ids_stream_from_the_one_after_a_given_one(vector_store: VectorStore, collection: str, after: int) -> None:
    ids = sorted(np.random.default_rng(1).permutation(20_000)[:3000].tolist())
    vector_store.create(collection, 4)
    vector_store.upsert(collection, ids, random_vectors(len(ids), 4))

    found = [one for batch in vector_store.ids(collection, after=after, batch=500) for one in batch]

    assert found == [one for one in ids if one > after]


def test_ids_that_are_far_apart_stream_as_well(vector_store: VectorStore, collection: str) -> None:
    far = [0, 1, 5_000_000, 5_000_001, 10**9]
    vector_store.create(collection, DIMENSION)
    vector_store.upsert(collection, far, random_vectors(5))
    assert [one for batch in vector_store.ids(collection, batch=10_000) for one in batch] == far


def test_batches_of_any_size_are_split_into_messages(
    vector_store: VectorStore, collection: str, filled: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus, "MESSAGE_BYTES", 1000)
    monkeypatch.setattr(milvus, "MESSAGE_IDS", 30)
    vectors = random_vectors(100, seed=1)
    vector_store.upsert(collection, range(50, 150), vectors)
    vector_store.delete(collection, range(50))
    assert vector_store.present(collection, range(200), strong=True) == set(range(50, 150))
    fetched = vector_store.fetch(collection, range(200))
    assert np.array_equal(np.stack([fetched[one] for one in range(50, 150)]), vectors)
    assert [hit.id for (hit,) in vector_store.search(collection, vectors, 1)] == list(range(50, 150))
    monkeypatch.setattr(milvus, "MESSAGE_HITS", MAX_LIMIT)
    assert [len(hits) for hits in vector_store.search(collection, vectors[:2], MAX_LIMIT)] == [100, 100]


def test_the_nearest_are_found_while_vectors_arrive(vector_store: VectorStore, collection: str) -> None:
    vectors = clustered_vectors(5000, 64)
    vector_store.create(collection, 64)
    vector_store.upsert(collection, range(5000), vectors)
    assert recall_at_10(vector_store, collection, clustered_vectors(100, 64), vectors) >= 0.99


@pytest.mark.milvus
def test_the_index_finds_the_nearest(milvus_uri: str) -> None:
    vectors = clustered_vectors(5000, 64)
    collection = "test_recall"
    store = MilvusStore(milvus_uri)
    with closing(store), closing(MilvusClient(milvus_uri, dedicated=True)) as client:
        store.create(collection, 64)
        store.upsert(collection, range(5000), vectors)
        client.flush(collection, timeout=30)  # only a sealed segment gets its index
        wait_until(lambda: client.describe_index(collection, "vector")["indexed_rows"] == 5000, "index built")
        assert client.describe_index(collection, "vector")["index_type"] == "HNSW"
        assert recall_at_10(store, collection, clustered_vectors(100, 64, seed=1), vectors) >= 0.99
        store.drop(collection)


# -- searches with a condition


def found(hits: list[list[Hit]]) -> set[int]:
    return {hit.id for hit in hits[0]}


def test_among_ids_only_these_are_found_however_many_there_are(
    vector_store: VectorStore, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [*range(3, 90, 2), 1000, 3]
    expected = vector_store.search(library, LIBRARY[:3], 100, strong=True)

    def among(limit: int) -> list[list[Hit]]:
        return vector_store.search(library, LIBRARY[:3], limit, strong=True, among=wanted)

    assert among(100) == [[hit for hit in hits if hit.id in wanted] for hits in expected]
    monkeypatch.setattr(milvus, "MESSAGE_IDS", 7)
    assert among(100) == [[hit for hit in hits if hit.id in wanted] for hits in expected]
    assert [len(hits) for hits in among(5)] == [5, 5, 5]
    assert vector_store.search(library, LIBRARY[:3], 5, among=[]) == [[], [], []]


def test_facets_are_left_alone_where_nothing_can_be_filtered_by_them(milvus_lite_uri: str) -> None:
    with closing(MilvusStore(milvus_lite_uri)) as store:
        store.create("test_lite", DIMENSION)
        assert not store.filters("test_lite")
        store.upsert("test_lite", [1], LIBRARY[:1], [Facets(frozenset({1}), {2: 3.0})])
        assert store.present("test_lite", [1], strong=True) == {1}
        with pytest.raises(ValueError, match="no facets"):
            store.search("test_lite", LIBRARY[:1], 1, where=HasAny((1,)))
        store.drop("test_lite")


LAST = 2**62 - 1
NUMBERS = [0.0, -0.0, 1.5, -1.5, 19.99, 0.1, 5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 2.0**53]
NUMBERS += [1e16, 1e22, 123456789012345678.0, 1e-7, 1763750000.123456]
PRICE, SIZE = 7, 2**62
FACETS = [
    *(Facets(frozenset({1, 100 + row, LAST - row}), {PRICE: number}) for row, number in enumerate(NUMBERS)),
    Facets(frozenset({2, 2**62}), {SIZE: 42.0}),
    Facets(
        frozenset(range(1000, 1000 + MAX_TOKENS)), {2**61 + n: -1.7976931348623157e308 for n in range(MAX_TOKENS // 3)}
    ),
    Facets(),
]
OTHER, FULL, BARE = range(len(NUMBERS), len(FACETS))


@pytest.fixture(scope="module")
def shelf(milvus_uri: str) -> Iterator[tuple[MilvusStore, str]]:
    """A collection on the real Milvus with a vector for each of FACETS."""
    with closing(MilvusStore(milvus_uri)) as store:
        store.create("test_shelf", DIMENSION)
        store.upsert("test_shelf", range(len(FACETS)), LIBRARY[: len(FACETS)], FACETS)
        store.barrier("test_shelf")
        yield store, "test_shelf"
        store.drop("test_shelf")


EVERY = set(range(len(FACETS)))
PRICED = set(range(len(NUMBERS)))
CONDITIONS: list[tuple[Condition, set[int]]] = [
    (HasAny((1,)), PRICED),
    (HasAny((2**62,)), {OTHER}),
    (HasAny((LAST, 103, 5)), {0, 3}),
    (HasAny((1000 + MAX_TOKENS - 1,)), {FULL}),
    (HasNot((1,)), {OTHER, FULL, BARE}),
    (HasNot((1, 2**62, 1000)), {BARE}),
    (HasNot((5,)), EVERY),
    (Compare(SIZE, ">=", 42.0), {OTHER}),
    (Compare(SIZE, "<", 42.0), set()),
    (Compare(2**61, "<", 0), {FULL}),
    (All((HasAny((1,)), Compare(PRICE, ">", 1.0), Compare(PRICE, "<=", 19.99))), {2, 4}),
    (AnyOf((HasAny((2,)), Compare(PRICE, "<", -1.0))), {OTHER, 3, 9}),
    (AnyOf((HasNot((1,)), All((HasNot((100,)), Compare(PRICE, "<=", 0.0))))), {OTHER, FULL, BARE, 1, 3, 7, 9}),
    (All((HasNot((2,)),)), EVERY - {OTHER}),
    (AnyOf(tuple(HasAny((100 + n,)) for n in range(300))), PRICED),
    (All(tuple(AnyOf((HasAny((n,)), HasNot((n,)), Compare(n, ">", 0.5))) for n in range(100))), EVERY),
    (AnyOf((HasAny(tuple(range(2**61, 2**61 + 10_000))), HasAny((2,)))), {OTHER}),
]


@pytest.mark.milvus
@pytest.mark.parametrize(("where", "expected"), CONDITIONS)
def test_what_meets_a_condition_is_found(shelf: tuple[MilvusStore, str], where: Condition, expected: set[int]) -> None:
    store, shelf_name = shelf
    assert store.filters(shelf_name)
    assert found(store.search(shelf_name, LIBRARY[:1], 100, where=where)) == expected
    assert found(store.search(shelf_name, LIBRARY[:1], 100, where=where, among=range(10))) == expected & set(range(10))


@pytest.mark.milvus
@pytest.mark.parametrize("bound", ["<", "<=", ">", ">="])
def test_numbers_are_compared_to_the_last_bit(shelf: tuple[MilvusStore, str], bound: Bound) -> None:
    store, shelf_name = shelf
    compare = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}[bound]
    for value in [*NUMBERS, math.nextafter(19.99, 0), math.nextafter(1e22, 0)]:
        expected = {row for row, number in enumerate(NUMBERS) if compare(number, value)}
        assert found(store.search(shelf_name, LIBRARY[:1], 100, where=Compare(PRICE, bound, value))) == expected, value


@pytest.mark.milvus
def test_an_upsert_replaces_facets_too(shelf: tuple[MilvusStore, str]) -> None:
    store, _ = shelf
    store.create("test_replaced", DIMENSION)
    store.upsert("test_replaced", [1, 2], LIBRARY[:2], [Facets(frozenset({5}), {6: 1.0})] * 2)
    store.upsert("test_replaced", [1, 1], LIBRARY[:2], [Facets(frozenset({5})), Facets(frozenset({8}), {6: 2.0})])
    assert found(store.search("test_replaced", LIBRARY[:1], 9, strong=True, where=HasAny((5,)))) == {2}
    assert found(store.search("test_replaced", LIBRARY[:1], 9, strong=True, where=Compare(6, ">", 1.0))) == {1}
    with pytest.raises(ValueError, match="1 facets for 2 vectors"):
        store.upsert("test_replaced", [1, 2], LIBRARY[:2], [Facets()])
    store.drop("test_replaced")


@pytest.mark.milvus
def test_a_collection_from_before_there_were_facets_is_written_to_and_searched(milvus_uri: str) -> None:
    with closing(MilvusStore(milvus_uri)) as store, closing(MilvusClient(milvus_uri, dedicated=True)) as client:
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIMENSION)
        client.create_collection("test_old", schema=schema)
        store.create("test_old", DIMENSION)
        assert not store.filters("test_old")
        store.upsert("test_old", [1, 2], LIBRARY[:2], [Facets(frozenset({1}), {2: 3.0})] * 2)
        assert found(store.search("test_old", LIBRARY[:1], 9, strong=True, among=[2, 3])) == {2}
        with pytest.raises(ValueError, match="no facets"):
            store.search("test_old", LIBRARY[:1], 1, where=HasAny((1,)))

        # Another process drops it and makes it anew: this store notices at the first write that is refused.
        with closing(MilvusStore(milvus_uri)) as other:
            other.drop("test_old")
            other.create("test_old", DIMENSION)
        with suppress(Unavailable):
            store.upsert("test_old", [1], LIBRARY[:1], [Facets(frozenset({1}))])
        store.upsert("test_old", [1], LIBRARY[:1], [Facets(frozenset({1}))])
        assert found(store.search("test_old", LIBRARY[:1], 9, strong=True, where=HasAny((1,)))) == {1}
        store.drop("test_old")


# -- servers that are not there


def test_nothing_connects_before_the_first_call() -> None:
    MilvusStore("http://127.0.0.1:1").close()


def test_an_address_that_is_no_url_is_a_mistake_of_configuration() -> None:
    with pytest.raises(ConfigurationError):
        MilvusStore("./akin.db")


def test_a_server_that_is_not_there_is_unavailable_soon() -> None:
    (port,) = free_ports(1)
    store = MilvusStore(f"http://127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(Unavailable):
        store.check()
    with pytest.raises(Unavailable):
        store.search("any", random_vectors(1), 10)
    assert time.monotonic() - started < 10


def test_a_server_that_does_not_answer_is_unavailable_to_all_threads_soon() -> None:
    refusals: list[Unavailable] = []

    def ask(store: MilvusStore) -> None:
        with pytest.raises(Unavailable) as refusal:
            store.count("any")
        refusals.append(refusal.value)

    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        store = MilvusStore(f"http://127.0.0.1:{silent.getsockname()[1]}", connect_timeout=1)
        threads = [threading.Thread(target=ask, args=(store,)) for _ in range(8)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(refusals) == 8
    assert time.monotonic() - started < 5


def test_the_same_store_works_again_after_the_server_was_killed(own_lite: tuple[Server, MilvusStore]) -> None:
    server, store = own_lite
    vectors = random_vectors(100)
    store.create("kept", DIMENSION)
    store.upsert("kept", range(100), vectors)

    server.kill()
    started = time.monotonic()
    with pytest.raises(Unavailable):
        store.upsert("kept", [100], vectors[:1])
    with pytest.raises(Unavailable):
        store.search("kept", vectors[:1], 1)
    with pytest.raises(Unavailable):
        store.check()
    assert time.monotonic() - started < 10

    server.start()
    wait_until(lambda: answers(store), "the store reaches the server again", seconds=5)
    assert store.count("kept") == 100
    assert store.search("kept", vectors[:1], 1, strong=True)[0][0].id == 0
    store.upsert("kept", [100], vectors[:1])
    assert store.present("kept", [100], strong=True) == {100}


def test_a_store_may_be_used_again_after_it_was_closed(own_lite: tuple[Server, MilvusStore]) -> None:
    _, store = own_lite
    store.close()
    store.check()


def answers(store: MilvusStore) -> bool:
    try:
        store.check()
    except Unavailable:
        return False
    return True


def test_importing_the_port_does_not_import_pymilvus() -> None:
    program = "import services.vectors.base, sys; sys.exit('pymilvus' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
