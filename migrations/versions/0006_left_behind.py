"""Finding what was left behind: deleted images without ledger rows, pictures that a cancelled import would replace.

Revision: 0006, after 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

DELETED = sa.text("deleted_at IS NOT NULL")
FOUND = sa.text("origin IS NOT NULL")
REPLACING = sa.text("replaces IS NOT NULL")


def upgrade() -> None:
    op.create_index("ix_images_deleted", "images", ["id"], sqlite_where=DELETED, postgresql_where=DELETED)
    op.create_index("ix_images_origin", "images", ["item_pk", "origin"], sqlite_where=FOUND, postgresql_where=FOUND)
    op.create_index(
        "ix_job_entries_replacing",
        "job_entries",
        ["job_id", "id"],
        sqlite_where=REPLACING,
        postgresql_where=REPLACING,
    )


def downgrade() -> None:
    op.drop_index("ix_job_entries_replacing", "job_entries")
    op.drop_index("ix_images_origin", "images")
    op.drop_index("ix_images_deleted", "images")
