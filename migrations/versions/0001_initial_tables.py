"""Initial tables.

Revision: 0001, after None
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite gives autoincrement to INTEGER primary keys only.
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# Catalogs and indexes refer to each other. SQLite resolves the name later but cannot add a constraint later;
# PostgreSQL the other way round.
LIVE_INDEX_INLINE = (sa.ForeignKeyConstraint(["live_index_id"], ["indexes.id"], name="fk_catalogs_live_index_id"),)


def upgrade() -> None:
    op.create_table(
        "catalogs",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("live_index_id", BIG_ID, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *(LIVE_INDEX_INLINE if op.get_bind().dialect.name == "sqlite" else ()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_catalogs")),
        sa.UniqueConstraint("name", name=op.f("uq_catalogs_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "encoders",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_encoders")),
        sa.UniqueConstraint("name", "version", name=op.f("uq_encoders_name_version")),
        sa.UniqueConstraint("sha256", name=op.f("uq_encoders_sha256")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "orphan_blobs",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_orphan_blobs")),
    )
    op.create_table(
        "items",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("catalog_id", BIG_ID, nullable=False),
        sa.Column("item_id", sa.String(length=512), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["catalog_id"], ["catalogs.id"], name=op.f("fk_items_catalog_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
        sa.UniqueConstraint("catalog_id", "item_id", name=op.f("uq_items_catalog_id_item_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("catalog_id", BIG_ID, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["catalog_id"], ["catalogs.id"], name=op.f("fk_jobs_catalog_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index("ix_jobs_catalog_id_created_at", "jobs", ["catalog_id", "created_at"], unique=False)
    op.create_index(
        "ix_jobs_unfinished",
        "jobs",
        ["kind", "created_at"],
        unique=False,
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "keys",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("catalog_id", BIG_ID, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["catalog_id"], ["catalogs.id"], name=op.f("fk_keys_catalog_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("sha256", name=op.f("uq_keys_sha256")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "images",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("catalog_id", BIG_ID, nullable=False),
        sa.Column("item_pk", BIG_ID, nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("media_type", sa.String(length=64), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["catalog_id"], ["catalogs.id"], name=op.f("fk_images_catalog_id")),
        sa.ForeignKeyConstraint(["item_pk"], ["items.id"], name=op.f("fk_images_item_pk")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_images_item_pk", "images", ["item_pk"], unique=False)
    op.create_index(
        "ix_images_living",
        "images",
        ["catalog_id", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index("ix_images_sha256", "images", ["sha256"], unique=False)
    op.create_index(
        "uq_images_item_sha256",
        "images",
        ["item_pk", "sha256"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )

    op.create_table(
        "indexes",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("catalog_id", BIG_ID, nullable=False),
        sa.Column("encoder_id", BIG_ID, nullable=False),
        sa.Column("collection", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("backfilled_to", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["catalog_id"], ["catalogs.id"], name=op.f("fk_indexes_catalog_id")),
        sa.ForeignKeyConstraint(["encoder_id"], ["encoders.id"], name=op.f("fk_indexes_encoder_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_indexes_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_indexes")),
        sa.UniqueConstraint("collection", name=op.f("uq_indexes_collection")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "uq_indexes_building",
        "indexes",
        ["catalog_id"],
        unique=True,
        sqlite_where=sa.text("state = 'building'"),
        postgresql_where=sa.text("state = 'building'"),
    )

    op.create_table(
        "job_entries",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("item", sa.JSON(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_entries_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_entries")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_job_entries_accepted",
        "job_entries",
        ["image_id"],
        unique=False,
        sqlite_where=sa.text("state = 'accepted'"),
        postgresql_where=sa.text("state = 'accepted'"),
    )
    op.create_index(
        "ix_job_entries_waiting",
        "job_entries",
        ["id"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index("ix_job_entries_job_id_state_id", "job_entries", ["job_id", "state", "id"], unique=False)
    op.create_index(
        "ix_job_entries_pending",
        "job_entries",
        ["sha256"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )

    op.create_table(
        "embeddings",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("image_id", BIG_ID, nullable=False),
        sa.Column("index_id", BIG_ID, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease", sa.String(length=32), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_embeddings_image_id")),
        sa.ForeignKeyConstraint(["index_id"], ["indexes.id"], name=op.f("fk_embeddings_index_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_embeddings")),
        sa.UniqueConstraint("image_id", "index_id", name=op.f("uq_embeddings_image_id_index_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_embeddings_deleting",
        "embeddings",
        ["lease_until"],
        unique=False,
        sqlite_where=sa.text("state = 'deleting'"),
        postgresql_where=sa.text("state = 'deleting'"),
    )
    op.create_index("ix_embeddings_work", "embeddings", ["index_id", "state", "attempts", "id"], unique=False)

    if op.get_bind().dialect.name != "sqlite":
        op.create_foreign_key("fk_catalogs_live_index_id", "catalogs", "indexes", ["live_index_id"], ["id"])


def downgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint("fk_catalogs_live_index_id", "catalogs", type_="foreignkey")
    op.drop_table("embeddings")
    op.drop_table("job_entries")
    op.drop_table("indexes")
    op.drop_table("images")
    op.drop_table("keys")
    op.drop_table("jobs")
    op.drop_table("items")
    op.drop_table("orphan_blobs")
    op.drop_table("encoders")
    op.drop_table("catalogs")
