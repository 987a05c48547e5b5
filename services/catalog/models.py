"""Tables. Ids of images are the primary keys of vectors, so no id is ever used twice."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from services.catalog.database import now
from services.catalog.states import EmbeddingState, EntryState, EventKind, ImportMode, IndexState, JobState, Priority

# SQLite gives autoincrement (ids never reused) to INTEGER primary keys only.
BigId = BigInteger().with_variant(Integer, "sqlite")


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index over the rows of a condition, which each database wants to be told by itself."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


class UtcDateTime(TypeDecorator[datetime]):
    """An aware moment; SQLite, which has no time zones, keeps it in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        return None if value is None else _in_utc(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None] | None:
        """How results are read. SQLite's texts in one step, as every search reads dozens of them."""
        return _from_text if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


def _from_text(written: str | None) -> datetime | None:
    return _in_utc(datetime.fromisoformat(written)) if written else None


def _in_utc(moment: datetime) -> datetime:
    # SQLite's have no zone, but for some that a migration wrote.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of all tables; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012


class Catalog(Base):
    """A separate set of items. `live_index_id` is the switch that searches read."""

    __tablename__ = "catalogs"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    live_index_id: Mapped[int | None] = mapped_column(
        BigId, ForeignKey("indexes.id", use_alter=True, name="fk_catalogs_live_index_id")
    )
    created_at: Mapped[datetime] = mapped_column(default=now)
    # From then on nobody finds it; a job removes what it holds.
    deleted_at: Mapped[datetime | None]


