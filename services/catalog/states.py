"""The lives of indexes, ledger rows, jobs and their entries."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class IndexState(StrEnum):
    """The life of one generation of vectors."""

    BUILDING = "building"
    LIVE = "live"
    STANDBY = "standby"
    RETIRED = "retired"
    FAILED = "failed"


# Indexes that every new picture gets a ledger row in.
MAINTAINED = (IndexState.BUILDING, IndexState.LIVE, IndexState.STANDBY)


class EmbeddingState(StrEnum):
    """The life of one ledger row."""

    PENDING = "pending"
    LEASED = "leased"
    INDEXED = "indexed"
    FAILED = "failed"
    DELETING = "deleting"


class JobState(StrEnum):
    """The life of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FINISHED_WITH_ERRORS = "finished_with_errors"
    FAILED = "failed"
    CANCELLED = "cancelled"


class EntryState(StrEnum):
    """The life of one entry of an import."""

    PENDING = "pending"  # bytes are stored, not looked at
    ACCEPTED = "accepted"  # an image with ledger rows
    INDEXED = "indexed"  # searchable
    UNCHANGED = "unchanged"  # was searchable before
    FAILED = "failed"  # error_code says why
    CANCELLED = "cancelled"  # its job was cancelled before anybody looked at it


class ImportMode(StrEnum):
    """What an import does with what is there."""

    UPSERT = "upsert"  # adds and changes
    CREATE = "create"  # adds; items that were there before fail
    REPLACE = "replace"  # adds and changes; removes what it does not name once all else succeeded


class Priority(IntEnum):
    """In which order a worker claims ledger rows."""

    UPLOAD = 0  # somebody waits for this picture
    IMPORT = 1
    REINDEX = 2  # the live index answers meanwhile


class EventKind(StrEnum):
    """What a visitor did with the similar items of a product page."""

    IMPRESSION = "impression"  # they came into view
    CLICK = "click"  # the visitor went to one of them
