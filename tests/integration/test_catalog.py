"""Migrations and transactions, on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select

from services.bootstrap import migrate, pending_migration
from services.catalog.database import Database
from services.catalog.models import Base, Catalog
from services.errors import Unavailable


def test_migrations_make_exactly_the_tables_of_the_models(database_url: str) -> None:
    database = Database(database_url)
    assert pending_migration(database) == "0006"

    migrate(database)
    migrate(database)

    assert pending_migration(database) is None
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    database.close()


def test_migrations_can_be_undone(database_url: str) -> None:
    from alembic import command

    from services.bootstrap import alembic_config

    database = Database(database_url)
    migrate(database)
    with database.engine.connect() as connection:
        command.downgrade(alembic_config(connection), "base")
        connection.commit()
    assert set(inspect(database.engine).get_table_names()) <= {"alembic_version"}
    database.close()


def test_an_exception_rolls_the_whole_block_back(database_url: str) -> None:
    database = Database(database_url)
    migrate(database)
    with pytest.raises(RuntimeError), database.transaction() as session:
        session.add(Catalog(name="half"))
        session.flush()
        raise RuntimeError

    with database.reading() as session:
        assert session.scalars(select(Catalog)).all() == []
    database.close()


def test_a_database_that_is_not_there_is_unavailable() -> None:
    database = Database("postgresql+psycopg://nobody@127.0.0.1:9/none")
    with pytest.raises(Unavailable, match="does not answer"):
        database.check()
