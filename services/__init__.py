"""Akin's application code: use cases, catalog, vectors, storage, encoders, API and command line."""
