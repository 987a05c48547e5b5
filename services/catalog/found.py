"""What searches read: the live index, what is searched with, and the pictures found, as plain rows.

Rows and not objects: a search reads a few dozen of them, and making objects of them would cost more than the query.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, ColumnElement, Connection, Result, Select, and_, bindparam, select

from services.catalog.models import Catalog, EncoderRow, Image, IndexRow, Item
from services.errors import NotFound

# SQLite takes 32,766 parameters in one statement.
IDS_AT_ONCE = 10_000


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


Rows = Select[*tuple[Any, ...]]

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


def _in_live_index(*columns: Any) -> Rows:
    return (
        select(*_INDEX, *columns)
        .select_from(Catalog)
        .join(IndexRow, IndexRow.id == Catalog.live_index_id)
        .join(EncoderRow, EncoderRow.id == IndexRow.encoder_id)
        .where(Catalog.id == _CATALOG)
    )


def _among(*columns: Any) -> Rows:
    return (
        select(*columns)
        .join(Item, Item.id == Image.item_pk)
        .where(Image.id.in_(_IDS), Image.catalog_id == _CATALOG, Image.deleted_at.is_(None))
    )


# Made once: to make a statement takes longer than to run it.
_LIVING = and_(Image.item_pk == Item.id, Image.deleted_at.is_(None))
_LIVE_INDEX = _in_live_index()
_ANY_INDEX = select(*_INDEX).join(IndexRow.encoder).where(IndexRow.id == bindparam("index"))
_ITEM = (
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
_KNOWN_AMONG, _FOUND_AMONG = _among(*_KNOWN), _among(*_FOUND)


def live_index(connection: Connection, catalog_id: int) -> LiveIndex:
    """The index that searches read.

    Raises:
        NotFound: the catalog was deleted.
    """
    row = _run(connection, _LIVE_INDEX, catalog=catalog_id).first()
    if row is None:
        raise _deleted()
    return _index(row)


def index(connection: Connection, index_id: int) -> LiveIndex | None:
    """An index that may no longer be live."""
    row = _run(connection, _ANY_INDEX, index=index_id).first()
    return None if row is None else _index(row)


def item_in_live_index(
    connection: Connection, catalog_id: int, item_id: str, most: int
) -> tuple[LiveIndex, int, tuple[int, ...]]:
    """The live index, and an item's primary key and its oldest `most` pictures, in one statement.

    Raises:
        NotFound: the catalog has no such item, or was deleted.
    """
    rows = _run(connection, _ITEM, catalog=catalog_id, item=item_id, most=most).all()
    if not rows:
        raise _deleted()
    *_, item_pk, _ = rows[0]
    if item_pk is None:
        raise no_item(item_id)
    return _index(rows[0]), item_pk, tuple(row[-1] for row in rows if row[-1] is not None)


def items(connection: Connection, catalog_id: int, item_ids: Collection[str]) -> dict[str, tuple[int, list[int]]]:
    """Primary key and living pictures, oldest first, of those of the items that are there."""
    there: dict[str, tuple[int, list[int]]] = {}
    for item_id, item_pk, image_id in _run(connection, _ITEMS, catalog=catalog_id, ids=list(item_ids)):
        pictures = there.setdefault(item_id, (item_pk, []))[1]
        if image_id is not None:
            pictures.append(image_id)
    return there


def known(
    connection: Connection, catalog_id: int, image_ids: Sequence[int], condition: ColumnElement[bool] | None = None
) -> dict[int, Known]:
    """Those of the pictures that are living and whose items meet the condition."""
    return {row[0]: Known._make(row) for row in _read(connection, _KNOWN_AMONG, catalog_id, image_ids, condition)}


def found(
    connection: Connection, catalog_id: int, image_ids: Sequence[int], condition: ColumnElement[bool] | None = None
) -> dict[int, Found]:
    """The same with all that answers say of them."""
    return {row[0]: Found._make(row) for row in _read(connection, _FOUND_AMONG, catalog_id, image_ids, condition)}


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


def _read(
    connection: Connection,
    statement: Rows,
    catalog_id: int,
    image_ids: Sequence[int],
    condition: ColumnElement[bool] | None,
) -> Iterator[Sequence[Any]]:
    asked = statement if condition is None else statement.where(condition)
    for start in range(0, len(image_ids), IDS_AT_ONCE):
        yield from _run(connection, asked, catalog=catalog_id, ids=image_ids[start : start + IDS_AT_ONCE])


def _run(connection: Connection, statement: Rows, **values: Any) -> Result[*tuple[Any, ...]]:
    return connection.execute(statement, values)


def _index(row: Sequence[Any]) -> LiveIndex:
    return LiveIndex(*row[: len(_INDEX)])


def _deleted() -> NotFound:
    return NotFound("this catalog was deleted", code="catalog_not_found")
