"""Requests that may be sent again without being done again: the header Idempotency-Key."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from flask import Request, Response
from werkzeug.datastructures import FileStorage

from services.catalog import answered
from services.catalog.answered import Answer
from services.errors import Conflict, InvalidRequest, Unavailable
from services.wiring import Services

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
LONGEST = 255
RENEWED_SECONDS = 5.0
_SUCCESS = range(200, 300)


def once(services: Services, key_id: int, name: str, fingerprint: str, do: Callable[[], Response]) -> Response:
    """Do what a request asks for, or answer as the same request was answered before.

    Only success is remembered: what failed may be sent again with the same key.

    Raises:
        InvalidRequest: the key is empty or too long, or was sent with another request.
        Conflict: the same request is at work.
    """
    if not 0 < len(name) <= LONGEST or not name.isprintable():
        raise InvalidRequest(f"{HEADER} is 1 to {LONGEST} printable characters", code="invalid_idempotency_key")
    with services.database.transaction() as session:
        earlier = answered.claim(session, key_id, name, fingerprint)
    if earlier is not None:
        if earlier.fingerprint != fingerprint:
            raise InvalidRequest(f"this {HEADER} was sent with another request", code="idempotency_key_reused")
        if earlier.answer is None:
            raise Conflict("the same request is at work: ask again for its answer", code="idempotency_key_at_work")
        response = Response(earlier.answer.body, earlier.answer.status, content_type="application/json")
        response.headers[REPLAYED] = "true"
        return response
    done = False
    try:
        with _at_work(services, key_id, name):
            response = do()
        if response.status_code in _SUCCESS:
            with services.database.transaction() as session:
                answered.remember(session, key_id, name, Answer(response.status_code, response.get_data(as_text=True)))
            done = True
        return response
    finally:
        if not done:
            with services.database.transaction() as session:
                answered.release(session, key_id, name)


@contextmanager
def _at_work(services: Services, key_id: int, name: str) -> Iterator[None]:
    """Say again and again that a request is at work, so that it is soon known when its process was killed."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(RENEWED_SECONDS):
            with suppress(Unavailable), services.database.transaction() as session:
                answered.renew(session, key_id, name)

    renewing = threading.Thread(target=renew, name="at-work", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()


def fingerprint_of(request: Request, sent: Any, files: Iterable[FileStorage]) -> str:
    """SHA-256 over all that a request says: address, members and files with their names.

    The bytes of a form are no measure: its boundary is another each time.
    """
    digest = hashlib.sha256(f"{request.method} {request.full_path}".encode())
    names = [file.filename for file in files]
    members = sent.items() if isinstance(sent, Mapping) else [("", sent)]
    digest.update(json.dumps([names, {name: _plain(value) for name, value in members}], sort_keys=True).encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, list):
        return [_plain(member) for member in value]
    return value
