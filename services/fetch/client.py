"""Getting files from public servers, and posting to them, within limits of time, size, redirects and connections."""

from __future__ import annotations

import math
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

import httpcore
import httpx

from services.errors import FetchFailed, FetchQueued, FetchRefused, TooLarge
from services.fetch.guard import Deadline, Guard, GuardedNetwork

_AGENT = "akin"
_REDIRECTS = {301, 302, 303, 307, 308}
# Servers that say so are worth asking again: overloaded, behind a gateway that lost them, or limiting rates.
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_URL = 8192
# Spaces, control characters and backslashes, which parsers of addresses drop or turn in ways of their own.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f\\]")


@dataclass(frozen=True)
class Limits:
    """What one fetch may cost.

    Attributes:
        seconds: from the first name that is looked up to the last byte, over all redirects.
        waiting: for a turn at a host, which is not counted into the seconds.
        redirects: how many are followed.
        per_host: connections to one host at a time; others wait for their turn.
        connections: to all hosts together.
    """

    seconds: float = 30.0
    waiting: float = 10.0
    redirects: int = 5
    per_host: int = 4
    connections: int = 64


@dataclass(frozen=True)
class Version:
    """What a server called the file when it was fetched; it answers `None` to "has it changed since?" by these."""

    etag: str | None = None
    last_modified: str | None = None

    def conditions(self) -> dict[str, str]:
        """Headers that ask for the file only if it is another by now."""
        found = {"If-None-Match": self.etag, "If-Modified-Since": None if self.etag else self.last_modified}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Fetched:
    """A file, and what to ask with next time. The type that the server claims is of no interest: bytes are sniffed."""

    content: bytes
    version: Version


@dataclass(frozen=True)
class Download:
    """A file that is arriving: `chunks` gives its bytes once, and raises what `Fetcher.get` raises."""

    chunks: Iterator[bytes]
    version: Version


class Fetcher:
    """Asks servers on behalf of users. Thread-safe; connections are kept open for the next file of the same host.

    No proxy, cookie, credential or referrer is ever sent, and no address is connected to but those that the guard has
    checked: at the first request, at each redirect, and at each new connection.
    """

    def __init__(self, guard: Guard, limits: Limits | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        """
        Args:
            tls: whom to trust; the roots that come with certifi unless given.
        """
        self._limits = limits or Limits()
        self._guard = guard
        self._deadline = Deadline()
        self._turns = _Turns(self._limits.per_host)
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls or httpx.create_ssl_context(trust_env=False),
            max_connections=self._limits.connections,
            keepalive_expiry=10.0,
            network_backend=GuardedNetwork(guard, self._deadline),
        )

    def get(self, url: str, *, max_bytes: int, known: Version | None = None) -> Fetched | None:
        """Fetch a file; None where it is still the `known` version.

        Raises:
            FetchRefused: the address, or one that it redirects to, is not a public web address.
            FetchFailed: the server did not answer, not in time, or not with a file.
            FetchQueued: its turn at the server did not come.
            TooLarge: the file has more bytes.
        """
        with self.download(url, max_bytes=max_bytes, known=known) as download:
            return None if download is None else Fetched(b"".join(download.chunks), download.version)

    @contextmanager
    def download(
        self,
        url: str,
        *,
        max_bytes: int,
        known: Version | None = None,
        seconds: float | None = None,
        arriving: float | None = None,
    ) -> Iterator[Download | None]:
        """The same for a file that is too large for memory; to be read by the thread that asked.

        Args:
            seconds: for all of it, the wait for a turn as well, instead of the limits for one picture.
            arriving: seconds that the file may take from when the answer has begun, which is limited as usual.
        """
        left = seconds or self._limits.seconds
        latest = time.monotonic() + seconds if seconds else math.inf
        target = _parsed(url)
        conditions = known.conditions() if known else {}
        for _ in range(self._limits.redirects + 1):
            with self._ask("GET", target, left, conditions, latest=latest) as response:
                if response.status in _REDIRECTS:
                    target, left = _followed(target, response), self._deadline.left()
                    continue
                if response.status == 304 and known is not None:
                    yield None
                    return
                if response.status != 200:
                    raise _unwanted(target, response)
                headers = _headers(response)
                if headers.get("content-encoding", "identity") != "identity":
                    raise FetchFailed(f"{target.host} sent the file compressed, which was not asked for")
                length = headers.get("content-length", "")
                if length.isdigit() and int(length) > max_bytes:
                    raise _too_large(int(length), max_bytes)
                version = Version(headers.get("etag"), headers.get("last-modified"))
                if arriving is not None:
                    self._deadline.at = time.monotonic() + arriving
                yield Download(self._bounded(response, max_bytes), version)
                return
        raise FetchFailed(f"{_parsed(url).host} redirects more than {self._limits.redirects} times")

    def post(self, url: str, content: bytes, headers: Mapping[str, str]) -> int:
        """Send bytes, and return the status of the answer, whose body is not read. No redirect is followed.

        Raises:
            FetchRefused: the address is not a public web address.
            FetchFailed: the server did not answer, or not in time.
            FetchQueued: its turn at the server did not come.
        """
        with self._ask("POST", _parsed(url), self._limits.seconds, headers, content=content) as response:
            return int(response.status)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()
        self._guard.close()

    @contextmanager
    def _ask(
        self,
        method: str,
        target: httpx.URL,
        seconds: float,
        headers: Mapping[str, str],
        *,
        content: bytes | None = None,
        latest: float = math.inf,
    ) -> Iterator[httpcore.Response]:
        waiting = min(self._limits.waiting, latest - time.monotonic())
        # A connection that is kept open leads to the address that was checked when it was made.
        with self._turns.of(target.host, waiting):
            self._deadline.at = min(time.monotonic() + seconds, latest)
            sent = {
                "Host": target.netloc.decode("ascii"),
                "User-Agent": _AGENT,
                "Accept": "*/*",
                "Accept-Encoding": "identity",
                **headers,
            }
            if content is not None:
                sent["Content-Length"] = str(len(content))
            timeout = dict.fromkeys(("connect", "read", "write", "pool"), self._deadline.left())
            try:
                with self._pool.stream(
                    method,
                    httpcore.URL(
                        scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
                    ),
                    headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in sent.items()],
                    content=content,
                    extensions={"timeout": timeout},
                ) as response:
                    yield response
            except httpcore.TimeoutException as error:
                raise FetchFailed(f"{target.host} took too long") from error
            except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError) as error:
                raise FetchFailed(f"{target.host} did not answer: {_reason(error)}") from error

    def _bounded(self, response: httpcore.Response, max_bytes: int) -> Iterator[bytes]:
        arrived = 0
        for chunk in response.iter_stream():
            arrived += len(chunk)
            if arrived > max_bytes:
                raise _too_large(arrived, max_bytes)
            yield chunk


