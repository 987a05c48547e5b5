"""What Akin asks of a vector store, whichever server keeps the vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.vectors.conditions import Condition, Facets

MAX_DIMENSION = 32_768
MAX_LIMIT = 16_384

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Hit:
    """One neighbour: its id and its cosine similarity in [-1, 1]."""

    id: int
    score: float


class VectorStore(Protocol):
    """Collections of float32 vectors by id (0 to 2**53), searched by cosine similarity.

    A write is durable when its call returns, but a read sees it at once only if it is `strong` or comes
    after a `barrier`. Every call may raise Unavailable (the server is gone or too slow), and every call
    that names a collection, other than create, drop and exists, NotFound. Safe to share between threads.
    """

    def create(self, collection: str, dimension: int) -> None:
        """Make a collection and its index, ready for use; nothing happens if it is there.

        A collection that somebody drops behind this store's back is made anew only after an `upsert` met NotFound.

        Raises:
            ValueError: dimension is not in 1..32768.
            Conflict: it is there with another dimension.
        """
        ...

    def exists(self, collection: str) -> bool:
        """Whether there is such a collection."""
        ...

    def collections(self, prefix: str) -> list[str]:
        """The names of all collections that begin so, in order, whoever made them."""
        ...

    def dimension(self, collection: str) -> int:
        """How many numbers a vector of it has."""
        ...

    def drop(self, collection: str) -> None:
        """Remove a collection with all its vectors; nothing happens if there is none."""
        ...

    def upsert(
        self, collection: str, ids: Sequence[int], vectors: Vectors, facets: Sequence[Facets] | None = None
    ) -> None:
        """Write vectors (n, d) under ids (n), replacing what was there; of a doubled id the last counts.

        Args:
            facets: what each can be filtered by (n); left out where `filters(collection)` is False.

        Raises:
            ValueError: a shape does not fit, or a vector is zero or not finite.
        """
        ...

    def delete(self, collection: str, ids: Sequence[int]) -> None:
        """Remove the vectors of these ids, where there are any."""
        ...

    def filters(self, collection: str) -> bool:
        """Whether it keeps facets, so that `search` can be told `where`.

        Not on Milvus Lite, where a search with a condition takes ten times as long as one without, and not of
        collections that were made before there were facets.
        """
        ...

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
        """The nearest neighbours of each of vectors (q, d), best first, equal scores by id.

        Among many vectors an approximate index may miss a few, and with a condition or more than some 1,000 ids a
        few more. Where `limit` is at least the number of ids, all of them are found.

        Args:
            among: only these ids.
            where: only those that meet the condition; only where `filters(collection)`.

        Raises:
            ValueError: limit is not in 1..16384, a shape does not fit, or a vector is zero or not finite.
        """
        ...

    def fetch(self, collection: str, ids: Sequence[int], *, strong: bool = False) -> dict[int, Vectors]:
        """The vectors (d) of those ids that are there."""
        ...

    def present(self, collection: str, ids: Sequence[int], *, strong: bool) -> set[int]:
        """Those of the ids that are there."""
        ...

    def count(self, collection: str, *, strong: bool = True) -> int:
        """How many vectors there are."""
        ...

    def ids(self, collection: str, *, after: int = -1, batch: int = 10_000) -> Iterator[list[int]]:
        """All ids beyond `after` in ascending order; each batch sees all that was acknowledged before it was read."""
        ...

    def barrier(self, collection: str) -> None:
        """Wait until all that was acknowledged before this call is visible to every later read."""
        ...

    def seal(self, collection: str) -> None:
        """Have what was written lately indexed as the rest is: until then searches may miss more of it.

        Soon, not by the time this returns. After many writes; few are compared one by one anyway.
        """
        ...

    def check(self) -> None:
        """Return if the server answers."""
        ...

    def close(self) -> None:
        """Release the connection; a later call opens another."""
        ...
