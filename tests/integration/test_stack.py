"""The supervisor of `akin up` with real processes: it starts, mends and stops, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import psutil
import pytest
import redis
from pydantic import SecretStr

from services.config import MEGABYTE, Settings
from services.errors import Unavailable
from services.stack.background import background_stack
from services.stack.checks import check_milvus
from services.stack.findings import Outcome
from services.stack.ports import server_port
from services.stack.program import Child
from services.stack.redis_checks import check_cache, check_redis
from services.stack.servers import redis_server
from services.stack.state import ProcessRef, RunState

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("stack_programs.py")
T = TypeVar("T")


class Stack:
    """A supervisor of the small stack, and every process that descends from it, found by a mark it inherits."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.mark = uuid.uuid4().hex
        self.process: subprocess.Popen[str] | None = None

    def start(self, scenario: str = "working", servers: str = "", **settings: str) -> subprocess.Popen[str]:
        defaults = {"AKIN_DATA_DIR": str(self.data_dir), "AKIN_PORT": str(server_port())}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AKIN_")}
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), scenario, servers],
            env={**clean, "PYTHONPATH": str(ROOT), "STACK_MARK": self.mark, **defaults, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self.process

    def ready(self) -> RunState:
        return until(lambda: RunState.read(self.data_dir), 30)

    def finish(self, seconds: float = 20) -> tuple[int, str]:
        """Exit status and everything that was said."""
        assert self.process is not None
        _, said = self.process.communicate(timeout=seconds)
        return self.process.returncode, said

    def processes(self) -> list[psutil.Process]:
        """Every living process of this stack, however far down."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("STACK_MARK") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def until(condition: Callable[[], T | None], seconds: float = 10) -> T:
    """Await a truthy answer."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return answer


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / "data")
    yield stack
    for process in stack.processes():
        process.kill()
    if stack.process is not None:
        stack.process.communicate()


