"""The similar items of a product page: ranked once a minute at most, looked up in SQL for every visitor.

What is kept in the cache is ids and scores. SQL says for every visitor which index is live, what is there and matches
the filter, and when each item last changed: what is shown of an item, its title, price and stock among it, is read and
written out anew when it has. So one small statement is all that most visitors cost.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final, NamedTuple

import msgpack
from sqlalchemy import select

from services import kept_vectors
from services.caching import Recent, recall_many, remember_soon
from services.catalog import found
from services.catalog.filters import Attribute
from services.catalog.found import Found, ItemInIndex, Known
from services.catalog.models import Embedding
from services.catalog.states import EmbeddingState
from services.catalog.stock import stock
from services.encoders.calibration import Likeness, likeness
from services.same_kind import same_kind
from services.search import ranked, similar
from services.search.known import manifest_of, met, vectors_of
from services.search.request import Options
from services.search.similar import SPARE
from services.wiring import Services

KEPT_SECONDS: Final = 60
# As they are sent; as objects, with what was chosen of them, they take ten times as much.
RANKING_BYTES: Final = 2 * 1024 * 1024


@dataclass(frozen=True)
class Question:
    """What a product page asks.

    Attributes:
        fill_by: where there are fewer hits than wanted, the newest items with the same value of it follow.
    """

    catalog_id: int
    item_id: str
    options: Options
    fill_by: Attribute | None = None

    @cached_property
    def cached_under(self) -> str:
        """The name of the ranking in the cache, without PREFIX."""
        asked = hashlib.sha256(repr((self.item_id, self.options, self.fill_by)).encode()).hexdigest()
        return f"shelf:{self.catalog_id}:{asked[:32]}"


class Hit(NamedTuple):
    """A look-alike."""

    image_id: int
    score: float
    likeness: Likeness | None


@dataclass(frozen=True)
class Choice:
    """Pictures of an index to be shown: look-alikes, best first, and others that fill the places left.

    Attributes:
        changed_at: when the item of each picture last changed.
        rows: of some of them, what SQL said a moment ago.
        early: the item has no vector yet but will have one, so that in a moment there may be hits.
    """

    collection: str
    index_id: int
    encoder: str
    hits: tuple[Hit, ...]
    others: tuple[int, ...]
    changed_at: Mapping[int, datetime]
    rows: Mapping[int, Known | Found]
    early: bool

    @cached_property
    def version(self) -> str:
        """Other than that of every choice that is shown otherwise, of this catalog or another."""
        moments = [(image_id, moment.timestamp()) for image_id, moment in sorted(self.changed_at.items())]
        told: bytes = msgpack.packb((self.collection, self.encoder, self.hits, self.others, moments))
        return hashlib.sha256(told).hexdigest()[:32]


class _Ranking(NamedTuple):
    """Ids of pictures in an index: of look-alikes with their scores and likenesses, and of others.

    Attributes:
        until: when it ends, in Unix seconds.
    """

    collection: str
    index_id: int
    encoder: str
    hits: tuple[Hit, ...]
    others: tuple[int, ...]
    until: float


class _Last(NamedTuple):
    """A ranking, what SQL said of its pictures when it was last asked, and what was chosen of them then."""

    ranking: _Ranking
    changed_at: Mapping[int, datetime] | None = None
    choice: Choice | None = None


# Rankings that this process has made or met. Those of another database have none of this one's collections.
_rankings: Recent[str, _Last] = Recent(RANKING_BYTES, seconds=KEPT_SECONDS)


def choose(services: Services, question: Question) -> Choice:
    """The similar items of an item.

    Raises:
        NotFound: the catalog has no such item, or was deleted.
        Unavailable: nothing is kept and Milvus does not answer.
    """
    last = _own(question)
    changed_at = None if last is None else _stocked(services, question, last.ranking)
    if last is not None and changed_at is not None:
        if last.choice is None or changed_at != last.changed_at:
            last = _Last(last.ranking, changed_at, _chosen(question, last.ranking, changed_at))
            _keep(question, last)
        assert last.choice is not None
        return last.choice
    with services.database.rows() as connection:
        item = found.item_in_live_index(connection, question.catalog_id, question.item_id, ranked.MOST_QUERIES)
    if last is None:
        ranking = _recalled(services, question, item)
        changed_at = None if ranking is None else _stocked(services, question, ranking)
        if ranking is not None and changed_at is not None:
            return _chosen(question, ranking, changed_at)
    fresh = _rank(services, question, item)
    return _chosen(question, fresh.ranking, fresh.changed_at, fresh.rows, fresh.early)


def shown(services: Services, catalog_id: int, choice: Choice) -> dict[int, Found]:
    """What is shown of each picture; those that are gone by now are missing."""
    rows = {image_id: row for image_id in choice.changed_at if isinstance(row := choice.rows.get(image_id), Found)}
    unread = [image_id for image_id in choice.changed_at if image_id not in rows]
    if unread:
        with services.database.rows() as connection:
            rows |= found.found(connection, catalog_id, unread)
    return rows


def _chosen(
    question: Question,
    ranking: _Ranking,
    changed_at: Mapping[int, datetime],
    rows: Mapping[int, Known | Found] | None = None,
    early: bool = False,
) -> Choice:
    """Of a ranking, as many as are wanted of those that are there."""
    limit = question.options.limit
    hits = tuple(hit for hit in ranking.hits if hit.image_id in changed_at)[:limit]
    others = tuple(image_id for image_id in ranking.others if image_id in changed_at)[: limit - len(hits)]
    moments = {image_id: changed_at[image_id] for image_id in (*(hit.image_id for hit in hits), *others)}
    return Choice(ranking.collection, ranking.index_id, ranking.encoder, hits, others, moments, rows or {}, early)


def _stocked(services: Services, question: Question, ranking: _Ranking) -> Mapping[int, datetime] | None:
    """Which pictures of a kept ranking are there now, and when their items last changed; None where too few are."""
    limit, collection = question.options.limit, ranking.collection
    ids = [hit.image_id for hit in ranking.hits]
    with services.database.rows() as connection:
        if not ids and not ranking.others:
            item = found.item_in_live_index(connection, question.catalog_id, question.item_id, 1)
            return {} if item.index.collection == collection else None

        def there(image_ids: Sequence[int]) -> dict[int, datetime]:
            found = stock(connection, question.catalog_id, question.item_id, image_ids, question.options.filter)
            return found.changed_at if found and found.collection == collection else {}

        changed_at = there([*ids[:limit], *ranking.others])
        if len(ids) > limit and sum(image_id in changed_at for image_id in ids) < limit:
            changed_at |= there(ids[limit:])  # some are gone or sold out
    if not changed_at or sum(image_id in changed_at for image_id in ids) < min(limit, len(ids)):
        return None
    return changed_at


class _Ranked(NamedTuple):
    """A new ranking, what SQL said of its pictures, when its items last changed, and whether it is early for one."""

    ranking: _Ranking
    rows: Mapping[int, Known | Found]
    changed_at: Mapping[int, datetime]
    early: bool


def _rank(services: Services, question: Question, item: ItemInIndex) -> _Ranked:
    """Rank, and keep that for a while."""
    # Asked before: a vector that is written meanwhile makes no ranking without it one to be kept.
    vectors = vectors_of(services, item.index, item.image_ids, strong=question.options.strong)
    fresh = similar.rank(services, question.catalog_id, item, vectors, question.options)
    others = _fill(services, question, item, [fresh.rows[image_id].item_pk for image_id, _ in fresh.scores])
    calibration = manifest_of(services, item.index).calibration
    hits = tuple(Hit(image_id, score, likeness(calibration, score)) for image_id, score in fresh.scores)
    until = time.time() + KEPT_SECONDS
    ranking = _Ranking(item.index.collection, item.index.id, item.index.encoder, hits, tuple(others), until)
    # One without hits is kept as well: that there are none takes the longest to find out.
    early = not vectors and _awaits_vector(services, item)
    if not early:
        remember_soon(services, question.cached_under, _keep(question, _Last(ranking)), KEPT_SECONDS)
    changed_at = {image_id: fresh.rows[image_id].updated_at for image_id, _ in fresh.scores} | others
    return _Ranked(ranking, fresh.rows, changed_at, early)


def _awaits_vector(services: Services, item: ItemInIndex) -> bool:
    """Whether a picture of an item that has no vector will have one; not where embedding them failed.

    One that is marked as indexed counts: its vector was written a moment ago, and Milvus does not show it yet.
    """
    if not item.image_ids:
        return False
    waiting = (
        select(Embedding.id)
        .where(Embedding.image_id.in_(item.image_ids), Embedding.index_id == item.index.id)
        .where(Embedding.state.in_([EmbeddingState.PENDING, EmbeddingState.LEASED, EmbeddingState.INDEXED]))
        .limit(1)
    )
    with services.database.rows() as connection:
        return connection.scalar(waiting) is not None


def _fill(services: Services, question: Question, item: ItemInIndex, hits: Sequence[int]) -> dict[int, datetime]:
    """Where there are too few hits, by primary keys of items, pictures of others and when their items changed."""
    limit = question.options.limit
    if question.fill_by is None or len(hits) >= limit:
        return {}
    with services.database.rows() as connection:
        return same_kind(
            connection,
            question.catalog_id,
            item.item_pk,
            question.fill_by,
            wanted=question.options.filter,
            without={item.item_pk, *hits},
            most=limit + SPARE,
        )


def _own(question: Question) -> _Last | None:
    """The ranking that this process has made or met a moment ago."""
    last = _rankings.get(question.cached_under)
    return None if last is None or last.ranking.until < time.time() else last


def _keep(question: Question, last: _Last) -> bytes:
    """Have this process keep a ranking; returns it packed."""
    packed: bytes = msgpack.packb(last.ranking)
    _rankings.put(question.cached_under, last, len(packed))
    return packed


def _recalled(services: Services, question: Question, item: ItemInIndex) -> _Ranking | None:
    """The ranking that another process has kept; and, in the same round trip, vectors for one if there is none."""
    names = kept_vectors.names(item.index.collection, item.image_ids)
    packed, *vectors = recall_many(services, [question.cached_under, *names])
    met(item.index, kept_vectors.unpacked(item.image_ids, vectors))
    if packed is None:
        return None
    told = _Ranking(*msgpack.unpackb(packed, use_list=False))
    hits = (Hit(image_id, score, likeness and Likeness(*likeness)) for image_id, score, likeness in told.hits)
    ranking = told._replace(hits=tuple(hits))
    _rankings.put(question.cached_under, _Last(ranking), len(packed))
    return ranking
