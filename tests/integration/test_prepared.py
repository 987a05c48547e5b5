"""Prepared statements answer as SQLAlchemy does, on both databases, and end in the same errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import BindParameter, bindparam, select, text

from services.catalog.database import Database, now
from services.catalog.models import Base, Catalog, Item
from services.catalog.prepared import IDS_AT_ONCE, LENGTHS, Prepared, PreparedAmong, Statement
from services.errors import Unavailable

COUNT = IDS_AT_ONCE + 5
MOMENT = datetime(2026, 2, 28, 23, 59, 59, 7, tzinfo=UTC)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(filled(database_url)) as database:
        yield database


def filled(url: str, count: int = COUNT) -> Database:
    database = Database(url)
    Base.metadata.create_all(database.engine)
    with database.transaction() as session:
        catalog = Catalog(name="50 % off: 'shop'")
        session.add(catalog)
        session.flush()
        session.bulk_insert_mappings(
            Item,
            [
                {
                    "catalog_id": catalog.id,
                    "item_id": f"item-{number}",
                    "title": None if number % 2 else "Ü",
                    "attributes": {"price": number / 4, "tags": ["a", None]},
                    "created_at": MOMENT + timedelta(microseconds=number),
                    "updated_at": MOMENT.astimezone(),
                }
                for number in range(count)
            ],
        )
    return database


COLUMNS = (Item.id, Item.item_id, Item.title, Item.attributes, Item.created_at, Item.updated_at)


def among(ids: Sequence[BindParameter[int]]) -> Statement:
    return select(*COLUMNS).where(Item.id.in_(ids), Item.catalog_id == bindparam("catalog"))


@pytest.mark.parametrize("count", [0, 1, 2, 13, *LENGTHS[-2:], COUNT])
def test_rows_of_a_list_of_ids_are_those_of_sqlalchemy(database: Database, count: int) -> None:
    prepared = PreparedAmong(among)
    with database.rows() as connection:
        (catalog_id,) = connection.scalars(select(Catalog.id))
        everything = {row.id: tuple(row) for row in connection.execute(select(*COLUMNS).order_by(Item.id))}
        ids = list(everything)[:count]

        rows = prepared.rows(connection, ids, catalog=catalog_id)
        elsewhere = prepared.rows(connection, ids, catalog=catalog_id + 1)

    assert sorted(map(tuple, rows)) == [everything[one] for one in ids]
    assert all(moment.tzinfo is not None and moment.utcoffset() == timedelta(0) for row in rows for moment in row[-2:])
    assert elsewhere == []


def test_texts_and_limits_are_told(database: Database) -> None:
    name = Prepared(select(Catalog.id, Catalog.live_index_id).where(Catalog.name == bindparam("name")))
    some = Prepared(select(Item.item_id).where(Item.title == "Ü").order_by(Item.id).limit(bindparam("most")))

    with database.rows() as connection:
        assert [row[1] for row in name.rows(connection, {"name": "50 % off: 'shop'"})] == [None]
        assert name.rows(connection, {"name": "' OR 1=1 --"}) == []
        assert [row[0] for row in some.rows(connection, {"most": 2})] == ["item-0", "item-2"]
        assert [row[0] for row in some.rows(connection, {"most": 1})] == ["item-0"]


def test_sees_what_was_committed_a_moment_ago(database: Database) -> None:
    title = Prepared(select(Item.title, Item.updated_at).where(Item.item_id == bindparam("item")))
    moment = now()

    with database.rows() as connection:
        before = title.rows(connection, {"item": "item-1"})
        with database.transaction() as session:
            session.execute(text("UPDATE items SET title = 'new' WHERE item_id = 'item-1'"))
            session.query(Item).filter(Item.item_id == "item-1").update({"updated_at": moment})
        after = title.rows(connection, {"item": "item-1"})

    assert [row[0] for row in before] == [None]
    assert [tuple(row) for row in after] == [("new", moment)]


@pytest.mark.postgres
def test_a_server_that_hangs_up_is_unavailable_and_the_next_connection_works(postgres_database: str) -> None:
    database = filled(postgres_database)
    ask = Prepared(select(Item.id).where(Item.item_id == bindparam("item")))

    with pytest.raises(Unavailable), database.rows() as connection:
        (own,) = connection.scalars(text("SELECT pg_backend_pid()"))
        with database.engine.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:own)"), {"own": own})
        ask.rows(connection, {"item": "item-1"})
    with database.rows() as connection:
        assert len(ask.rows(connection, {"item": "item-1"})) == 1
    database.close()


def test_a_database_without_its_tables_is_unavailable(tmp_path: Path) -> None:
    ask = Prepared(select(Item.id))

    database = Database(f"sqlite:///{tmp_path / 'akin.db'}")

    with closing(database), pytest.raises(Unavailable), database.rows() as connection:
        ask.rows(connection, {})


@pytest.mark.parametrize("written", ["2000-01-01 00:00:00", "2000-01-01 00:00:00.000000", "2000-01-01 01:00:00+01:00"])
def test_moments_that_migrations_wrote_are_read(tmp_path: Path, written: str) -> None:
    ask = Prepared(select(Item.updated_at))
    with closing(filled(f"sqlite:///{tmp_path / 'akin.db'}", 1)) as database:
        with database.engine.begin() as connection:
            connection.execute(text("UPDATE items SET updated_at = :written"), {"written": written})

        with database.rows() as connection, database.reading() as session:
            ((prepared,),) = ask.rows(connection, {})
            usual = session.scalar(select(Item.updated_at))

    assert prepared == usual == datetime(2000, 1, 1, tzinfo=UTC)
