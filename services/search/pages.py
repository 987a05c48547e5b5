"""Rankings that are kept for a while, so that pages neither repeat nor skip whatever happens between them.

A cursor is a random token, which names the ranking in the cache, with the place to go on from and the rank of the next
hit. What was deleted since, or does not match the filter any more, is left out; what was added since is not in it. A
picture stands for its item and its copies to the end: where it is deleted, no other of them takes its place.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import msgpack
import numpy as np
import redis

from services.caching import PREFIX
from services.catalog import filters, found
from services.catalog.filter_sql import to_sql
from services.catalog.found import Found, LiveIndex
from services.errors import Gone, Unavailable
from services.search import ranked
from services.search.answer import Answer, Match
from services.search.ranked import Scope
from services.search.stages import Stages
from services.wiring import Services

MOST_RANKED: Final = 1000
KEPT_SECONDS: Final = 600
_CURSOR: Final = re.compile(r"([A-Za-z0-9_-]{24})\.([0-9]{1,4})\.([0-9]{1,4})")


@dataclass(frozen=True)
class Frozen:
    """A ranking: ids of images with their scores, of one catalog, index and filter."""

    catalog_id: int
    index_id: int
    filter_body: Mapping[str, Any] | None
    calibrated: bool
    scores: tuple[tuple[int, float], ...]

    def pack(self) -> bytes:
        """To the cache."""
        ids, scores = np.array([one for one, _ in self.scores], np.int64), np.array([one for _, one in self.scores])
        # As JSON, which it came as: MessagePack has no integers of more than 64 bits.
        wanted = json.dumps(self.filter_body)
        fields = (self.catalog_id, self.index_id, wanted, self.calibrated, ids.tobytes(), scores.tobytes())
        packed: bytes = msgpack.packb(fields)
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the cache."""
        catalog_id, index_id, wanted, calibrated, ids, scores = msgpack.unpackb(data)
        pairs = zip(np.frombuffer(ids, np.int64).tolist(), np.frombuffer(scores).tolist(), strict=True)
        return cls(catalog_id, index_id, json.loads(wanted), calibrated, tuple(pairs))


def freeze(services: Services, index: LiveIndex, frozen: Frozen, limit: int) -> tuple[list[Match], str | None]:
    """The first page of a ranking, which is kept if there is another, and the cursor of that.

    Raises:
        Unavailable: the cache does not answer.
    """
    token = secrets.token_urlsafe(18)
    matches, cursor = _page(Scope(services, frozen.catalog_id, index, Stages()), frozen, f"{token}.0.0", limit)
    if cursor is not None:
        try:
            services.cache.set(_name(token), frozen.pack(), ex=KEPT_SECONDS)
        except redis.RedisError as error:
            raise _away() from error
    return matches, cursor


def page(services: Services, catalog_id: int, cursor: str, limit: int) -> Answer:
    """The page of a cursor.

    Raises:
        Gone: it is unknown, of another catalog, or was kept long enough.
        Unavailable: the cache or the database does not answer.
    """
    stages = Stages()
    matched = _CURSOR.fullmatch(cursor)
    if matched is None:
        raise _expired()
    try:
        kept = services.cache.get(_name(matched[1]))
    except redis.RedisError as error:
        raise _away() from error
    frozen = Frozen.unpack(kept) if isinstance(kept, bytes) else None
    if frozen is None or frozen.catalog_id != catalog_id:
        raise _expired()
    with services.database.rows() as connection:
        index = found.index(connection, frozen.index_id)
    if index is None:
        raise _expired()
    matches, following = _page(Scope(services, catalog_id, index, stages), frozen, cursor, limit)
    return Answer(matches, index, stages.total_ms, following)


def _page(scope: Scope, frozen: Frozen, cursor: str, limit: int) -> tuple[list[Match], str | None]:
    token, begin, answered = cursor.split(".")
    condition = None if frozen.filter_body is None else to_sql(filters.parse(frozen.filter_body))
    rows: dict[int, Found] = {}
    living: list[int] = []
    position = int(begin)
    # One more than wanted, which is where the next page begins.
    while len(living) <= limit and position < len(frozen.scores):
        piece = frozen.scores[position : position + limit + 1]
        with scope.services.database.rows() as connection:
            there = found.found(connection, scope.catalog_id, [image_id for image_id, _ in piece], condition)
        living += [position + place for place, (image_id, _) in enumerate(piece) if image_id in there]
        rows |= there
        position += len(piece)
    matches = ranked.matches(
        scope.services, scope.catalog_id, scope.index, [frozen.scores[place] for place in living[:limit]],
        wanted=None, limit=limit, rows=rows, calibrated=frozen.calibrated, first_rank=int(answered) + 1,
    )  # fmt: skip
    following = f"{token}.{living[limit]}.{int(answered) + limit}" if len(living) > limit else None
    return matches, following


def _name(token: str) -> str:
    return f"{PREFIX}page:{token}"


def _expired() -> Gone:
    return Gone("this cursor is unknown, or ten minutes have passed: search again", code="cursor_expired")


def _away() -> Unavailable:
    return Unavailable("the cache, which keeps rankings for their next pages, does not answer", part="cache")
