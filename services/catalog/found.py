"""What searches read: the live index, what is searched with, and the pictures found, as plain rows.

Rows and not objects: a search reads a few dozen of them, and making objects of them would cost more than the query.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, ColumnElement, Connection, Select, and_, bindparam, select

from services.catalog.models import Catalog, EncoderRow, Image, IndexRow, Item
from services.catalog.prepared import IDS_AT_ONCE, Prepared, PreparedAmong, Row, Statement
from services.errors import NotFound


@dataclass(frozen=True)
class LiveIndex:
    """What a search needs to know of an index and its encoder."""

    id: int
    collection: str
    encoder_sha256: str
    encoder_name: str
    encoder_version: int
    dimension: int

    @property
    def encoder(self) -> str:
        """`name@version`."""
        return f"{self.encoder_name}@{self.encoder_version}"


@dataclass(frozen=True)
class ItemInIndex:
    """An item by its primary key, its oldest living pictures, and the index that is live."""

    index: LiveIndex
    item_pk: int
    image_ids: tuple[int, ...]


class Known(NamedTuple):
    """A picture of the catalog, and when its item last changed."""

    id: int
    item_pk: int
    sha256: str
    updated_at: datetime


class Found(NamedTuple):
    """A picture of the catalog with its item, whose members are those from `item_id` on."""

    id: int
    item_pk: int
    sha256: str
    format: str
    width: int
    height: int
    size_bytes: int
    image_created_at: datetime
    item_id: str
    title: str | None
    url: str | None
    attributes: dict[str, Any]
    created_at: datetime
    updated_at: datetime


_CATALOG: BindParameter[int] = bindparam("catalog")
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_INDEX = (
    IndexRow.id,
    IndexRow.collection,
    EncoderRow.sha256,
    EncoderRow.name,
    EncoderRow.version,
    EncoderRow.dimension,
)
_KNOWN = (Image.id, Image.item_pk, Image.sha256, Item.updated_at)
_FOUND = (
    Image.id,
    Image.item_pk,
    Image.sha256,
    Image.format,
    Image.width,
    Image.height,
    Image.size_bytes,
    Image.created_at,
    Item.item_id,
    Item.title,
    Item.url,
    Item.attributes,
    Item.created_at,
    Item.updated_at,
)


def _in_live_index(*columns: Any) -> Statement:
    return (
        select(*_INDEX, *columns)
        .select_from(Catalog)
        .join(IndexRow, IndexRow.id == Catalog.live_index_id)
        .join(EncoderRow, EncoderRow.id == IndexRow.encoder_id)
        .where(Catalog.id == _CATALOG)
    )


def _among(columns: Sequence[Any], ids: Any) -> Statement:
    return (
        select(*columns)
        .join(Item, Item.id == Image.item_pk)
        .where(Image.id.in_(ids), Image.catalog_id == _CATALOG, Image.deleted_at.is_(None))
    )


# Made once: to make a statement takes longer than to run it.
_LIVING = and_(Image.item_pk == Item.id, Image.deleted_at.is_(None))
_LIVE_INDEX = Prepared(_in_live_index())
_ANY_INDEX = Prepared(select(*_INDEX).join(IndexRow.encoder).where(IndexRow.id == bindparam("index")))
_ITEM = Prepared(
    _in_live_index(Item.id, Image.id)
    .outerjoin(Item, and_(Item.catalog_id == Catalog.id, Item.item_id == bindparam("item")))
    .outerjoin(Image, _LIVING)
    .order_by(Image.id)
    .limit(bindparam("most"))
)
_ITEMS = (
    select(Item.item_id, Item.id, Image.id)
    .outerjoin(Image, _LIVING)
    .where(Item.catalog_id == _CATALOG, Item.item_id.in_(_IDS))
    .order_by(Image.id)
)


class _Among:
    """Columns of those of some pictures that are living, with a condition or without."""

    def __init__(self, columns: Sequence[Any]) -> None:
        self._all = PreparedAmong(lambda ids: _among(columns, ids))
        self._where = _among(columns, _IDS)

    def rows(
        self, connection: Connection, catalog_id: int, image_ids: Sequence[int], condition: ColumnElement[bool] | None
    ) -> list[Row]:
        if condition is None:
            return self._all.rows(connection, image_ids, catalog=catalog_id)
        asked = self._where.where(condition)
        rows: list[Row] = []
        for start in range(0, len(image_ids), IDS_AT_ONCE):
            ids = image_ids[start : start + IDS_AT_ONCE]
            rows += connection.execute(asked, {"catalog": catalog_id, "ids": ids}).all()
        return rows


_KNOWN_AMONG = _Among(_KNOWN)
_FOUND_AMONG = _Among(_FOUND)


def live_index(connection: Connection, catalog_id: int) -> LiveIndex:
    """The index that searches read.

    Raises:
        NotFound: the catalog was deleted.
    """
    rows = _LIVE_INDEX.rows(connection, {"catalog": catalog_id})
    if not rows:
        raise _deleted()
    return _index(rows[0])


def index(connection: Connection, index_id: int) -> LiveIndex | None:
    """An index that may no longer be live."""
    rows = _ANY_INDEX.rows(connection, {"index": index_id})
    return _index(rows[0]) if rows else None


def item_in_live_index(connection: Connection, catalog_id: int, item_id: str, most: int) -> ItemInIndex:
    """The live index and an item with its oldest `most` pictures, in one statement.

    Raises:
        NotFound: the catalog has no such item, or was deleted.
    """
    rows = _ITEM.rows(connection, {"catalog": catalog_id, "item": item_id, "most": most})
    if not rows:
        raise _deleted()
    *_, item_pk, _ = rows[0]
    if item_pk is None:
        raise no_item(item_id)
    return ItemInIndex(_index(rows[0]), item_pk, tuple(row[-1] for row in rows if row[-1] is not None))


def items(connection: Connection, catalog_id: int, item_ids: Collection[str]) -> dict[str, tuple[int, list[int]]]:
    """Primary key and living pictures, oldest first, of those of the items that are there."""
    there: dict[str, tuple[int, list[int]]] = {}
    for item_id, item_pk, image_id in connection.execute(_ITEMS, {"catalog": catalog_id, "ids": list(item_ids)}):
        pictures = there.setdefault(item_id, (item_pk, []))[1]
        if image_id is not None:
            pictures.append(image_id)
    return there


def known(
    connection: Connection, catalog_id: int, image_ids: Sequence[int], condition: ColumnElement[bool] | None = None
) -> dict[int, Known]:
    """Those of the pictures that are living and whose items meet the condition."""
    rows = _KNOWN_AMONG.rows(connection, catalog_id, image_ids, condition)
    return {row[0]: Known._make(row) for row in rows}


def found(
    connection: Connection, catalog_id: int, image_ids: Sequence[int], condition: ColumnElement[bool] | None = None
) -> dict[int, Found]:
    """The same with all that answers say of them."""
    rows = _FOUND_AMONG.rows(connection, catalog_id, image_ids, condition)
    return {row[0]: Found._make(row) for row in rows}


def matching(catalog_id: int, condition: ColumnElement[bool], most: int) -> Select[int]:
    """The ids of at most so many living pictures whose items meet a condition, in no order."""
    return (
        select(Image.id)
        .join(Item, Item.id == Image.item_pk)
        .where(Item.catalog_id == catalog_id, Image.deleted_at.is_(None), condition)
        .limit(most)
    )


def no_item(item_id: str) -> NotFound:
    """The error of an item that is not there."""
    return NotFound(f"there is no item {item_id!r} in this catalog", code="item_not_found")


def _index(row: Sequence[Any]) -> LiveIndex:
    return LiveIndex(*row[: len(_INDEX)])


def _deleted() -> NotFound:
    return NotFound("this catalog was deleted", code="catalog_not_found")
