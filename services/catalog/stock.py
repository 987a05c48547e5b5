"""What SQL knows now of pictures that were ranked before: one plain statement, made for being asked very often.

The statement is made of tables, once for each filter: making it of mapped classes, for every request anew, takes five
times as long as the database does.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, select

from services.catalog.filter_sql import to_sql
from services.catalog.filters import AsWritten, Filter
from services.catalog.models import Base
from services.catalog.prepared import PreparedAmong, Row, Statement


class Stock(NamedTuple):
    """Of pictures that are there and match, by id, when their items last changed; and the live index's collection."""

    collection: str
    changed_at: dict[int, datetime]


def stock(
    connection: Connection, catalog_id: int, item_id: str, image_ids: Sequence[int], wanted: Filter | None
) -> Stock | None:
    """What is there of pictures that were found for an item; None where nothing is, be it that the item is gone."""
    rows: Sequence[Row]
    if wanted is None:
        rows = _UNFILTERED.rows(connection, image_ids, catalog=catalog_id, item=item_id)
    else:
        asked = {"catalog": catalog_id, "item": item_id, "ids": image_ids}
        rows = connection.execute(_filtered(AsWritten(wanted)), asked).all()
    return Stock(rows[0][0], {image_id: changed_at for _, image_id, changed_at in rows}) if rows else None


def _among(ids: Any) -> Statement:
    catalogs, indexes, images, items = (
        Base.metadata.tables[name] for name in ("catalogs", "indexes", "images", "items")
    )
    asking = items.alias("asking")
    return (
        select(indexes.c.collection, images.c.id, items.c.updated_at)
        .select_from(catalogs)
        .join(indexes, indexes.c.id == catalogs.c.live_index_id)
        .join(asking, and_(asking.c.catalog_id == catalogs.c.id, asking.c.item_id == bindparam("item")))
        .join(images, images.c.catalog_id == catalogs.c.id)
        .join(items, items.c.id == images.c.item_pk)
        .where(catalogs.c.id == bindparam("catalog"), images.c.id.in_(ids), images.c.deleted_at.is_(None))
    )


_UNFILTERED = PreparedAmong(_among)


@lru_cache(256)
def _filtered(by: AsWritten) -> Statement:
    assert by.wanted is not None
    return _among(bindparam("ids", expanding=True)).where(to_sql(by.wanted))