class _Turns:
    """So many at a time for each host; the others wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._busy: dict[str, int] = {}
        self._freed = Condition()

    @contextmanager
    def of(self, host: str, seconds: float) -> Iterator[None]:
        with self._freed:
            if not self._freed.wait_for(lambda: self._busy.get(host, 0) < self._most, seconds):
                raise FetchQueued(f"{host} was not asked: too many others were asking it")
            self._busy[host] = self._busy.get(host, 0) + 1
        try:
            yield
        finally:
            with self._freed:
                self._busy[host] -= 1
                if not self._busy[host]:
                    del self._busy[host]
                self._freed.notify_all()


def _parsed(url: str) -> httpx.URL:
    """An address whose parts are those that are connected to and asked for: it is parsed once, here.

    Raises:
        FetchRefused: it is not an http or https address, or one of those that parsers disagree about.
    """
    if len(url) > _LONGEST_URL or _AMBIGUOUS.search(url):
        raise FetchRefused("the address is too long, or has spaces, control characters or backslashes")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchRefused(f"this is no web address: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise FetchRefused("only http:// and https:// addresses are fetched")
    if parsed.userinfo:
        raise FetchRefused("addresses with a name or password in them are not fetched")
    if "%" in parsed.host or (parsed.port is not None and not 0 < parsed.port <= 65535):
        raise FetchRefused(f"{parsed.netloc.decode()} is no host")
    return parsed.copy_with(fragment=None)


def _followed(target: httpx.URL, response: httpcore.Response) -> httpx.URL:
    location = _headers(response).get("location")
    if not location:
        raise FetchFailed(f"{target.host} redirects to nowhere")
    if _AMBIGUOUS.search(location):
        raise FetchRefused(f"{target.host} redirects to an address with spaces, control characters or backslashes")
    try:
        followed = str(target.join(location))
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchRefused(f"{target.host} redirects to no web address") from error
    if target.scheme == "https" and not followed.startswith("https:"):
        raise FetchRefused(f"{target.host} redirects from https to another scheme")
    return _parsed(followed)


def _headers(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("ascii", "replace").lower(): value.decode("latin-1") for name, value in response.headers}


def _unwanted(target: httpx.URL, response: httpcore.Response) -> FetchFailed:
    return FetchFailed(f"{target.host} answered with status {response.status}", passing=response.status in _PASSING)


def _too_large(size: int, allowed: int) -> TooLarge:
    return TooLarge(f"the file has {size:,} bytes or more; {allowed:,} are allowed")


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
