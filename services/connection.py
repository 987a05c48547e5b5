"""Requests to one Akin server: sent again while that may help, answered as typed records or typed errors."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import httpcore
import httpx
from pydantic import BaseModel, ValidationError

from services import errors
from services.errors import AkinError, Overloaded

RETRIED_STATUSES: Final = frozenset({429, 502, 503, 504})
# The same request is still at work, after its answer was lost: it will be answered when it is through.
AT_WORK: Final = "idempotency_key_at_work"
STATUS_ERRORS: Final[dict[int, type[AkinError]]] = {
    400: errors.InvalidRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    410: errors.Gone,
    413: errors.TooLarge,
    415: errors.InvalidRequest,
    422: errors.InvalidRequest,
}
MAX_PAUSE: Final = 10.0  # seconds between two tries, however long the server asks for
CHUNK_BYTES: Final = 256 * 1024

Answer = TypeVar("Answer", bound=BaseModel)
Waiting = Callable[[Overloaded, float], None]


class Connection:
    """A server and a key for it; safe to share between threads.

    Answers 429, 502, 503, 504 and broken connections are tried again, as late as Retry-After asks, until
    `patience` seconds have gone by. A POST that changes something has an Idempotency-Key, the same in every try, so
    that it is done once however often it was sent.

    Args:
        base_url: the server's address, for example http://127.0.0.1:8080.
        key: an API key.
        catalog: the catalog to work in, for keys that are not bound to one.
        patience: seconds for which one request is tried again.
        timeout: seconds that one try may take between two received bytes.

    Raises:
        ConfigurationError: the address or the key cannot be used.
    """

    def __init__(self, base_url: str, key: str, catalog: str | None, patience: float, timeout: float) -> None:
        self.base_url = base_url.rstrip("/")
        self.on_waiting: Waiting | None = None
        self._patience = patience
        self._closed = threading.Event()
        self._options: dict[str, Any] = {
            "base_url": self.base_url,
            "headers": {"Authorization": f"Bearer {key}", "Accept": "application/json"},
            "params": {"catalog": catalog} if catalog else None,
            "timeout": httpx.Timeout(timeout, connect=5.0),
        }
        try:
            transport = httpx.HTTPTransport(limits=httpx.Limits(max_connections=32))
            self._http = httpx.Client(**self._options, transport=transport)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise errors.ConfigurationError(f"not a usable server address or key: {error}") from error

    def close(self) -> None:
        """Close the connections; calls that wait for another try give up."""
        self._closed.set()
        self._http.close()

    def ready(self) -> bool:
        """Whether the server answers and every part of it works, asked once."""
        try:
            return self._http.get("/readyz", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

    def json(self, answer: type[Answer], method: str, path: str, **request: Any) -> Answer:
        """Send a request and read its answer; the arguments are those of `send`."""
        return self.read(answer, path, self.send(method, path, **request))

    def read(self, answer: type[Answer], path: str, response: httpx.Response) -> Answer:
        """The record in a response.

        Raises:
            Unavailable: it is none, so this is no Akin server.
        """
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise errors.Unavailable(f"{self.base_url}{path} did not answer like an Akin server") from error

    def send(self, method: str, path: str, *, once: bool = False, **request: Any) -> httpx.Response:
        """Send until it is answered (304 counts), refused for good, or `patience` is over.

        Args:
            once: with an Idempotency-Key.
            request: as httpx takes it.

        Raises:
            AkinError: it was refused, or the server cannot be reached.
        """
        named = _named() if once else {}
        headers = {**named, **request.pop("headers", {})}
        return self._insist(lambda: self._http.request(method, path, headers=headers, **request))

    def upload(
        self, answer: type[Answer], path: str, file: Path, media_type: str, *, params: Mapping[str, str],
        on_progress: Callable[[int], None],
    ) -> Answer:  # fmt: skip
        """POST a file, read anew for every try; no more than a piece of it is held in memory.

        Args:
            on_progress: gets the bytes that this try has sent so far.

        Raises:
            InvalidRequest: the file cannot be read, or changes meanwhile.
            AkinError: as `send` does.
        """
        size = _size_of(file)
        headers = {**_named(), "Content-Type": media_type, "Content-Length": str(size)}

        def attempt() -> httpx.Response:
            answered = _Answered()
            # A connection of its own, so that the answer can be seen while the file is still being sent.
            with httpx.Client(**self._options, transport=httpx.HTTPTransport()) as http:
                content = _pieces(file, size, answered, on_progress)
                extensions = {"trace": answered.trace}
                return http.post(path, content=content, params=params, headers=headers, extensions=extensions)

        return self.read(answer, path, self._insist(attempt, long=True))

    def _insist(self, attempt: Callable[[], httpx.Response], *, long: bool = False) -> httpx.Response:
        """Try until it is answered, refused, or `patience` is over. Of long tries only what lies between counts."""
        give_up = time.monotonic() + self._patience
        pause = 0.25
        while True:
            began = time.monotonic()
            failure: AkinError
            wanted = 0.0
            try:
                response = attempt()
            except httpx.TransportError as error:
                failure = errors.Unavailable(f"{self.base_url} cannot be reached ({error or type(error).__name__})")
            else:
                if response.is_success or response.status_code == httpx.codes.NOT_MODIFIED:
                    return response
                failure = _problem(response)
                if response.status_code not in RETRIED_STATUSES and failure.code != AT_WORK:
                    raise failure
                wanted = _retry_after(response)
            # A random share keeps many refused clients from coming back at the same moment.
            wait = min(MAX_PAUSE, max(wanted, pause * random.uniform(0.5, 1.0)))  # noqa: S311
            if long:
                give_up += time.monotonic() - began
            if self.on_waiting is not None and isinstance(failure, Overloaded):
                give_up += wait
                self.on_waiting(failure, wait)
            elif time.monotonic() + wait > give_up:
                raise failure
            self.pause(wait)
            pause *= 2

    def pause(self, seconds: float) -> None:
        """Wait, until the connection is closed at the latest.

        Raises:
            Unavailable: it was closed.
        """
        if self._closed.wait(seconds):
            raise errors.Unavailable("the client was closed")


class _Answered:
    """Whether a server has answered, or hung up, while it is being sent to: most refusals come before the body is read.

    Over TLS this is not known: what can be read there may be no answer.
    """

    def __init__(self) -> None:
        self._stream: httpcore.NetworkStream | None = None

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """What httpx calls on the way (its extension `trace`)."""
        if event == "connection.connect_tcp.complete":
            self._stream = info["return_value"]
        elif event == "connection.start_tls.started":
            self._stream = None

    def __bool__(self) -> bool:
        return self._stream is not None and bool(self._stream.get_extra_info("is_readable"))


def _pieces(file: Path, size: int, answered: _Answered, on_progress: Callable[[int], None]) -> Iterator[bytes]:
    sent = 0
    try:
        with file.open("rb") as stream:
            on_progress(0)
            while sent < size:
                piece = stream.read(min(CHUNK_BYTES, size - sent))
                if not piece:
                    raise errors.InvalidRequest(f"{file} became shorter while it was uploaded")
                if answered:
                    # httpx takes it for a connection that takes no more, and reads the answer.
                    raise httpcore.WriteError("answered already")
                yield piece
                sent += len(piece)
                on_progress(sent)
    except OSError as error:
        raise errors.InvalidRequest(f"{file} cannot be read: {error.strerror}") from error


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise errors.InvalidRequest(f"{file} cannot be read: {error.strerror}") from error


def _named() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid.uuid4())}


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0


def _problem(response: httpx.Response) -> AkinError:
    """The typed error of a problem document (RFC 9457), or of a bare status from a proxy."""
    status = response.status_code
    try:
        body = response.json()
    except ValueError:
        body = None
    document: dict[str, Any] = body if isinstance(body, dict) else {}
    detail = str(document.get("detail") or document.get("title") or f"HTTP {status} {response.reason_phrase}")
    code = str(document["code"]) if "code" in document else None
    if code in set(errors.ImageReason):
        return errors.ImageRejected(errors.ImageReason(code), detail)
    if status == 429:
        return Overloaded(detail, retry_after=round(_retry_after(response)) or 1)
    kind = STATUS_ERRORS.get(status) or (errors.Unavailable if status in RETRIED_STATUSES else AkinError)
    return kind(detail, code=code)