class Item(Base):
    """What a client knows by its own `item_id`, such as a product."""

    __tablename__ = "items"
    __table_args__ = (UniqueConstraint("catalog_id", "item_id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    catalog_id: Mapped[int] = mapped_column(BigId, ForeignKey("catalogs.id"))
    item_id: Mapped[str] = mapped_column(String(512))
    title: Mapped[str | None] = mapped_column(Text)
    url: Mapped[str | None] = mapped_column(Text)
    attributes: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class Image(Base):
    """One picture of an item. `deleted_at` is a tombstone; the row goes once no vector can be left."""

    __tablename__ = "images"
    __table_args__ = (
        _partial("uq_images_item_sha256", "item_pk", "sha256", unique=True, where="deleted_at IS NULL"),
        _partial("ix_images_living", "catalog_id", "id", where="deleted_at IS NULL"),
        _partial("ix_images_deleted", "id", where="deleted_at IS NOT NULL"),
        _partial("ix_images_origin", "item_pk", "origin", where="origin IS NOT NULL"),
        Index("ix_images_sha256", "sha256"),
        # For the check of the foreign key when an item goes; the partial one above cannot serve it.
        Index("ix_images_item_pk", "item_pk"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    catalog_id: Mapped[int] = mapped_column(BigId, ForeignKey("catalogs.id"))
    # None once deleted, so that the item's row can go at once.
    item_pk: Mapped[int | None] = mapped_column(BigId, ForeignKey("items.id"))
    sha256: Mapped[str] = mapped_column(String(64))
    format: Mapped[str] = mapped_column(String(16))
    media_type: Mapped[str] = mapped_column(String(64))
    width: Mapped[int]
    height: Mapped[int]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    # Where an import found it, so that the next one replaces it if other bytes lie there, and what the server
    # called this version of it.
    origin: Mapped[str | None] = mapped_column(Text)
    etag: Mapped[str | None] = mapped_column(Text)
    last_modified: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    deleted_at: Mapped[datetime | None]

    item: Mapped[Item | None] = relationship()


class OrphanBlob(Base):
    """Bytes that no image refers to any more; collected after a grace period."""

    __tablename__ = "orphan_blobs"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    since: Mapped[datetime] = mapped_column(default=now)


class EncoderRow(Base):
    """A registered encoder. Its weights lie in the blob store under their SHA-256."""

    __tablename__ = "encoders"
    __table_args__ = (UniqueConstraint("name", "version"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    version: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    dimension: Mapped[int]
    manifest: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)

    @property
    def ref(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


class IndexRow(Base):
    """One generation of vectors: one encoder, one Milvus collection."""

    __tablename__ = "indexes"
    __table_args__ = (
        # At most one reindex of a catalog at a time, whatever races.
        _partial("uq_indexes_building", "catalog_id", unique=True, where="state = 'building'"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    catalog_id: Mapped[int] = mapped_column(BigId, ForeignKey("catalogs.id"))
    encoder_id: Mapped[int] = mapped_column(BigId, ForeignKey("encoders.id"))
    collection: Mapped[str] = mapped_column(String(100), unique=True)
    state: Mapped[IndexState] = mapped_column(String(16))
    backfilled_to: Mapped[int] = mapped_column(BigInteger, default=0)
    job_id: Mapped[str | None] = mapped_column(String(32), ForeignKey("jobs.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    activated_at: Mapped[datetime | None]
    # When a worker last claimed rows of it: indexes take turns.
    claimed_at: Mapped[datetime | None]

    encoder: Mapped[EncoderRow] = relationship()
    catalog: Mapped[Catalog] = relationship(foreign_keys=[catalog_id])


class Embedding(Base):
    """The ledger: what the vector store should hold and does hold of one image in one index."""

    __tablename__ = "embeddings"
    __table_args__ = (
        UniqueConstraint("image_id", "index_id"),
        Index("ix_embeddings_work", "index_id", "state", "priority", "attempts", "id"),
        _partial("ix_embeddings_deleting", "lease_until", where="state = 'deleting'"),
        _partial("ix_embeddings_stale", "index_id", "id", where="state = 'indexed' AND indexed_rev < wanted_rev"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    image_id: Mapped[int] = mapped_column(BigId, ForeignKey("images.id"))
    index_id: Mapped[int] = mapped_column(BigId, ForeignKey("indexes.id"))
    state: Mapped[EmbeddingState] = mapped_column(String(16), default=EmbeddingState.PENDING)
    # services.catalog.states.Priority: lower numbers are claimed first.
    priority: Mapped[int] = mapped_column(SmallInteger, default=Priority.IMPORT)
    # Versions of what filters see of the item: the one that the vector store should hold, and the one it does.
    wanted_rev: Mapped[int] = mapped_column(default=0)
    indexed_rev: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    lease: Mapped[str | None] = mapped_column(String(32))
    lease_until: Mapped[datetime | None]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(Text)
    updated_at: Mapped[datetime] = mapped_column(default=now)


class Job(Base):
    """A long-running request. Progress is counted over rows, never kept in a counter."""

    __tablename__ = "jobs"
    __table_args__ = (
        _partial("ix_jobs_unfinished", "kind", "created_at", where="finished_at IS NULL"),
        _partial("ix_jobs_over", "finished_at", where="finished_at IS NOT NULL"),
        _partial("ix_jobs_cancelled", "id", where="state = 'cancelled'"),
        _partial("ix_jobs_audits", "created_at", where="kind = 'audit'"),
        Index("ix_jobs_catalog_id_created_at", "catalog_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=lambda: uuid.uuid4().hex)
    catalog_id: Mapped[int] = mapped_column(BigId, ForeignKey("catalogs.id"))
    kind: Mapped[str] = mapped_column(String(32))
    state: Mapped[JobState] = mapped_column(String(32), default=JobState.QUEUED)
    total: Mapped[int] = mapped_column(default=0)
    # Of an import: what becomes of items that are there, where its pictures are, how far they are listed, and when
    # all of them were. Of other jobs: what they were asked for, and how far they are.
    mode: Mapped[ImportMode] = mapped_column(String(16), default=ImportMode.UPSERT)
    source: Mapped[dict[str, Any]] = mapped_column(default=dict)
    cursor: Mapped[dict[str, Any]] = mapped_column(default=dict)
    listed_at: Mapped[datetime | None]
    # Until then no other worker goes on with the listing.
    listing_until: Mapped[datetime | None]
    # When a worker last took entries of it: imports take turns.
    served_at: Mapped[datetime | None]
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobEntry(Base):
    """One picture named by an import, from where its bytes are to searchable or failed with a reason.

    Its bytes are stored (`sha256`), lie in the job's source (`place`), or are fetched (`url`). An entry with none of
    these changes its item's fields only.
    """

    __tablename__ = "job_entries"
    __table_args__ = (
        Index("ix_job_entries_job_id_state_id", "job_id", "state", "id"),
        Index("ix_job_entries_image_id_job_id", "image_id", "job_id"),
        _partial("ix_job_entries_accepted", "image_id", where="state = 'accepted'"),
        _partial("ix_job_entries_waiting", "job_id", "due_at", "id", where="state = 'pending'"),
        _partial("ix_job_entries_pending", "sha256", where="state = 'pending'"),
        _partial("ix_job_entries_replacing", "job_id", "id", where="replaces IS NOT NULL"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id"))
    ref: Mapped[str] = mapped_column(Text)
    item: Mapped[dict[str, Any]]
    sha256: Mapped[str | None] = mapped_column(String(64))
    place: Mapped[str | None] = mapped_column(Text)
    url: Mapped[str | None] = mapped_column(Text)
    state: Mapped[EntryState] = mapped_column(String(16), default=EntryState.PENDING)
    # Not foreign keys: the history of an import outlives the items and images it brought.
    item_pk: Mapped[int | None] = mapped_column(BigInteger)
    image_id: Mapped[int | None] = mapped_column(BigInteger)
    # The latest image that came from the same place and had other bytes; it goes when the new one is searchable, and
    # whatever came from there before it.
    replaces: Mapped[int | None] = mapped_column(BigInteger)
    # Tries to get its bytes from a server that did not give them.
    attempts: Mapped[int] = mapped_column(default=0)
    # No worker looks at it before: one has it in its hands, or a server asked for patience.
    due_at: Mapped[datetime] = mapped_column(default=now)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(Text)


class Key(Base):
    """An API key: only the SHA-256 of its 256 random bits is kept.

    A publishable key stands in web pages, so it is no secret: `public` is the key itself, `origins` are the sites
    whose pages may use it, and `attributes` are those of items that it shows. Secret keys show them all.
    """

    __tablename__ = "keys"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    prefix: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]]
    public: Mapped[str | None] = mapped_column(String(64))
    origins: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    attributes: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    catalog_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("catalogs.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    revoked_at: Mapped[datetime | None]


class AnsweredRequest(Base):
    """A request with an Idempotency-Key. `status` and `body` are its answer, None while it is at work."""

    __tablename__ = "answered_requests"
    __table_args__ = (
        UniqueConstraint("key_id", "name"),
        Index("ix_answered_requests_created_at", "created_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    key_id: Mapped[int] = mapped_column(BigId, ForeignKey("keys.id"))
    name: Mapped[str] = mapped_column(String(255))
    fingerprint: Mapped[str] = mapped_column(String(64))
    status: Mapped[int | None]
    body: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Webhook(Base):
    """Who is to be told that a job is over. `due_at` is the next try, None when there is none."""

    __tablename__ = "webhooks"
    __table_args__ = (_partial("ix_webhooks_due", "due_at", where="due_at IS NOT NULL"),)

    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id"), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)


class Event(Base):
    """What a visitor of a shop did with similar items: saw some (an impression), or went to one of them (a click)."""

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_created_at", "created_at"),
        Index("ix_events_catalog_id_created_at", "catalog_id", "created_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    catalog_id: Mapped[int] = mapped_column(BigId, ForeignKey("catalogs.id"))
    kind: Mapped[EventKind] = mapped_column(String(16))
    # The client's ids: whose page it was, and what was shown there, in order; of a click the one item.
    item_id: Mapped[str] = mapped_column(String(512))
    shown: Mapped[list[str]]
    rank: Mapped[int | None]
    # The index that had ranked them.
    index_id: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=now)


class DuplicateImage(Base):
    """A picture of a cluster of near-identical ones, as a job found it; `score` is its cosine to the nearest."""

    __tablename__ = "duplicate_images"
    __table_args__ = (
        UniqueConstraint("job_id", "image_id"),
        Index("ix_duplicate_images_job_id_cluster_id", "job_id", "cluster_id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id"))
    # The smallest image id of the cluster. Neither is a foreign key: pictures may go.
    cluster_id: Mapped[int] = mapped_column(BigInteger)
    image_id: Mapped[int] = mapped_column(BigInteger)
    score: Mapped[float] = mapped_column(Double)
