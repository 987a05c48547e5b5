"""The similar items of a product page: ranked once a minute at most, looked up in SQL for every visitor.

What is kept in the cache is ids and scores. SQL says for every visitor which index is live, what is there and matches
the filter, and when each item last changed: what is shown of an item, its title, price and stock among it, is read and
written out anew when it has. So one small statement is all that most visitors cost.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgpack
from sqlalchemy import Connection, func, select

from services import kept_vectors
from services.caching import Recent, recall_many, remember_soon
from services.catalog import found
from services.catalog.filter_sql import to_sql
from services.catalog.filters import Among, Attribute, Scalar
from services.catalog.found import Found, Known
from services.catalog.models import Image, Item
from services.catalog.stock import stock
from services.encoders.calibration import Likeness, LikenessKind, likeness
from services.search import ranked, similar
from services.search.known import manifest_of, met, vectors_of
from services.search.request import Options
from services.search.similar import SPARE, ItemInIndex
from services.wiring import Services

KEPT_SECONDS: Final = 60
# Among so many pictures of the catalog, the newest, items of the same kind are looked for.
NEWEST: Final = 20_000
RENDERED_BYTES: Final = 16 * 1024 * 1024
# As they are sent; as objects they take some times as much.
RANKING_BYTES: Final = 4 * 1024 * 1024


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
        early: the item has pictures but no vector yet, so that in a moment there may be hits.
    """

    collection: str
    index_id: int
    encoder: str
    hits: tuple[Hit, ...]
    others: tuple[int, ...]
    changed_at: Mapping[int, datetime]
    rows: Mapping[int, Known | Found]
    early: bool

    @property
    def version(self) -> str:
        """Other than that of every choice that is shown otherwise."""
        # Of plain values: named ones take three times as long to write.
        told = (
            self.index_id,
            self.encoder,
            [
                (hit.image_id, hit.score, hit.likeness and (hit.likeness.kind, hit.likeness.probability))
                for hit in self.hits
            ],
            self.others,
            [(image_id, moment.isoformat()) for image_id, moment in sorted(self.changed_at.items())],
        )
        return hashlib.sha256(repr(told).encode()).hexdigest()[:32]


class _Ranking(NamedTuple):
    """Ids of pictures in an index: of look-alikes with their scores and likenesses, and of others.

    Attributes:
        until: when it ends, in Unix seconds.
    """

    collection: str
    index_id: int
    encoder: str
    scored: tuple[tuple[int, float, tuple[LikenessKind, float] | None], ...]
    others: tuple[int, ...]
    until: float


Attributes = frozenset[str] | None
Render = Callable[[Found, Attributes], str]
# Rankings that this process has made or met. Those of another database have none of this one's collections.
_rankings: Recent[str, _Ranking] = Recent(RANKING_BYTES, seconds=KEPT_SECONDS)
# What was rendered of pictures, by collection (its name is random, so no other database's can be met), id, when the
# item last changed and which of its attributes are shown.
_rendered: Recent[tuple[str, int, datetime, Attributes], str] = Recent(RENDERED_BYTES, seconds=600)


def choose(services: Services, question: Question) -> Choice:
    """The similar items of an item.

    Raises:
        NotFound: the catalog has no such item, or was deleted.
        Unavailable: nothing is kept and Milvus does not answer.
    """
    ranking = _own(question)
    changed_at = None if ranking is None else _stocked(services, question, ranking)
    rows: Mapping[int, Known | Found] = {}
    early = False
    if ranking is None or changed_at is None:
        with services.database.rows() as connection:
            item = ItemInIndex(
                *found.item_in_live_index(connection, question.catalog_id, question.item_id, ranked.MOST_QUERIES)
            )
        ranking = _recalled(services, question, item) if ranking is None else None
        changed_at = None if ranking is None else _stocked(services, question, ranking)
        if ranking is None or changed_at is None:
            ranking, rows, changed_at, early = _rank(services, question, item)
    limit = question.options.limit
    hits = tuple(
        Hit(image_id, score, likeness and Likeness(*likeness))
        for image_id, score, likeness in ranking.scored
        if image_id in changed_at
    )[:limit]
    others = tuple(image_id for image_id in ranking.others if image_id in changed_at)[: limit - len(hits)]
    chosen = {image_id: changed_at[image_id] for image_id in (*(hit.image_id for hit in hits), *others)}
    return Choice(ranking.collection, ranking.index_id, ranking.encoder, hits, others, chosen, rows, early)


