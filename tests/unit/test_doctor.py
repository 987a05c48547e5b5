"""`akin doctor` and `akin up` as commands: what they print, and their exit status."""

from __future__ import annotations

import json
import os
import socket
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr
from rich.console import Console

from services.cli.doctor import doctor, report
from services.cli.up import banner, up
from services.config import Settings
from services.stack.findings import Finding, Outcome, redact
from services.stack.ports import server_port
from services.stack.redis_checks import check_cache, check_redis
from services.stack.state import ProcessRef, RunState


def examine(data_dir: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    result = CliRunner().invoke(doctor, ["--json", "--data-dir", str(data_dir)])
    return result.exit_code, {finding["part"]: finding for finding in json.loads(result.stdout)}


def test_a_fresh_machine_is_fit_and_told_what_starts_the_rest(tmp_path: Path) -> None:
    status, findings = examine(tmp_path / "data")

    assert status == 0, findings
    assert list(findings) == ["python", "disk", "database", "redis", "cache", "milvus", "storage", "torch"]
    assert findings["redis"]["outcome"] == "not running"
    assert findings["redis"]["address"].endswith("redis-server")
    assert findings["cache"]["outcome"] == "not running"
    assert findings["milvus"]["advice"] == "`akin up` starts it"
    assert findings["torch"]["detail"].startswith("torch 2.")
    assert not (tmp_path / "data").exists(), "looking changes nothing"


def test_a_part_that_does_not_answer_fails_the_check_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server_port()
    monkeypatch.setenv("AKIN_REDIS_URL", f"redis://user:hunter2@127.0.0.1:{port}/0")

    status, findings = examine(tmp_path / "data")

    assert status == 1
    assert findings["redis"]["outcome"] == "failed"
    assert findings["redis"]["address"] == f"redis://user:***@127.0.0.1:{port}/0"
    assert "check AKIN_REDIS_URL" in findings["redis"]["advice"]
    assert findings["cache"]["outcome"] == "failed", "without another, it is the cache too"
    assert "hunter2" not in json.dumps(findings)


def test_a_wrong_port_is_a_finding_too(tmp_path: Path) -> None:
    queue, cache = SecretStr("redis://host:port/0"), SecretStr("redis://other:port/0")
    settings = Settings(data_dir=tmp_path, redis_url=queue, cache_url=cache)

    findings = [check_redis(settings, None), check_cache(settings, None)]

    assert [finding.outcome for finding in findings] == [Outcome.FAILED, Outcome.FAILED]
    assert "check AKIN_CACHE_URL" in findings[1].advice


def test_the_table_says_what_to_do() -> None:
    finding = Finding("redis", "configured", "redis://q/0", Outcome.FAILED, "no answer [refused]", "start the server")
    shown = StringIO()

    Console(width=200, file=shown).print(report([finding]))

    for cell in ("redis://q/0", "failed", "no answer [refused]", "start the server"):
        assert cell in shown.getvalue()


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKIN_NONSENSE", "1")
    for command in (doctor, up):
        result = CliRunner().invoke(command)
        assert result.exit_code == 1
        assert "unknown setting: AKIN_NONSENSE" in result.output


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pass@host:1/0", "redis://:***@host:1/0"),
        ("s3://key:pass@bucket/prefix?secret_access_key=x", "s3://key:***@bucket/prefix"),
        ("http://127.0.0.1:19530", "http://127.0.0.1:19530"),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, shown: str) -> None:
    assert redact(url) == shown


class Keys:
    first_admin_key = "akin_first"
    local_key = "akin_local"


def test_the_banner_signs_the_browser_in_and_shows_the_first_key_once(tmp_path: Path) -> None:
    state = RunState(
        **ProcessRef.of(os.getpid()).model_dump(),
        api_url="http://127.0.0.1:8081",
        api_key="akin_local",
        redis_url="redis://",
        cache_url="redis://",
        milvus_uri="http://",
        children={},
    )
    keys = Keys()

    first = banner(Settings(data_dir=tmp_path), state, keys).plain
    keys.first_admin_key = None  # type: ignore[assignment]
    later = banner(Settings(data_dir=tmp_path), state, keys).plain

    assert "http://127.0.0.1:8081/signin#akin_local" in first
    assert "http://127.0.0.1:8081/docs" in first
    assert "akin_first" in first
    assert "keep it, it is not shown again" in first
    assert "keep it" not in later


def test_up_refuses_an_address_that_is_not_here(tmp_path: Path) -> None:
    result = CliRunner().invoke(up, ["--host", "192.0.2.1", "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "cannot listen on 192.0.2.1" in result.output


def test_nothing_listens_after_a_refused_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    port = server_port()
    result = CliRunner().invoke(up, ["--port", str(port), "--data-dir", str(tmp_path / "file" / "data")])
    assert result.exit_code == 1
    assert "cannot make AKIN_DATA_DIR" in result.output
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
