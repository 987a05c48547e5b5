"""Items of the same kind as another, for a product page that has too few that look like it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, func, select

from services.catalog.filter_sql import to_sql
from services.catalog.filters import Among, Attribute, Filter, Scalar
from services.catalog.models import Image, Item

# Among so many pictures of the catalog, the newest, items of the same kind are looked for.
NEWEST: Final = 20_000


def same_kind(
    connection: Connection,
    catalog_id: int,
    item_pk: int,
    by: Attribute,
    *,
    wanted: Filter | None,
    without: Collection[int],
    most: int,
) -> dict[int, datetime]:
    """The newest picture of each of the newest items that have the same value, and when its item last changed.

    Args:
        by: the value of which attribute; of a list any member.
        wanted: what they shall match besides.
        without: primary keys of items that are not meant.
    """
    values = _values(connection.scalar(select(Item.attributes).where(Item.id == item_pk)), by)
    if not values:
        return {}
    newest = (
        select(Image.id, Image.item_pk)
        .where(Image.catalog_id == catalog_id, Image.deleted_at.is_(None))
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
        .limit(most)
    )
    rows = connection.execute(asked if wanted is None else asked.where(to_sql(wanted)))
    return {row[0]: row[1] for row in rows}


def _values(attributes: Any, by: Attribute) -> tuple[Scalar, ...]:
    """What a filter can ask for of an attribute: its value, or the members of a list."""
    value = attributes
    for name in by.path:
        value = value.get(name) if isinstance(value, Mapping) else None
    members = value if isinstance(value, list) else [value]
    return tuple(member for member in members if isinstance(member, str | int | float))
