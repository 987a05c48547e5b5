"""Every error as application/problem+json, from one table."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, jsonify
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from werkzeug.exceptions import HTTPException

from services.errors import (
    AkinError,
    Conflict,
    EncoderError,
    FetchFailed,
    FetchRefused,
    Forbidden,
    Gone,
    ImageRejected,
    InvalidRequest,
    NotFound,
    Overloaded,
    TooLarge,
    Unauthorized,
    Unavailable,
)

logger = logging.getLogger(__name__)

STATUS: dict[type[AkinError], HTTPStatus] = {
    InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    ImageRejected: HTTPStatus.UNPROCESSABLE_ENTITY,
    FetchRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
    FetchFailed: HTTPStatus.UNPROCESSABLE_ENTITY,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    Gone: HTTPStatus.GONE,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    EncoderError: HTTPStatus.CONFLICT,
    Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
RETRY_AFTER = 2


def install(app: Flask) -> None:
    """Answer every error of the application as a problem document."""
    app.register_error_handler(AkinError, from_akin)
    app.register_error_handler(HTTPException, _from_http)
    app.register_error_handler(Exception, _from_bug)


def problem(status: HTTPStatus, code: str, detail: str, **facts: Any) -> Response:
    """A problem document (RFC 9457)."""
    response = jsonify(_document(status, code, detail, facts))
    response.status_code = status
    response.content_type = "application/problem+json"
    return response


def invalid(error: ValidationError) -> InvalidRequest:
    """What pydantic found wrong with a request."""
    fields = [
        {"field": ".".join(map(str, found["loc"])) or "body", "message": _message(found)}
        for found in error.errors(include_url=False)
    ]
    detail = "; ".join(f"{field['field']}: {field['message']}" for field in fields[:3])
    return InvalidRequest(detail, errors=fields)


def _message(found: ErrorDetails) -> str:
    # Of a text that is checked by a function of ours pydantic speaks as of a list.
    if found["type"] == "too_long" and isinstance(found["input"], str):
        return f"String should have at most {found['ctx']['max_length']} characters"
    if found["type"] == "too_short" and isinstance(found["input"], str):
        return f"String should have at least {found['ctx']['min_length']} characters"
    return found["msg"].removeprefix("Value error, ")


def described(error: AkinError) -> dict[str, Any]:
    """A typed error as a member of an answer that is otherwise none."""
    return _document(_status_of(error), error.code, error.detail, error.facts)


def _document(status: HTTPStatus, code: str, detail: str, facts: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"/docs#{code}", "title": status.phrase, "status": status, "detail": detail, "code": code, **facts}


def _status_of(error: AkinError) -> HTTPStatus:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)


def from_akin(error: AkinError) -> Response:
    """The table's answer to a typed error."""
    status = _status_of(error)
    response = problem(status, error.code, error.detail, **error.facts)
    if status is HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="akin"'
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        logger.warning("%s: %s", error.code, error.__cause__ or error.detail)
        response.headers["Retry-After"] = str(getattr(error, "retry_after", RETRY_AFTER))
    return response


def _from_http(error: HTTPException) -> Response:
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    code = TooLarge.code if status is STATUS[TooLarge] else status.name.lower()
    detail = "there is nothing at this address" if status is HTTPStatus.NOT_FOUND else error.description
    response = problem(status, code, detail or status.phrase)
    for name, value in error.get_headers():
        if name not in ("Content-Type", "Content-Length"):
            response.headers[name] = value
    return response


def _from_bug(error: Exception) -> Response:
    logger.exception("unexpected error", exc_info=error)
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "an unexpected error; the server's log has the details"
    )
