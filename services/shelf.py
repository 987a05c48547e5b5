"""The similar items of a product page: ranked once a minute at most, looked up in SQL for every visitor.

What is kept in the cache is ids and scores. SQL says for every visitor which index is live, what is there and matches
the filter, and when each item last changed: what is shown of an item, its title, price and stock among it, is read and
written out anew when it has. So one small statement is all that most visitors cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any, Final

import msgpack
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from services.catalog import found
from services.catalog.filter_sql import to_sql
from services.catalog.filters import Among, Attribute, Scalar
from services.catalog.found import Found
from services.catalog.models import Image, Item
from services.catalog.stock import stock
from services.encoders.calibration import Likeness, LikenessKind, likeness
from services.search import ranked, similar
from services.search.caching import PREFIX, Recent, remember
from services.search.known import manifest_of
from services.search.request import Options
from services.search.similar import SPARE, ItemInIndex
from services.search.stages import Stages
from services.wiring import Services

KEPT_SECONDS: Final = 60
# Among so many pictures of the catalog, the newest, items of the same kind are looked for.
NEWEST: Final = 20_000
RENDERED_BYTES: Final = 16 * 1024 * 1024


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

    @property
    def cached_under(self) -> str:
        """The name of the ranking in the cache, without PREFIX."""
        asked = hashlib.sha256(repr((self.item_id, self.options, self.fill_by)).encode()).hexdigest()
        return f"similar:{self.catalog_id}:{asked[:32]}"

    @property
    def key(self) -> str:
        """The key of the ranking in the cache's Redis."""
        return PREFIX + self.cached_under


@dataclass(frozen=True)
class Hit:
    """A look-alike; `shown` is what the caller's `render` made of it."""

    score: float
    likeness: Likeness | None
    shown: str


@dataclass(frozen=True)
class Shelf:
    """Look-alikes, best first, and others that fill the places left."""

    hits: list[Hit]
    others: list[str]
    index_id: int
    encoder: str
    took_ms: float


@dataclass(frozen=True)
class _Ranking:
    """Ids of pictures in an index: of look-alikes with their scores and likenesses, and of others."""

    collection: str
    index_id: int
    encoder: str
    scored: tuple[tuple[int, float, tuple[LikenessKind, float] | None], ...]
    others: tuple[int, ...]


Render = Callable[[Found], str]
# What was rendered of pictures, by collection (its name is random, so no other database's can be met), id and when
# the item last changed.
_rendered: Recent[tuple[str, int, datetime], str] = Recent(RENDERED_BYTES, seconds=600)


def fill(services: Services, question: Question, kept: bytes | None, render: Render) -> Shelf:
    """The similar items of an item.

    Args:
        kept: what the cache has under `question.key`.
        render: what is shown of a picture. It is asked once for as long as the item stays as it is.

    Raises:
        NotFound: the catalog has no such item, or was deleted.
        Unavailable: nothing is kept and Milvus does not answer.
    """
    stages = Stages()
    ranking = None if kept is None else _unpacked(kept)
    shown = None if ranking is None else _stocked(services, question, ranking, render)
    if ranking is None or shown is None:
        ranking, rows = _rank(services, question)
        shown = {image_id: _render(ranking.collection, row, render) for image_id, row in rows.items()}
    limit = question.options.limit
    hits = [
        Hit(score, likeness and Likeness(*likeness), shown[image_id])
        for image_id, score, likeness in ranking.scored
        if image_id in shown
    ][:limit]
    others = [shown[image_id] for image_id in ranking.others if image_id in shown][: limit - len(hits)]
    return Shelf(hits, others, ranking.index_id, ranking.encoder, stages.total_ms)


