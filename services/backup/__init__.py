"""Backups of a catalog: one tar file with its items, pictures and vectors, written and read as a stream."""
