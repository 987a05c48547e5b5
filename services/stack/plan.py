"""What `akin up` runs: addresses for what is not configured, and the table of programs."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gunicorn.config import KNOWN_SETTINGS
from pydantic import SecretStr

from services.config import Settings
from services.stack.ports import LOOPBACK, is_free, next_free, server_port
from services.stack.probes import api_probe, milvus_probe, redis_probe
from services.stack.program import Probe, Program
from services.stack.servers import cache_server, milvus_server, redis_server
from services.stack.state import RunState

# A worker asked to stop finishes its task. Killing it instead loses nothing: its ledger leases run out.
WORKER_GRACE = 15.0
# Within it gunicorn's processes notice that their master is gone.
LAST_RUN_SECONDS = 15.0


@dataclass(frozen=True)
class Plan:
    """Everything that a supervisor needs to know.

    Args:
        settings: with every address filled in.
        required: configured parts by what they are called in messages; they must answer before anything starts.
        servers: embedded servers, in starting order; they answer before the bootstrap.
        programs: the application, in starting order.
        notes: what differs from what was asked for.
    """

    settings: Settings
    api_url: str
    required: Mapping[str, Probe]
    servers: Sequence[Program]
    programs: Sequence[Program]
    notes: Sequence[str] = ()


def make_plan(configured: Settings) -> Plan:
    """Choose free ports and Redis passwords for the embedded parts, and list the programs.

    Raises:
        ConfigurationError: a server that is to be embedded is not installed, or no port is free.
    """
    settings = with_addresses(configured)
    required: dict[str, Probe] = {}
    servers: list[Program] = []
    if configured.redis_url is None:
        servers.append(redis_server(settings.redis, settings.data_dir / "redis"))
    else:
        required["the Redis of AKIN_REDIS_URL"] = redis_probe(settings.redis)
    if configured.cache_url is not None:
        required["the Redis of AKIN_CACHE_URL"] = redis_probe(settings.cache)
    elif configured.redis_url is None:
        servers.append(cache_server(settings.cache, settings.data_dir / "cache", settings.cache_memory))
    if configured.milvus_uri is None:
        servers.append(milvus_server(settings.milvus, settings.data_dir / "milvus"))
    else:
        required["the Milvus of AKIN_MILVUS_URI"] = milvus_probe(settings.milvus)
    moved = settings.port != configured.port
    return Plan(
        settings=settings,
        api_url=local_url(settings),
        required=required,
        servers=servers,
        programs=programs(settings),
        notes=[f"port {configured.port} is taken: the API is on port {settings.port}"] if moved else [],
    )


def with_addresses(settings: Settings) -> Settings:
    """The settings with an address for every part; they stay the same for the whole run."""
    update: dict[str, object] = {"port": _api_port(settings)}
    if settings.redis_url is None:
        update["redis_url"] = _redis_address()
        # A configured Redis is the cache too unless another is named: nothing is started beside it.
        if settings.cache_url is None:
            update["cache_url"] = _redis_address()
    if settings.milvus_uri is None:
        update["milvus_uri"] = f"http://{LOOPBACK}:{server_port()}"
    return settings.model_copy(update=update)


def _redis_address() -> SecretStr:
    return SecretStr(f"redis://:{secrets.token_urlsafe(24)}@{LOOPBACK}:{server_port()}/0")


def _api_port(settings: Settings) -> int:
    """The configured port, or the next free one."""
    # After a kill of the last run the processes of its API end by themselves; until then they keep its port.
    until = time.monotonic() + LAST_RUN_SECONDS
    while (
        RunState.is_left_behind(settings.data_dir)
        and not is_free(settings.host, settings.port)
        and time.monotonic() < until
    ):
        time.sleep(0.1)
    return next_free(settings.host, settings.port)


def local_url(settings: Settings) -> str:
    """Where a browser on this machine finds the API."""
    host = LOOPBACK if settings.host in {"", "0.0.0.0", "::"} else settings.host  # noqa: S104 - compared, not bound
    return f"http://{_bracketed(host)}:{settings.port}"


def environment(settings: Settings) -> dict[str, str]:
    """The environment in which a child reads these same settings."""
    variables = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for name in settings.model_fields_set | {"data_dir"}:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None:
            variables[f"AKIN_{name.upper()}"] = str(value)
    return variables


def programs(settings: Settings) -> list[Program]:
    """The application's processes, in the order in which they start."""
    # Threads of PyTorch that wait for each other sleep instead of spinning: other processes want the cores.
    variables = {"OMP_WAIT_POLICY": "PASSIVE", **environment(settings)}

    def worker(name: str, queues: str) -> Program:
        return Program(
            name=f"worker-{name}",
            command=[
                *(sys.executable, "-m", "celery", "-A", "workers.app", "worker"),
                *("--queues", queues, "--pool", "solo", "--loglevel", "WARNING"),
                *("-n", f"{name}@%h", "--without-gossip", "--without-mingle"),
            ],
            environment=variables,
            grace=WORKER_GRACE,
        )

    return [
        Program(name="query", command=[sys.executable, "-m", "workers.query"], environment=variables),
        worker("embed", "embed"),
        worker("imports", "imports,maintenance"),
        Program(name="scheduler", command=[sys.executable, "-m", "workers.scheduler"], environment=variables),
        Program(
            name="api",
            command=api_command(settings),
            environment=variables,
            probe=api_probe(local_url(settings)),
            grace=12.0,
        ),
    ]


def api_command(settings: Settings) -> list[str]:
    """gunicorn on the API."""
    options = {
        "--bind": f"{_bracketed(settings.host)}:{settings.port}",
        "--worker-class": "services.api.worker.Worker",
        "--threads": str(settings.api_threads),
        "--workers": str(settings.api_processes),
        "--timeout": "60",
        "--graceful-timeout": "10",
        # With those that it refuses and its own, fewer than the 1,024 files that a process may have open by default.
        "--worker-connections": "512",
        # The most that it takes: an item's id may have 512 characters, 12 bytes each in an address, and filters follow.
        "--limit-request-line": "8190",
    }
    command = [sys.executable, "-m", "gunicorn", *(word for pair in options.items() for word in pair)]
    # Releases that have a control socket keep it at one path in the home directory, for every instance.
    if any("--no-control-socket" in (setting.cli or ()) for setting in KNOWN_SETTINGS):
        command.append("--no-control-socket")
    return [*command, "services.api.wsgi:app"]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
