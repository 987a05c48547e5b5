"""What becomes of a cache that refuses, never answers, or is no Redis but speaks its language."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from services import caching
from services.config import Settings
from services.wiring import Services, build
from tests.servers import wait_until


@contextmanager
def answering(folder: Path, answers: Mapping[bytes, bytes]) -> Iterator[Services]:
    """Services whose cache gives these answers to commands, and +OK to others, as when a client connects."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while words := int(self.rfile.readline()[1:] or 0):
                command = [self.rfile.read(int(self.rfile.readline()[1:]) + 2)[:-2] for _ in range(words)]
                self.wfile.write(answers.get(command[0].upper(), b"+OK\r\n"))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        # Version 2 of the protocol needs no greeting.
        address = f"redis://127.0.0.1:{server.server_address[1]}/0?protocol=2"
        services = build(Settings(data_dir=folder, cache_url=SecretStr(address)))
        try:
            yield services
        finally:
            services.close()
            server.shutdown()
            thread.join()


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


def test_of_a_cache_that_names_no_limit_the_share_is_that_of_what_it_should_have(tmp_path: Path) -> None:
    with answering(tmp_path, {b"INFO": bulk(b"used_memory:8388608\r\n")}) as services:
        assert caching.memory_used(services) == 8388608 / services.settings.cache_memory


def test_of_a_cache_that_does_not_say_what_it_uses_nothing_is_known(tmp_path: Path) -> None:
    with answering(tmp_path, {b"INFO": bulk(b"uptime:7\r\n")}) as services:
        assert caching.memory_used(services) is None


def test_a_cache_that_is_full_is_still_read(tmp_path: Path) -> None:
    answers = {b"SET": b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", b"GET": bulk(b"kept")}
    with answering(tmp_path, answers) as services:
        caching.remember_many(services, {"one": b"value"}, 60)

        assert caching.recall(services, "other") == b"kept"


def test_while_one_tries_a_cache_that_was_away_the_others_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "AWAY_SECONDS", 0.0)  # one may try again at once
    with socket.create_server(("127.0.0.1", 0)) as silent:
        services = build(Settings(data_dir=tmp_path))
        slow = redis.Redis(port=silent.getsockname()[1], socket_timeout=3, retry=None)
        monkeypatch.setitem(vars(services), "cache", slow)
        first = threading.Thread(target=caching.recall, args=(services, "one"))
        first.start()
        with silent.accept()[0]:
            pass  # hung up: it is known to be away
        first.join()
        trying = threading.Thread(target=caching.recall, args=(services, "one"))
        trying.start()
        with silent.accept()[0]:
            began = time.monotonic()
            assert caching.recall(services, "one") is None
            assert time.monotonic() - began < 1
        trying.join()
        services.close()


def test_what_nobody_waits_for_is_kept_soon_in_the_cache_that_it_is_for(tmp_path: Path, redis_url: str) -> None:
    addresses = [redis_url.replace("/0", f"/{number}") for number in (11, 12)]
    first, second = (build(Settings(data_dir=tmp_path, cache_url=SecretStr(address))) for address in addresses)
    try:
        for number in range(5):
            caching.remember_soon(first, f"one-{number}", b"%d" % number, 60)
        caching.remember_soon(second, "other", b"value", 60)

        names = [f"one-{number}" for number in range(5)]
        wait_until(lambda: caching.recall_many(first, names) == [b"0", b"1", b"2", b"3", b"4"], "they are kept", 5)
        wait_until(lambda: caching.recall(second, "other") == b"value", "it is kept", 5)
        assert caching.recall(second, "one-0") is None
        assert 0 < first.cache.ttl(caching.PREFIX + "one-0") <= 60
    finally:
        first.close()
        second.close()


def test_of_too_much_that_nobody_waits_for_the_rest_is_not_kept(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "MOST_WAITING", 2)
    monkeypatch.setattr(caching, "GATHERING_SECONDS", 0.5)
    services = build(Settings(data_dir=tmp_path, cache_url=SecretStr(redis_url.replace("/0", "/13"))))
    try:
        for name in ("a", "b", "c"):
            caching.remember_soon(services, name, b"kept", 60)
        wait_until(lambda: caching.recall(services, "a") == b"kept", "it is kept", 5)
        assert caching.recall_many(services, ["b", "c"]) == [b"kept", None]
        caching.remember_soon(services, "d", b"later", 60)
        wait_until(lambda: caching.recall(services, "d") == b"later", "there is room again", 5)
    finally:
        services.close()