def test_a_stack_serves_under_one_directory_and_stops_in_reverse_order(stack: Stack) -> None:
    stack.start(servers="redis,milvus")
    state = stack.ready()

    assert httpx.get(f"{state.api_url}/readyz").status_code == 200
    assert redis.Redis.from_url(state.redis_url).config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert set(state.children) == {"redis", "milvus", "worker", "api"}
    assert stat.S_IMODE((stack.data_dir / "run.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(stack.data_dir.stat().st_mode) == 0o700
    assert (stack.data_dir / "logs" / "worker.log").read_text() == "working\n"
    password = state.redis_url.split(":")[2].split("@")[0]
    assert not any(password in word for process in stack.processes() for word in process.cmdline())

    os.kill(state.pid, signal.SIGTERM)
    status, said = stack.finish()

    assert status == 0, said
    assert "worker| working" in said
    assert (stack.data_dir / "stopped.txt").read_text().split() == ["api", "worker"]
    assert "Ready to accept connections" in (stack.data_dir / "logs" / "redis.log").read_text()
    assert "Shutting down" in (stack.data_dir / "logs" / "milvus.log").read_text(), "Milvus Lite closed its files"
    assert stack.processes() == []
    assert not (stack.data_dir / "run.json").exists()


def test_the_doctor_examines_the_servers_that_run(stack: Stack) -> None:
    stack.start(servers="redis,cache,milvus", AKIN_CACHE_MEMORY=str(16 * MEGABYTE))
    settings, state = Settings(data_dir=stack.data_dir), stack.ready()

    queue, cache, milvus = (check(settings, state) for check in (check_redis, check_cache, check_milvus))

    assert [finding.outcome for finding in (queue, cache, milvus)] == [Outcome.OK] * 3, (queue, cache, milvus)
    assert queue.detail.endswith("noeviction")
    assert cache.detail.endswith("allkeys-lru, 16 MB")
    assert milvus.detail.startswith("answers, version milvus_lite")
    assert ":***@" in queue.address
    assert ":***@" in cache.address
    assert queue.address != cache.address


def test_a_redis_that_evicts_is_not_fit_for_a_queue(stack: Stack) -> None:
    stack.start(servers="redis")
    settings, state = Settings(data_dir=stack.data_dir), stack.ready()
    redis.Redis.from_url(state.redis_url).config_set("maxmemory-policy", "allkeys-lru")

    finding = check_redis(settings, state)

    assert finding.outcome is Outcome.FAILED
    assert "set it to noeviction" in finding.detail


def test_a_redis_that_never_evicts_is_not_fit_for_a_cache_unless_it_is_the_queue_too(stack: Stack) -> None:
    stack.start(servers="redis,cache")
    state = stack.ready()
    assert state.cache_url is not None
    broker, other = SecretStr(state.redis_url), SecretStr(state.cache_url)

    shared = check_cache(Settings(data_dir=stack.data_dir, redis_url=broker), None)
    other_database = SecretStr(state.redis_url.removesuffix("0") + "1")
    same_server = check_cache(Settings(data_dir=stack.data_dir, redis_url=broker, cache_url=other_database), None)
    evicting = check_cache(Settings(data_dir=stack.data_dir, redis_url=broker, cache_url=other), None)
    never = check_cache(Settings(data_dir=stack.data_dir, redis_url=other, cache_url=broker), None)
    redis.Redis.from_url(state.cache_url).config_set("maxmemory", 0)
    unbounded = check_cache(Settings(data_dir=stack.data_dir, redis_url=broker, cache_url=other), None)

    assert [finding.outcome for finding in (shared, same_server, evicting)] == [Outcome.OK] * 3
    assert "set AKIN_CACHE_URL" in shared.detail
    assert shared.detail == same_server.detail
    for finding in (never, unbounded):
        assert finding.outcome is Outcome.FAILED
        assert "set a maxmemory, and the policy to allkeys-lru" in finding.detail


def test_a_killed_cache_comes_back_empty_while_everything_goes_on(stack: Stack) -> None:
    stack.start(servers="redis,cache", AKIN_CACHE_MEMORY=str(8 * MEGABYTE))
    before = stack.ready()
    assert before.cache_url is not None
    cache, queue = redis.Redis.from_url(before.cache_url), redis.Redis.from_url(before.redis_url)
    queue.set("queued", 1)
    for number in range(200):  # more than it may hold: it makes room by itself
        cache.set(f"akin:cache:{number}", bytes(100_000), ex=60)
    assert cache.exists("akin:cache:199")
    # Which of the others went is chance: within a second all of them were used last.
    assert cache.dbsize() < 200

    os.kill(before.children["cache"].pid, signal.SIGKILL)
    while (state := stack.ready()).children.get("cache") in (None, before.children["cache"]):
        assert httpx.get(f"{before.api_url}/readyz").status_code == 200
    until(lambda: answers(before.cache_url))

    assert state.cache_url == before.cache_url
    others = before.children.keys() - {"cache"}
    assert all(state.children[name] == before.children[name] for name in others), "nothing else was started again"
    assert cache.dbsize() == 0
    assert cache.config_get("maxmemory") == {"maxmemory": str(8 * MEGABYTE)}
    assert cache.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
    assert queue.get("queued") == b"1"
    assert list((stack.data_dir / "cache").iterdir()) == [], "it keeps nothing on disk"
    assert (stack.data_dir / "logs" / "cache.log").read_text().count("Ready to accept connections") == 2


def test_what_dies_is_started_again_at_the_same_address(stack: Stack) -> None:
    process = stack.start(servers="redis")
    before = stack.ready()
    helper = ProcessRef.of(until(psutil.Process(before.children["worker"].pid).children)[0].pid)

    for name in ("redis", "worker"):
        os.kill(before.children[name].pid, signal.SIGKILL)

    def mended() -> RunState | None:
        state = RunState.read(stack.data_dir)
        new = state is not None and all(
            state.children.get(n) not in (None, before.children[n]) for n in ("redis", "worker")
        )
        return state if new else None

    after = until(mended)
    assert after.redis_url == before.redis_url
    assert until(lambda: answers(after.redis_url))
    assert after.children["api"] == before.children["api"], "what lived was left alone"
    assert not helper.is_alive(), "the dead worker's helper went with it"
    process.terminate()
    status, said = stack.finish()
    assert status == 0
    assert "redis ended (signal SIGKILL); restart 1 in 0.5 s" in said
    assert "worker ended (signal SIGKILL); restart 1 in 0.5 s" in said
    assert stack.processes() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_stop_it_too(stack: Stack, number: signal.Signals) -> None:
    process = stack.start()
    stack.ready()

    process.send_signal(number)

    assert stack.finish()[0] == 0
    assert stack.processes() == []


def test_a_second_stack_on_the_directory_is_refused(stack: Stack) -> None:
    first = stack.start()
    stack.ready()
    second = Stack(stack.data_dir)

    second.start()
    status, said = second.finish()

    assert status == 1
    assert f"another `akin up` (process {first.pid}) runs on {stack.data_dir}" in said
    assert RunState.read(stack.data_dir) is not None, "the first one is untouched"


def test_killing_the_supervisor_ends_its_children_and_the_next_start_works(stack: Stack) -> None:
    process = stack.start(servers="redis")
    state = stack.ready()

    process.kill()
    stack.finish()

    until(lambda: not any(child.is_alive() for child in state.children.values()), 5)
    assert RunState.read(stack.data_dir) is None
    stack.start(servers="redis")
    assert stack.ready().pid != process.pid


def test_a_program_that_cannot_start_ends_the_stack_with_its_log(stack: Stack) -> None:
    stack.start("crashing", servers="redis")

    status, said = stack.finish(40)

    assert status == 1
    assert "worker does not stay up: it ended 5 times (exit status 1)" in said
    assert said.rstrip().endswith("cannot find my keys")
    assert stack.processes() == []


def test_a_second_ctrl_c_does_not_wait_for_the_stubborn(stack: Stack) -> None:
    process = stack.start("stubborn")
    stack.ready()

    process.send_signal(signal.SIGINT)
    until((stack.data_dir / "stopped.txt").exists)
    process.send_signal(signal.SIGINT)

    status, said = stack.finish(10)
    assert status == 0
    assert "worker did not stop in time: killed" in said
    assert stack.processes() == []


def test_grace_is_limited(stack: Stack) -> None:
    process = stack.start("impatient")
    stack.ready()

    process.terminate()

    assert "worker did not stop in time: killed" in stack.finish(10)[1]
    assert stack.processes() == []


def test_a_taken_port_is_replaced_and_said(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = stack.start(AKIN_PORT=str(port))
        state = stack.ready()

        assert httpx.get(f"{state.api_url}/readyz").status_code == 200
        process.terminate()
        assert f"port {port} is taken: the API is on port {state.api_url.rpartition(':')[2]}" in stack.finish()[1]


def test_a_configured_redis_is_used_instead_of_an_embedded_one(stack: Stack, tmp_path: Path) -> None:
    url = f"redis://:secret@127.0.0.1:{server_port()}/0"
    own = Child(redis_server(url, tmp_path / "redis"), tmp_path / "redis.log")
    own.start()
    try:
        until(lambda: answers(url))
        stack.start(servers="redis", AKIN_REDIS_URL=url)
        state = stack.ready()
        assert state.redis_url == url
        assert set(state.children) == {"worker", "api"}
    finally:
        own.kill()


def test_a_configured_redis_that_does_not_answer_is_named(stack: Stack) -> None:
    stack.start(AKIN_REDIS_URL=f"redis://127.0.0.1:{server_port()}/0")

    status, said = stack.finish(25)

    assert status == 1
    assert "the Redis of AKIN_REDIS_URL does not answer" in said
    assert stack.processes() == []


def test_a_background_stack_lives_as_long_as_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    environment = {"AKIN_PORT": str(server_port())}

    with background_stack(
        tmp_path / "data", environment=environment, command=[sys.executable, str(SCRIPT), "working", "redis"]
    ) as state:
        assert httpx.get(f"{state.api_url}/readyz").status_code == 200
        assert state.api_key == "local-key"

    assert RunState.read(tmp_path / "data") is None
    assert not any(child.is_alive() for child in state.children.values())


def test_a_background_stack_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    with (
        pytest.raises(Unavailable, match="unknown setting: AKIN_NONSENSE"),
        background_stack(
            tmp_path / "data", environment={"AKIN_NONSENSE": "1"}, command=[sys.executable, str(SCRIPT), "working", ""]
        ),
    ):
        pytest.fail("it is not ready")


def answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False