def shown(
    services: Services, catalog_id: int, choice: Choice, attributes: Attributes, render: Render
) -> dict[int, str]:
    """What is shown of each picture; those that are gone by now are missing.

    Args:
        attributes: those of an item that are shown; None for all.
        render: what is shown of a picture. It is asked once for as long as the item stays as it is.
    """
    collection = choice.collection
    kept = {
        image_id: _rendered.get((collection, image_id, moment, attributes))
        for image_id, moment in choice.changed_at.items()
    }
    texts = {image_id: text for image_id, text in kept.items() if text is not None}
    unknown = [image_id for image_id in kept if image_id not in texts]
    rows = [row for image_id in unknown if isinstance(row := choice.rows.get(image_id), Found)]
    unread = set(unknown) - {row.id for row in rows}
    if unread:
        with services.database.rows() as connection:
            rows += found.found(connection, catalog_id, sorted(unread)).values()
    for row in rows:
        texts[row.id] = text = render(row, attributes)
        _rendered.put((collection, row.id, row.updated_at, attributes), text, len(text))
    return texts


def _stocked(services: Services, question: Question, ranking: _Ranking) -> Mapping[int, datetime] | None:
    """Which pictures of a kept ranking are there now, and when their items last changed; None where too few are."""
    limit, collection = question.options.limit, ranking.collection
    ids = [image_id for image_id, *_ in ranking.scored]
    with services.database.rows() as connection:
        if not ids and not ranking.others:
            index, *_ = found.item_in_live_index(connection, question.catalog_id, question.item_id, 1)
            return {} if index.collection == collection else None

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
    others: dict[int, datetime] = {}
    if question.fill_by is not None and len(fresh.scores) < question.options.limit:
        hits = (fresh.rows[image_id].item_pk for image_id, _ in fresh.scores)
        with services.database.rows() as connection:
            others = _same_kind(connection, question, item, {item.item_pk, *hits})
    calibration = manifest_of(services, item.index).calibration
    scored = tuple((image_id, score, likeness(calibration, score)) for image_id, score in fresh.scores)
    until = time.time() + KEPT_SECONDS
    ranking = _Ranking(item.index.collection, item.index.id, item.index.encoder, scored, tuple(others), until)
    # One without hits is kept as well: that there are none takes the longest to find out.
    early = bool(item.image_ids) and not vectors
    if not early:
        packed: bytes = msgpack.packb(ranking)
        _rankings.put(question.cached_under, ranking, len(packed))
        remember_soon(services, question.cached_under, packed, KEPT_SECONDS)
    changed_at = {image_id: fresh.rows[image_id].updated_at for image_id, _ in fresh.scores} | others
    return _Ranked(ranking, fresh.rows, changed_at, early)


def _own(question: Question) -> _Ranking | None:
    """The ranking that this process has made or met a moment ago."""
    ranking = _rankings.get(question.cached_under)
    return None if ranking is None or ranking.until < time.time() else ranking


def _recalled(services: Services, question: Question, item: ItemInIndex) -> _Ranking | None:
    """The ranking that another process has kept; and, in the same round trip, vectors for one if there is none."""
    names = kept_vectors.names(item.index.collection, item.image_ids)
    packed, *vectors = recall_many(services, [question.cached_under, *names])
    met(item.index, kept_vectors.unpacked(item.image_ids, vectors))
    if packed is None:
        return None
    ranking = _Ranking(*msgpack.unpackb(packed, use_list=False))
    _rankings.put(question.cached_under, ranking, len(packed))
    return ranking


def _same_kind(
    connection: Connection,
    question: Question,
    item: ItemInIndex,
    without: Collection[int],
) -> dict[int, datetime]:
    """The newest picture of each of the newest items with the same value of `fill_by`, and its item's `updated_at`."""
    by = question.fill_by
    assert by is not None
    values = _values(connection.scalar(select(Item.attributes).where(Item.id == item.item_pk)), by)
    if not values:
        return {}
    newest = (
        select(Image.id, Image.item_pk)
        .where(Image.catalog_id == question.catalog_id, Image.deleted_at.is_(None))
        .order_by(Image.id.desc())
        .limit(NEWEST)
        .subquery()
    )
    shown = func.max(newest.c.id)
    asked = (
        select(shown, Item.updated_at)
        .join(Item, Item.id == newest.c.item_pk)
        .where(to_sql(Among(by, values)), Item.id.not_in(without))
        .group_by(Item.id, Item.updated_at)
        .order_by(shown.desc())
        .limit(question.options.limit + SPARE)
    )
    wanted = question.options.filter
    rows = connection.execute(asked if wanted is None else asked.where(to_sql(wanted)))
    return {row[0]: row[1] for row in rows}


def _values(attributes: Any, by: Attribute) -> tuple[Scalar, ...]:
    """What a filter can ask for of an attribute: its value, or the members of a list."""
    value = attributes
    for name in by.path:
        value = value.get(name) if isinstance(value, Mapping) else None
    members = value if isinstance(value, list) else [value]
    return tuple(member for member in members if isinstance(member, str | int | float))
