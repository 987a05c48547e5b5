"""Searches that wait at the same time are asked in one call, and each thread has its own answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from services.errors import NotFound, Unavailable
from services.vectors.base import Vectors
from services.vectors.together import MOST_VECTORS, Together

PATIENCE_S = 30.0


class Server:
    """Answers vectors with their first numbers; each call waits until it is let."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)
        self.failure: BaseException | None = None

    def __call__(self, vectors: Vectors) -> list[int]:
        self.calls.append([int(one) for one in vectors[:, 0]])
        self.begun.release()
        assert self.let.acquire(timeout=PATIENCE_S)
        if self.failure is not None:
            raise self.failure
        return self.calls[-1]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def vectors(*first: int) -> Vectors:
    return np.array([[number, 0] for number in first], np.float32)


def waiting(
    together: Together[int], asked: Callable[[], Future[list[int]]], kind: str, count: int
) -> Future[list[int]]:
    """Ask, and come back when so many wait for the call that is under way."""
    told = asked()
    until = time.monotonic() + PATIENCE_S
    while len(together._waiting[kind]) < count:
        assert time.monotonic() < until
        time.sleep(0.001)
    return told


def test_those_who_ask_while_a_call_is_under_way_share_the_next(threads: ThreadPoolExecutor) -> None:
    together, server = Together[int](), Server()

    def ask(*first: int) -> Future[list[int]]:
        return threads.submit(together.ask, "near", vectors(*first), server)

    one = ask(1)
    assert server.begun.acquire(timeout=PATIENCE_S)
    others = [waiting(together, lambda: ask(2), "near", 1), waiting(together, lambda: ask(3, 4), "near", 2)]
    server.let.release(2)

    assert one.result(PATIENCE_S) == [1]
    assert [other.result(PATIENCE_S) for other in others] == [[2], [3, 4]]
    assert server.calls == [[1], [2, 3, 4]]
    assert together._waiting == {}


def test_searches_of_another_kind_wait_for_nobody(threads: ThreadPoolExecutor) -> None:
    together, near, far = Together[int](), Server(), Server()
    slow = threads.submit(together.ask, "near", vectors(1), near)
    assert near.begun.acquire(timeout=PATIENCE_S)
    far.let.release()

    assert together.ask("far", vectors(2), far) == [2]

    near.let.release()
    assert slow.result(PATIENCE_S) == [1]


def test_many_vectors_fill_a_call_of_their_own(threads: ThreadPoolExecutor) -> None:
    together, slow, server = Together[int](), Server(), Server()
    first = threads.submit(together.ask, "near", vectors(1), slow)
    assert slow.begun.acquire(timeout=PATIENCE_S)
    server.let.release()

    many = list(range(MOST_VECTORS + 1))
    assert together.ask("near", vectors(*many), server) == many

    slow.let.release()
    assert first.result(PATIENCE_S) == [1]


@pytest.mark.parametrize(
    ("failure", "told"),
    [(Unavailable("gone"), Unavailable), (NotFound("dropped"), NotFound), (KeyboardInterrupt(), Unavailable)],
)
def test_a_call_that_fails_fails_for_all_who_share_it_and_for_nobody_after_them(
    threads: ThreadPoolExecutor, failure: BaseException, told: type[Exception]
) -> None:
    together, server = Together[int](), Server()

    def ask(first: int) -> Future[list[int]]:
        return threads.submit(together.ask, "near", vectors(first), server)

    one = ask(1)
    assert server.begun.acquire(timeout=PATIENCE_S)
    leader = waiting(together, lambda: ask(2), "near", 1)
    follower = waiting(together, lambda: ask(3), "near", 2)
    server.let.release()
    assert one.result(PATIENCE_S) == [1]
    assert server.begun.acquire(timeout=PATIENCE_S)
    server.failure = failure
    after = waiting(together, lambda: ask(4), "near", 1)
    server.let.release()

    with pytest.raises(type(failure)):
        leader.result(PATIENCE_S)
    with pytest.raises(told):
        follower.result(PATIENCE_S)
    assert server.begun.acquire(timeout=PATIENCE_S)
    server.failure = None
    server.let.release()
    assert after.result(PATIENCE_S) == [4]
    assert server.calls == [[1], [2, 3], [4]]
    assert together._waiting == {}
