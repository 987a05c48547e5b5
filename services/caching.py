"""What is remembered for a while, in this process and in the cache that all processes share."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

import redis

from services.wiring import Services

Key = TypeVar("Key")
Value = TypeVar("Value")

PREFIX: Final = "akin:cache:"
# For so long a cache that did not answer is not asked again: each try may take seconds.
AWAY_SECONDS: Final = 5.0
# One try is over by then.
TRY_SECONDS: Final = 30.0


class Recent(Generic[Key, Value]):
    """The values that were used last, for a while. Thread-safe.

    Args:
        most: what all values together may cost.
        seconds: how long a value is kept.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._values: OrderedDict[Key, tuple[Value, int, float]] = OrderedDict()
        self._cost = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The value, None where it is not kept (any more)."""
        with self._lock:
            value, _, until = self._values.get(key, (None, 0, 0.0))
            if until < time.monotonic():
                return None
            self._values.move_to_end(key)
            return value

    def put(self, key: Key, value: Value, cost: int = 1) -> None:
        """Keep a value; those that were not used for the longest time go."""
        with self._lock:
            self._cost += cost - self._values.pop(key, (None, 0, 0.0))[1]
            self._values[key] = (value, cost, time.monotonic() + self._seconds)
            while self._cost > self._most:
                self._cost -= self._values.popitem(last=False)[1][1]


# Values that nobody waits for are sent together by a thread of their own, a moment after the first of them was made,
# when as a rule the request is over: threads of one interpreter take turns, and it is not to wait for that one's. So
# many may wait.
_behind = ThreadPoolExecutor(1, thread_name_prefix="remember")
MOST_WAITING: Final = 256
GATHERING_SECONDS: Final = 0.02
_waiting: list[tuple[Services, str, bytes, int]] = []
_waiting_lock = threading.Lock()

# Caches that did not answer when last asked, and the time from which one may ask again.
_away: WeakKeyDictionary[redis.Redis, float] = WeakKeyDictionary()
_away_lock = threading.Lock()


def ask(services: Services, question: Callable[[redis.Redis], Value]) -> Value | None:
    """What the shared cache answers; None where it refuses or is away, at once if it was away a moment ago."""
    cache = services.cache
    if cache in _away and not _may_try(cache):
        return None
    answer: Value | None
    try:
        answer = question(cache)
    except redis.ResponseError:  # it is there, and refuses: one that is full takes no more, but can be read
        answer = None
    except redis.RedisError:
        _away[cache] = time.monotonic() + AWAY_SECONDS
        return None
    _away.pop(cache, None)
    return answer


def _may_try(cache: redis.Redis) -> bool:
    """Whether to ask a cache that was away. One tries, and until it knows the others do without."""
    with _away_lock:
        moment = time.monotonic()
        due = _away.get(cache, moment) <= moment
        if due:
            _away[cache] = moment + TRY_SECONDS
        return due


def recall(services: Services, name: str) -> bytes | None:
    """What the shared cache has under a name; a cache that is away has nothing."""
    value = ask(services, lambda cache: cache.get(PREFIX + name))
    return value if isinstance(value, bytes) else None


def recall_many(services: Services, names: Sequence[str]) -> list[bytes | None]:
    """The same of several names, in one round trip."""
    values: Any = ask(services, lambda cache: cache.mget([PREFIX + name for name in names])) if names else []
    return values or [None] * len(names)


def remember_soon(services: Services, name: str, value: bytes, seconds: int) -> None:
    """Have the shared cache keep a value, without waiting for it; where too much waits already, it is not kept."""
    with _waiting_lock:
        if len(_waiting) >= MOST_WAITING:
            return
        _waiting.append((services, name, value, seconds))
        is_first = len(_waiting) == 1
    if is_first:
        try:
            _behind.submit(_send_waiting)
        except RuntimeError:  # no thread can be started any more
            with _waiting_lock:
                _waiting.clear()


def _send_waiting() -> None:
    time.sleep(GATHERING_SECONDS)
    with _waiting_lock:
        gathered = _waiting.copy()
        _waiting.clear()
    by_cache: dict[redis.Redis, tuple[Services, list[tuple[str, bytes, int]]]] = {}
    for services, name, value, seconds in gathered:
        by_cache.setdefault(services.cache, (services, []))[1].append((name, value, seconds))
    for services, values in by_cache.values():
        _send(services, values)


def remember_many(services: Services, values: Mapping[str, bytes], seconds: int) -> None:
    """Have the shared cache keep some values, in one round trip; one that is away keeps nothing."""
    _send(services, [(name, value, seconds) for name, value in values.items()])


def _send(services: Services, values: Iterable[tuple[str, bytes, int]]) -> None:
    def send(cache: redis.Redis) -> None:
        with cache.pipeline(transaction=False) as together:
            for name, value, seconds in values:
                together.set(PREFIX + name, value, ex=seconds)
            together.execute()

    ask(services, send)


def forget(services: Services, names: Iterable[str]) -> None:
    """Have the shared cache drop what it has under these names. One that is away drops nothing."""
    keys = [PREFIX + name for name in names]
    if keys:
        ask(services, lambda cache: cache.unlink(*keys))


def memory_used(services: Services) -> float | None:
    """The share of its memory that the shared cache has taken: of what it may have, and of what it should have.

    None where it does not answer, or does not say.
    """
    facts: Any = ask(services, lambda cache: cache.info("memory"))
    used = facts and facts.get("used_memory")
    if used is None:
        return None
    # Some servers that speak Redis's language name no limit.
    may, should = facts.get("maxmemory"), services.settings.cache_memory
    return float(used / (min(may, should) if may else should))
