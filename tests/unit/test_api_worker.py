"""How the processes of the API share its connections, with a real gunicorn."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import psutil
import pytest
from flask import Flask, Response

from services.api.worker import MOST_WAITING
from services.config import load_settings
from services.stack.plan import api_command
from tests.servers import free_ports, wait_until

PROCESSES, THREADS = 2, 2
SLOW_SECONDS = 4.0


def app() -> Flask:
    """What gunicorn runs: says at once which process answers, and comes to an end at once or later."""
    made = Flask(__name__)

    def answer(seconds: float) -> Response:
        def parts() -> Iterator[str]:
            yield str(os.getpid())
            time.sleep(seconds)

        return Response(parts())

    made.add_url_rule("/<float:seconds>", view_func=answer)
    return made


class Connection:
    """A client's connection, which stays open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def begin(self, seconds: float) -> Callable[[], str]:
        """Ask, and wait until a thread is at work; what is returned waits for the end, and says which process it is."""
        self._connection.request("GET", f"/{seconds}")
        response = self._connection.getresponse()
        return lambda: response.read().decode()

    def ask(self, seconds: float = 0.0) -> str:
        """The process that answered."""
        return self.begin(seconds)()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a gunicorn as `akin up` starts it, on the application above."""
    (port,) = free_ports(1)
    settings = load_settings(port=port, api_processes=PROCESSES, api_threads=THREADS)
    command = [*api_command(settings)[:-1], "tests.unit.test_api_worker:app()"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        leader = psutil.Process(server.pid)
        try:
            wait_until(lambda: len(leader.children()) == PROCESSES, "its processes run", 30)
            seen: set[str] = set()

            def all_answer() -> bool:
                with ThreadPoolExecutor(8) as pool:
                    seen.update(pool.map(lambda _: _asked_once(port), range(8)))
                return len(seen) == PROCESSES

            wait_until(all_answer, "each of them answers", 60)
            yield port
        finally:
            server.terminate()
            server.wait(30)


def _asked_once(port: int) -> str:
    connection = Connection(port)
    try:
        return connection.ask(0.05)
    except ConnectionError:
        return ""
    finally:
        connection.close()


def test_nobody_waits_for_a_busy_process_while_another_is_free(port: int) -> None:
    for _ in range(3):
        slow = [Connection(port) for _ in range(THREADS)]
        first = _held_by_one(slow)
        busy = [connection.begin(SLOW_SECONDS) for connection in slow]
        began = time.monotonic()
        answers = [_asked_once(port) for _ in range(10)]
        assert time.monotonic() - began < SLOW_SECONDS / 2
        assert {ends() for ends in busy} == {first}
        assert first not in answers


def _held_by_one(connections: list[Connection]) -> str:
    """Make connections anew until one process has them all; which one."""
    for _ in range(200):
        answered = [connection.ask() for connection in connections]
        if len(set(answered)) == 1:
            return answered[0]
        for connection in connections:
            connection.close()
    raise AssertionError("no process ever had all connections")


def test_many_clients_that_come_at_once_are_shared(port: int) -> None:
    until = time.monotonic() + 2.0

    def client(_: int) -> list[str]:
        connection = Connection(port)
        answered = []
        while time.monotonic() < until:
            answered.append(connection.ask(0.01))
        connection.close()
        return answered

    with ThreadPoolExecutor(32) as pool:
        answered = Counter(name for names in pool.map(client, range(32)) for name in names)
    assert len(answered) == PROCESSES
    assert min(answered.values()) > sum(answered.values()) / 4


def test_the_longest_id_of_an_item_and_a_filter_fit_into_an_address(port: int) -> None:
    filtered = quote('{"field": "brand", "in": [' + ", ".join(f'"brand {number}"' for number in range(30)) + "]}")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    connection.request("GET", f"/0.0?filter={filtered}&item={quote(chr(0x1F45F) * 512)}")
    response = connection.getresponse()

    assert response.status == 200
    assert response.read().isdigit()
    connection.close()


def _status(connection: http.client.HTTPConnection, seconds: float) -> tuple[int, float]:
    """How a request was answered, and after how long."""
    began = time.monotonic()
    connection.request("GET", f"/{seconds}")
    response = connection.getresponse()
    content = response.read()
    if response.status == 503:
        assert response.getheader("Retry-After") == "2"
        assert response.getheader("Content-Type") == "application/problem+json"
        assert json.loads(content)["code"] == "unavailable"
    return response.status, time.monotonic() - began


@pytest.mark.parametrize("kept_alive", [False, True])
def test_what_is_too_much_to_wait_for_is_refused_early(port: int, kept_alive: bool) -> None:
    """Threads that answer eight a second would keep the last of these clients waiting for twenty seconds."""
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(160)]
    if kept_alive:
        for connection in connections:
            assert _status(connection, 0.0)[0] == 200

    with ThreadPoolExecutor(len(connections)) as pool:
        answers = list(pool.map(lambda connection: _status(connection, 0.5), connections))

    served = [seconds for status, seconds in answers if status == 200]
    refused = [seconds for status, seconds in answers if status == 503]
    assert len(served) + len(refused) == len(connections)
    may_wait = MOST_WAITING * PROCESSES * THREADS
    assert len(served) >= may_wait
    assert len(refused) >= len(connections) / 3
    assert max(refused) < max(served)
    # It goes on as if nothing had been.
    assert {_status(http.client.HTTPConnection("127.0.0.1", port, timeout=60), 0.0)[0] for _ in range(20)} == {200}
    for connection in connections:
        connection.close()
