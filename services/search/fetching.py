"""Pictures that lie on web servers, for searches: of any server, however slow, and so with little patience."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import BoundedSemaphore
from typing import Final

from services.errors import AkinError, FetchFailed, ImageReason, ImageRejected, Overloaded, TooLarge
from services.wiring import Services

FETCHED_AT_ONCE: Final = 16


def fetch(services: Services, urls: Sequence[str]) -> dict[str, bytes | AkinError]:
    """The pictures at these addresses, or why one cannot be had: all of a request in the time of one query.

    Threads that wait for other servers answer nobody: half of those of this process may, and further requests are
    refused at once.
    """
    settings = services.settings
    places = _places(max(1, settings.api_threads // 2))
    if not places.acquire(blocking=False):
        return dict.fromkeys(urls, Overloaded("too many searches are waiting for pictures of other servers"))
    try:
        until = time.monotonic() + min(settings.query_deadline, settings.fetch_timeout)
        with ThreadPoolExecutor(min(FETCHED_AT_ONCE, len(urls)), thread_name_prefix="fetch") as pool:
            return dict(zip(urls, pool.map(lambda url: _fetched(services, url, until), urls), strict=True))
    finally:
        places.release()


@cache
def _places(most: int) -> BoundedSemaphore:
    """For requests of this process that fetch."""
    return BoundedSemaphore(most)


def _fetched(services: Services, url: str, until: float) -> bytes | AkinError:
    seconds = until - time.monotonic()
    if seconds <= 0:
        return FetchFailed("the pictures before it took too long")
    try:
        with services.fetcher.download(url, max_bytes=services.settings.max_image_bytes, seconds=seconds) as download:
            assert download is not None  # only where a known version was asked about
            return b"".join(download.chunks)
    except TooLarge as error:
        return ImageRejected(ImageReason.TOO_MANY_BYTES, error.detail)
    except AkinError as error:
        return error
