"""Vectors in Milvus, from Milvus Lite to a cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient

from services.errors import Conflict, NotFound, Unavailable
from services.vectors.base import MAX_DIMENSION, MAX_LIMIT, Hit, Vectors
from services.vectors.conditions import MAX_TOKENS, Condition, Facets
from services.vectors.connection import MilvusConnection
from services.vectors.expressions import NUMBERS, TOKENS, facet_fields, is_among, render
from services.vectors.together import Together

# Milvus refuses messages over 64 MB, and Pulsar, under a cluster, prefers them small.
MESSAGE_BYTES = 16 * 1024 * 1024
MESSAGE_IDS = 10_000
MESSAGE_QUERIES = 16_384
MESSAGE_HITS = 10 * MESSAGE_QUERIES
ID_BYTES = 16
# The most that facets take: a token 9 bytes, and of three tokens one belongs to a number of 50 bytes at most.
FACETS_BYTES = 32 * MAX_TOKENS

HNSW = {"M": 16, "efConstruction": 200}
# Milvus takes a flush of a collection every ten seconds, and goes on with one that nobody waits for.
SEAL_SECONDS = 5.0
# Of 100,000 vectors of photographs 64 finds 99.0 % of the nearest ten, 128 finds 99.7 %.
MIN_EF = 128
# Where a tenth of 20,000 vectors meets a condition, 64 finds 79 % of the nearest 20, 512 finds 97 %, as quickly. Where
# fewer than 7 % do, Milvus compares them all.
MIN_FILTERED_EF = 512
MAX_EF = 32_768


@dataclass(frozen=True)
class Shape:
    """What cannot change of a collection."""

    dimension: int
    has_facets: bool


class MilvusStore:
    """VectorStore on a Milvus server; it connects at the first call and again after the server was gone.

    Args:
        uri: http:// or https:// address.
        token: token or user:password, empty where the server asks for none.
        timeout: seconds that one request may take.
        connect_timeout: seconds that connecting may take.
        load_timeout: seconds that a collection may take to load.

    Raises:
        ConfigurationError: the address is neither http:// nor https://.
    """

    def __init__(
        self,
        uri: str,
        token: str = "",
        *,
        timeout: float = 10.0,
        connect_timeout: float = 3.0,
        load_timeout: float = 60.0,
    ) -> None:
        self._milvus = MilvusConnection(
            uri, token, timeout=timeout, connect_timeout=connect_timeout, load_timeout=load_timeout
        )
        self.uri = uri
        self._one_writer = threading.Lock()
        self._shapes: dict[str, Shape] = {}
        self._complete: dict[str, int] = {}
        self._together = Together[list[Hit]]()

    def create(self, collection: str, dimension: int) -> None:
        if not 1 <= dimension <= MAX_DIMENSION:
            raise ValueError(f"dimension {dimension} is not in 1..{MAX_DIMENSION}")
        # What this process has seen complete is not looked up again: workers ask before each batch, and on Milvus Lite
        # the four answers cost as much as writing the batch does, the more the more it holds.
        if self._complete.get(collection) == dimension:
            return
        self._shapes.pop(collection, None)
        # Each step is looked up first, so that a creation that was interrupted is finished by the next.
        if not self.exists(collection):
            schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", DataType.INT64, is_primary=True)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
            if not self._is_lite:
                schema.add_field(TOKENS, DataType.ARRAY, element_type=DataType.INT64, max_capacity=MAX_TOKENS)
                schema.add_field(NUMBERS, DataType.JSON)
            self._milvus.call("create_collection", collection, schema=schema)
        there = self._shape(collection).dimension
        if there != dimension:
            raise Conflict(f"collection {collection} has dimension {there}, not {dimension}")
        if not self._milvus.call("list_indexes", collection):
            # Milvus Lite holds few vectors and searches them exactly; an approximate index would only lose recall.
            kind, options = ("FLAT", {}) if self._is_lite else ("HNSW", HNSW)
            index = MilvusClient.prepare_index_params()
            index.add_index("vector", index_type=kind, metric_type="COSINE", params=options)
            self._milvus.call("create_index", collection, index, sync=False)
        self._milvus.call("load_collection", collection, timeout=self._milvus.load_timeout)
        self._complete[collection] = dimension

    def exists(self, collection: str) -> bool:
        return bool(self._milvus.call("has_collection", collection))

    def collections(self, prefix: str) -> list[str]:
        return sorted(name for name in self._milvus.collections() if name.startswith(prefix))

    def dimension(self, collection: str) -> int:
        # Asked anew each time: another process may have made it again.
        self._shapes.pop(collection, None)
        return self._shape(collection).dimension

    def drop(self, collection: str) -> None:
        self._milvus.call("drop_collection", collection)
        self._forget(collection)

    def upsert(
        self, collection: str, ids: Sequence[int], vectors: Vectors, facets: Sequence[Facets] | None = None
    ) -> None:
        vectors = self._checked(collection, vectors)
        if len(ids) != len(vectors):
            raise ValueError(f"{len(ids)} ids for {len(vectors)} vectors")
        if facets is not None and len(facets) != len(vectors):
            raise ValueError(f"{len(facets)} facets for {len(vectors)} vectors")
        # Milvus keeps both rows of an id that one batch names twice.
        last = {int(one): row for row, one in enumerate(ids)}
        rows: list[dict[str, Any]] = [{"id": one, "vector": vectors[row]} for one, row in last.items()]
        size = self._rows_per_message(collection)
        if self.filters(collection):
            for values, row in zip(rows, last.values(), strict=True):
                values.update(facet_fields(facets[row] if facets is not None else Facets()))
            size = self._rows_per_message(collection, FACETS_BYTES)
        for piece in _pieces(len(rows), size):
            with self._writing:
                try:
                    self._milvus.call("upsert", collection, rows[piece])
                except (NotFound, Unavailable):  # dropped by somebody else, who may have made another of its name
                    self._forget(collection)
                    raise

    def delete(self, collection: str, ids: Sequence[int]) -> None:
        for piece in _pieces(len(ids), MESSAGE_IDS):
            with self._writing:
                self._milvus.call("delete", collection, filter=is_among(ids[piece]))

    def filters(self, collection: str) -> bool:
        return self._shape(collection).has_facets

    def search(
        self,
        collection: str,
        vectors: Vectors,
        limit: int,
        *,
        strong: bool = False,
        among: Sequence[int] | None = None,
        where: Condition | None = None,
    ) -> list[list[Hit]]:
        if not 1 <= limit <= MAX_LIMIT:
            raise ValueError(f"limit {limit} is not in 1..{MAX_LIMIT}")
        if where is not None and not self.filters(collection):
            raise ValueError(f"collection {collection} has no facets")
        vectors = self._checked(collection, vectors)
        condition = "" if where is None else render(where)
        if among is None:
            return self._search(collection, vectors, limit, condition, strong)
        found: list[list[Hit]] = [[] for _ in vectors]
        ids = sorted(set(among))
        for piece in _pieces(len(ids), MESSAGE_IDS):
            expression = " and ".join(filter(None, (is_among(ids[piece]), condition)))
            hits = self._search(collection, vectors, limit, expression, strong)
            found = [sorted(a + b, key=_by_score)[:limit] for a, b in zip(found, hits, strict=True)]
        return found

    def _search(self, collection: str, vectors: Vectors, limit: int, condition: str, strong: bool) -> list[list[Hit]]:
        ef = max(MIN_FILTERED_EF if condition else MIN_EF, 2 * limit)
        options: dict[str, Any] = {
            "limit": limit,
            "output_fields": ["id"],  # by default Milvus Lite answers with the vectors as well
            "search_params": {"metric_type": "COSINE", "params": {"ef": min(MAX_EF, ef)}},
            "consistency_level": _consistency(strong),
            **({"filter": condition} if condition else {}),
        }
        size = min(self._rows_per_message(collection), MESSAGE_QUERIES, MESSAGE_HITS // limit)

        def asked(vectors: Vectors) -> list[list[Hit]]:
            return [
                _ranked(hits)
                for piece in _pieces(len(vectors), size)
                for hits in self._milvus.call("search", collection, vectors[piece], **options)
            ]

        return self._together.ask((collection, limit, condition, strong), vectors, asked)

    def fetch(self, collection: str, ids: Sequence[int], *, strong: bool = False) -> dict[int, Vectors]:
        size = min(MESSAGE_IDS, self._rows_per_message(collection))
        return {
            row["id"]: np.asarray(row["vector"], np.float32)
            for piece in _pieces(len(ids), size)
            for row in self._query(collection, is_among(ids[piece]), ["id", "vector"], strong)
        }

    def present(self, collection: str, ids: Sequence[int], *, strong: bool) -> set[int]:
        return {
            row["id"]
            for piece in _pieces(len(ids), MESSAGE_IDS)
            for row in self._query(collection, is_among(ids[piece]), ["id"], strong)
        }

    def count(self, collection: str, *, strong: bool = True) -> int:
        (row,) = self._query(collection, "", ["count(*)"], strong)
        return int(row["count(*)"])

    def ids(self, collection: str, *, after: int = -1, batch: int = 10_000) -> Iterator[list[int]]:
        # By ranges, because no server promises order: of a query with a limit Milvus Lite answers any ids, not the
        # smallest, and pymilvus's iterator, which sorts, misses fresh writes on Milvus 2.3 whatever the consistency.
        low, width = after + 1, batch
        while True:
            high = low + width - 1
            rows = self._query(collection, f"{low} <= id && id <= {high}", ["id"], strong=True, limit=batch + 1)
            if len(rows) > batch:
                width = max(batch, width // 2)
                continue
            if rows:
                yield sorted(row["id"] for row in rows)
            low = high + 1
            if not rows and not self._query(collection, f"id >= {low}", ["id"], strong=True, limit=1):
                return
            if len(rows) < batch // 2:
                width *= 2 if rows else 16

    def barrier(self, collection: str) -> None:
        self._query(collection, is_among([0]), ["id"], strong=True)

    def seal(self, collection: str) -> None:
        # Beyond some 5,000 rows Milvus searches a segment that still grows by a coarse index of its own, whatever is
        # asked for: of 20,000 vectors it found 97 % of the nearest 10, and 63 % where 100 of them met a condition.
        if not self._is_lite:
            self._milvus.call("flush", collection, timeout=SEAL_SECONDS)

    def check(self) -> None:
        self._milvus.version()

    def close(self) -> None:
        self._milvus.close()

    @cached_property
    def _is_lite(self) -> bool:
        return self._milvus.version().startswith("milvus_lite")

    @property
    def _writing(self) -> AbstractContextManager[object]:
        # Milvus Lite does not promise that two writers may write to one collection at the same time.
        return self._one_writer if self._is_lite else nullcontext()

    def _query(
        self, collection: str, expression: str, fields: list[str], strong: bool, **options: Any
    ) -> list[dict[str, Any]]:
        level = _consistency(strong)
        return list(
            self._milvus.call(
                "query", collection, filter=expression, output_fields=fields, consistency_level=level, **options
            )
        )

    def _checked(self, collection: str, vectors: Vectors) -> Vectors:
        vectors = np.asarray(vectors, np.float32)
        dimension = self._shape(collection).dimension
        if vectors.ndim != 2 or vectors.shape[1] != dimension:
            raise ValueError(f"vectors of shape {vectors.shape}, not (n, {dimension})")
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        if not np.all(np.isfinite(lengths) & (lengths > 0)):
            raise ValueError("a vector is zero or not finite")
        return vectors

    def _shape(self, collection: str) -> Shape:
        shape = self._shapes.get(collection)  # once: other threads forget it at any time
        if shape is None:
            fields = self._milvus.call("describe_collection", collection)["fields"]
            (vector,) = [field for field in fields if field["name"] == "vector"]
            has_facets = {TOKENS, NUMBERS} <= {field["name"] for field in fields}
            self._shapes[collection] = shape = Shape(int(vector["params"]["dim"]), has_facets)
        return shape

    def _forget(self, collection: str) -> None:
        self._shapes.pop(collection, None)
        self._complete.pop(collection, None)

    def _rows_per_message(self, collection: str, further: int = 0) -> int:
        return max(1, MESSAGE_BYTES // (4 * self._shape(collection).dimension + ID_BYTES + further))


def _pieces(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _consistency(strong: bool) -> str:
    return "Strong" if strong else "Bounded"


def _ranked(hits: Any) -> list[Hit]:
    pairs = zip(hits.ids, hits.distances, strict=True)
    return sorted((Hit(one, min(1.0, max(-1.0, score))) for one, score in pairs), key=_by_score)


def _by_score(hit: Hit) -> tuple[float, int]:
    return -hit.score, hit.id
