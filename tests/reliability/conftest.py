"""What faults strike besides processes: a disk that can be filled, a database that goes away."""

from __future__ import annotations

import os
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import server_directory
from tests.servers import Server, milvus_server, postgres_server, require, running

pytest.register_assert_rewrite("tests.reliability.proof")

DISK_MEGABYTES = 768


@dataclass(frozen=True)
class Disk:
    """A directory; `small` where it is a file system of its own, which a file can fill."""

    path: Path
    small: bool


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small file system, or a directory where none may be mounted (AKIN_REQUIRE=disk says that one must)."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m,mode=0700", "akin-test", str(path)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        reason = f"a file system to fill cannot be mounted: {mounted.stderr.strip()}"
        if "disk" in os.environ.get("AKIN_REQUIRE", "").split(","):
            require("disk", reason)
        warnings.warn(f"no fault fills the disk: {reason}", stacklevel=1)
    try:
        yield Disk(path, small=not mounted.returncode)
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def postgres() -> Iterator[tuple[Server, str]]:
    """A PostgreSQL of the test's own, which may be stopped, and the URL of its database."""
    with server_directory("postgres") as directory:
        server, url = postgres_server(directory)
        # What it acknowledged must be there after it was cut off.
        server.command += ["-c", "synchronous_commit=on"]
        with running(server):
            yield server, url


@pytest.fixture
def milvus(pytestconfig: pytest.Config) -> Iterator[tuple[Server, str]]:
    """A real Milvus of the test's own, which may be killed, and its URI."""
    with server_directory("milvus") as directory:
        server, uri = milvus_server(directory, pytestconfig.cache.mkdir("milvus-2.3.5"))
        with running(server):
            yield server, uri
