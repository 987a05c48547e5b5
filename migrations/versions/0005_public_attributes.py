"""Which attributes of items a publishable key shows.

Revision: 0005, after 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("keys", sa.Column("attributes", sa.JSON()))
    # Keys showed everything: from now on what the widget shows, as new ones do unless told otherwise.
    op.execute("""UPDATE keys SET attributes = '["price", "currency", "in_stock"]' WHERE public IS NOT NULL""")


def downgrade() -> None:
    op.drop_column("keys", "attributes")
