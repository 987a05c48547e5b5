"""Imports from sources, in modes; priorities and turns; deleted catalogs; webhooks; audits.

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

WORK = "ix_embeddings_work"
WAITING = "ix_job_entries_waiting"
PENDING = {"sqlite_where": sa.text("state = 'pending'"), "postgresql_where": sa.text("state = 'pending'")}


def upgrade() -> None:
    op.add_column("catalogs", sa.Column("deleted_at", sa.DateTime(timezone=True)))
    for name in ("origin", "etag", "last_modified"):
        op.add_column("images", sa.Column(name, sa.Text()))
    op.add_column("indexes", sa.Column("claimed_at", sa.DateTime(timezone=True)))
    op.add_column("embeddings", sa.Column("priority", sa.SmallInteger(), nullable=False, server_default="1"))
    op.drop_index(WORK, "embeddings")
    op.create_index(WORK, "embeddings", ["index_id", "state", "priority", "attempts", "id"])
    op.add_column("jobs", sa.Column("mode", sa.String(16), nullable=False, server_default="upsert"))
    op.add_column("jobs", sa.Column("source", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("jobs", sa.Column("cursor", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("jobs", sa.Column("listed_at", sa.DateTime(timezone=True)))
    op.add_column("jobs", sa.Column("listing_until", sa.DateTime(timezone=True)))
    op.add_column("jobs", sa.Column("served_at", sa.DateTime(timezone=True)))
    op.execute("UPDATE jobs SET listed_at = created_at")
    op.execute("""UPDATE jobs SET source = '{"kind": "files"}' WHERE kind = 'import'""")
    op.create_index(
        "ix_jobs_cancelled",
        "jobs",
        ["id"],
        sqlite_where=sa.text("state = 'cancelled'"),
        postgresql_where=sa.text("state = 'cancelled'"),
    )
    op.create_index(
        "ix_jobs_audits",
        "jobs",
        ["created_at"],
        sqlite_where=sa.text("kind = 'audit'"),
        postgresql_where=sa.text("kind = 'audit'"),
    )
    # SQLite copies the table to let a column be empty; ids must stay never used twice.
    with op.batch_alter_table("job_entries", table_kwargs={"sqlite_autoincrement": True}) as entries:
        entries.alter_column("sha256", existing_type=sa.String(64), nullable=True)
        for name in ("place", "url"):
            entries.add_column(sa.Column(name, sa.Text()))
        for name in ("item_pk", "replaces"):
            entries.add_column(sa.Column(name, sa.BigInteger()))
        entries.add_column(sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"))
        entries.add_column(
            sa.Column("due_at", sa.DateTime(timezone=True), nullable=False, server_default="2000-01-01 00:00:00+00:00")
        )
    op.drop_index(WAITING, "job_entries")
    op.create_index(WAITING, "job_entries", ["job_id", "due_at", "id"], **PENDING)
    op.create_index("ix_job_entries_image_id_job_id", "job_entries", ["image_id", "job_id"])
    op.create_table(
        "webhooks",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True)),
        sa.Column("delivered_at", sa.DateTime(timezone=True)),
        sa.Column("error", sa.Text()),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_webhooks_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_webhooks")),
    )
    op.create_index(
        "ix_webhooks_due",
        "webhooks",
        ["due_at"],
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_table("webhooks")
    op.drop_index("ix_job_entries_image_id_job_id", "job_entries")
    op.drop_index(WAITING, "job_entries")
    op.create_index(WAITING, "job_entries", ["id"], **PENDING)
    op.execute("DELETE FROM job_entries WHERE sha256 IS NULL")
    with op.batch_alter_table("job_entries", table_kwargs={"sqlite_autoincrement": True}) as entries:
        for name in ("place", "url", "item_pk", "replaces", "attempts", "due_at"):
            entries.drop_column(name)
        entries.alter_column("sha256", existing_type=sa.String(64), nullable=False)
    op.drop_index("ix_jobs_audits", "jobs")
    op.drop_index("ix_jobs_cancelled", "jobs")
    for name in ("mode", "source", "cursor", "listed_at", "listing_until", "served_at"):
        op.drop_column("jobs", name)
    op.drop_index(WORK, "embeddings")
    op.create_index(WORK, "embeddings", ["index_id", "state", "attempts", "id"])
    op.drop_column("embeddings", "priority")
    op.drop_column("indexes", "claimed_at")
    for name in ("origin", "etag", "last_modified"):
        op.drop_column("images", name)
    op.drop_column("catalogs", "deleted_at")
