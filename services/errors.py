"""One family of typed errors. Each has a stable code; services/api/errors.py maps classes to HTTP."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class AkinError(Exception):
    """Base of every error that a user may see.

    Args:
        detail: one sentence for people.
        code: stable identifier for programs; the class has a default.
        facts: further members of the problem document (JSON values).
    """

    code = "error"

    def __init__(self, detail: str, *, code: str | None = None, **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.facts = facts


class ConfigurationError(AkinError):
    """A setting is missing or wrong."""

    code = "configuration"


class InvalidRequest(AkinError):
    """The request does not fit the documented schema."""

    code = "invalid_request"


class Unauthorized(AkinError):
    """No key, or a key that is unknown, revoked or expired."""

    code = "unauthorized"


class Forbidden(AkinError):
    """The key lacks the scope or belongs to another catalog."""

    code = "forbidden"


class NotFound(AkinError):
    """The named thing does not exist, or not in this catalog."""

    code = "not_found"


class Conflict(AkinError):
    """The request contradicts the present state."""

    code = "conflict"


class TooLarge(AkinError):
    """The request or one of its files is over a limit."""

    code = "too_large"


class Gone(AkinError):
    """What was asked for was kept for a while only, and is gone."""

    code = "gone"


class Overloaded(AkinError):
    """A bounded queue is full: try again after `retry_after` seconds."""

    code = "overloaded"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unavailable(AkinError):
    """A part that the request needs does not answer (database, Redis, Milvus, storage, query process)."""

    code = "unavailable"


class FetchRefused(AkinError):
    """An address that is not fetched: not http or https, or not on the public Internet."""

    code = "fetch_refused"


class FetchFailed(AkinError):
    """A server that was asked for a file did not give it; `passing` says that asking again later may help."""

    code = "fetch_failed"

    def __init__(self, detail: str, *, passing: bool = True) -> None:
        super().__init__(detail)
        self.passing = passing


class FetchQueued(FetchFailed):
    """A server that was not asked, because so many others were asking it."""


class EncoderError(AkinError):
    """A checkpoint is damaged, or needs an architecture or preprocessing that this release does not have."""

    code = "encoder"


class ImageReason(StrEnum):
    """Why a picture is not accepted. The values are codes of the API."""

    EMPTY = "image_empty"
    UNRECOGNISED = "image_unrecognised"
    UNSUPPORTED = "image_unsupported"
    BROKEN = "image_broken"
    TOO_MANY_BYTES = "image_too_many_bytes"
    TOO_MANY_PIXELS = "image_too_many_pixels"
    TIMEOUT = "image_timeout"
    CRASHED = "image_crashed_decoder"
    MISSING = "image_bytes_missing"


class ImageRejected(AkinError):
    """The bytes are not a picture that can be embedded; `reason` says why."""

    code = "image_rejected"

    def __init__(self, reason: ImageReason, detail: str) -> None:
        super().__init__(detail, code=reason.value)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageRejected], tuple[ImageReason, str]]:
        return type(self), (self.reason, self.detail)