def _stocked(services: Services, question: Question, ranking: _Ranking, render: Render) -> dict[int, str] | None:
    """What is shown now of a kept ranking; None where that does not suffice any more."""
    limit, collection = question.options.limit, ranking.collection
    ids = [image_id for image_id, *_ in ranking.scored]
    with services.database.rows() as connection:

        def there(image_ids: Sequence[int]) -> dict[int, datetime]:
            found = stock(connection, question.catalog_id, question.item_id, image_ids, question.options.filter)
            return found.changed_at if found and found.collection == collection else {}

        changed_at = there([*ids[:limit], *ranking.others])
        if len(ids) > limit and sum(image_id in changed_at for image_id in ids) < limit:
            changed_at |= there(ids[limit:])  # some are gone or sold out
    if not changed_at or sum(image_id in changed_at for image_id in ids) < min(limit, len(ids)):
        return None
    known = {image_id: _rendered.get((collection, image_id, moment)) for image_id, moment in changed_at.items()}
    shown = {image_id: text for image_id, text in known.items() if text is not None}
    if len(shown) < len(known):
        unknown = [image_id for image_id in known if image_id not in shown]
        with services.database.reading() as session:
            rows = found.found(session, question.catalog_id, unknown)
        shown |= {image_id: _render(collection, row, render) for image_id, row in rows.items()}
    return shown


def _render(collection: str, row: Found, render: Render) -> str:
    key = (collection, row.id, row.updated_at)
    text = _rendered.get(key)
    if text is None:
        text = render(row)
        _rendered.put(key, text, len(text))
    return text


def _rank(services: Services, question: Question) -> tuple[_Ranking, Mapping[int, Found]]:
    """A new ranking, which is kept for a while, and what SQL knows of it."""
    with services.database.reading() as session:
        item = ItemInIndex(
            *found.item_in_live_index(session, question.catalog_id, question.item_id, ranked.MOST_QUERIES)
        )
    fresh = similar.rank(services, question.catalog_id, item, question.options)
    wanted = question.options.filter
    condition = None if wanted is None else to_sql(wanted)
    unknown = [image_id for image_id, _ in fresh.scores if image_id not in fresh.rows]
    filling = question.fill_by is not None and len(fresh.scores) < question.options.limit
    rows = fresh.rows
    others: tuple[int, ...] = ()
    if unknown or filling:
        with services.database.reading() as session:
            rows = {**rows, **found.found(session, question.catalog_id, unknown, condition)}
            if filling:
                hits = (rows[image_id].item_pk for image_id, _ in fresh.scores if image_id in rows)
                others = _same_kind(session, question, item, {item.item_pk, *hits}, condition)
                rows |= found.found(session, question.catalog_id, others, condition)
    calibration = manifest_of(services, item.index).calibration
    scored = tuple((image_id, score, likeness(calibration, score)) for image_id, score in fresh.scores)
    ranking = _Ranking(item.index.collection, item.index.id, item.index.encoder, scored, others)
    # An item without hits may be one that is about to become searchable.
    if scored or others:
        packed: bytes = msgpack.packb(astuple(ranking))
        remember(services, question.cached_under, packed, KEPT_SECONDS)
    return ranking, rows


def _unpacked(kept: bytes) -> _Ranking:
    return _Ranking(*msgpack.unpackb(kept, use_list=False))


def _same_kind(
    session: Session,
    question: Question,
    item: ItemInIndex,
    without: Collection[int],
    condition: ColumnElement[bool] | None,
) -> tuple[int, ...]:
    """A picture of each of the newest items that have the same value of the attribute `fill_by`."""
    by = question.fill_by
    assert by is not None
    values = _values(session.scalar(select(Item.attributes).where(Item.id == item.item_pk)), by)
    if not values:
        return ()
    newest = (
        select(Image.id, Image.item_pk)
        .where(Image.catalog_id == question.catalog_id, Image.deleted_at.is_(None))
        .order_by(Image.id.desc())
        .limit(NEWEST)
        .subquery()
    )
    most = question.options.limit + SPARE
    asked = (
        select(newest.c.id, newest.c.item_pk)
        .join(Item, Item.id == newest.c.item_pk)
        .where(to_sql(Among(by, values)), Item.id.not_in(without))
        .order_by(newest.c.id.desc())
        .limit(most * 4)  # of items with several pictures only one is shown
    )
    rows = session.execute(asked if condition is None else asked.where(condition))
    return tuple({row.item_pk: row.id for row in rows}.values())[:most]


def _values(attributes: Any, by: Attribute) -> tuple[Scalar, ...]:
    """What a filter can ask for of an attribute: its value, or the members of a list."""
    value = attributes
    for name in by.path:
        value = value.get(name) if isinstance(value, Mapping) else None
    members = value if isinstance(value, list) else [value]
    return tuple(member for member in members if isinstance(member, str | int | float))
