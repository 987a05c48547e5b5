"""What filters see in the vector store; publishable keys; events of widgets; duplicates.

Revision: 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STALE = sa.text("state = 'indexed' AND indexed_rev < wanted_rev")
# SQLite gives autoincrement to INTEGER primary keys only.
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for name in ("wanted_rev", "indexed_rev"):
        op.add_column("embeddings", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    op.create_index("ix_embeddings_stale", "embeddings", ["index_id", "id"], sqlite_where=STALE, postgresql_where=STALE)
    op.add_column("keys", sa.Column("public", sa.String(64)))
    op.add_column("keys", sa.Column("origins", sa.JSON()))
    op.create_table(
        "events",
        sa.Column("id", BIG_ID, primary_key=True),
        sa.Column("catalog_id", BIG_ID, sa.ForeignKey("catalogs.id", name="fk_events_catalog_id"), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("item_id", sa.String(512), nullable=False),
        sa.Column("shown", sa.JSON(), nullable=False),
        sa.Column("rank", sa.Integer()),
        sa.Column("index_id", sa.BigInteger()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_created_at", "events", ["created_at"])
    op.create_index("ix_events_catalog_id_created_at", "events", ["catalog_id", "created_at"])
    op.create_table(
        "duplicate_images",
        sa.Column("id", BIG_ID, primary_key=True),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id", name="fk_duplicate_images_job_id"), nullable=False),
        sa.Column("cluster_id", sa.BigInteger(), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.UniqueConstraint("job_id", "image_id", name="uq_duplicate_images_job_id_image_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_duplicate_images_job_id_cluster_id", "duplicate_images", ["job_id", "cluster_id"])


def downgrade() -> None:
    op.drop_table("duplicate_images")
    op.drop_table("events")
    op.drop_column("keys", "origins")
    op.drop_column("keys", "public")
    op.drop_index("ix_embeddings_stale", "embeddings")
    for name in ("indexed_rev", "wanted_rev"):
        op.drop_column("embeddings", name)
