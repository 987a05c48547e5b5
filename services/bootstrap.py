"""What a database needs before anything runs: tables, the default catalog, the shipped encoders, a first key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

import migrations
from services.catalog import catalogs, encoders, indexes, keys
from services.catalog.database import Database
from services.catalog.keys import Scope
from services.catalog.models import Catalog
from services.catalog.states import IndexState
from services.config import Settings
from services.encoders import checkpoint
from services.encoders.shipped import shipped
from services.errors import Conflict
from services.wiring import Services, build


@dataclass(frozen=True)
class Prepared:
    """Keys made by `prepare`; `first_admin_key` only when there was none before."""

    first_admin_key: str | None
    local_key: str


def prepare(settings: Settings, *, admin_key: bool = True) -> Prepared:
    """Migrate and fill the catalog for a run on this machine. Safe to repeat.

    Args:
        admin_key: make the first admin key if there is none; not where nobody would see it.

    Raises:
        Unavailable: the database or the blob store does not answer.
        NotFound: AKIN_DEFAULT_ENCODER names no encoder.
    """
    with installed(settings) as services, services.database.transaction() as session:
        wanted = admin_key and not keys.has_admin(session)
        first = keys.create(session, "first admin key", [Scope.ADMIN]) if wanted else None
        return Prepared(first, keys.replace_local(session))


@contextmanager
def installed(settings: Settings) -> Iterator[Services]:
    """What commands work with: the services of a database that has all it needs. Safe to repeat.

    Raises:
        Unavailable: the database or the blob store does not answer.
        NotFound: AKIN_DEFAULT_ENCODER names no encoder.
    """
    services = build(settings)
    try:
        install(services)
        yield services
    finally:
        services.close()


def install(services: Services) -> None:
    """Migrate the database, register the shipped encoders and make the default catalog. Safe to repeat."""
    migrate(services.database)
    for encoder in shipped():
        services.encoders.register(checkpoint.read(encoder.weights_path.parent))
    with services.database.transaction() as session:
        if session.scalar(select(Catalog.id).where(Catalog.name == catalogs.DEFAULT)) is None:
            create_catalog(session, catalogs.DEFAULT, services.settings.default_encoder)


def create_catalog(session: Session, name: str, encoder_ref: str) -> Catalog:
    """Add a catalog whose first index is live at once and empty.

    Raises:
        Conflict: the name is taken.
        NotFound: no such encoder is registered.
    """
    if session.scalar(select(Catalog.id).where(Catalog.name == name)) is not None:
        raise Conflict(f"there is a catalog {name!r} already", code="catalog_exists")
    encoder = encoders.by_ref(session, encoder_ref)
    catalog = Catalog(name=name)
    session.add(catalog)
    try:
        session.flush()
    except IntegrityError as error:  # somebody else was quicker
        raise Conflict(f"there is a catalog {name!r} already", code="catalog_exists") from error
    catalog.live_index_id = indexes.create(session, catalog.id, encoder.id, IndexState.LIVE, None).id
    session.flush()
    return catalog


def migrate(database: Database) -> None:
    """Bring the tables up to this release."""
    with database.engine.connect() as connection:
        command.upgrade(alembic_config(connection), "head")
        connection.commit()


def pending_migration(database: Database) -> str | None:
    """The revision that the database should be at and is not; None where it is up to date."""
    head = ScriptDirectory.from_config(alembic_config(None)).get_current_head()
    with database.engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return head if current != head else None


def alembic_config(connection: object) -> Config:
    """Alembic over this release's migrations and the connection that they run on."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    return config
