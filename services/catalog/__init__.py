"""The truth: SQLAlchemy models of catalogs, items, images, encoders, indexes, the ledger, jobs and keys."""
