"""One decoding process: a fresh interpreter that handles pictures over a socket and can be killed at any time.

It is started by exec rather than by fork or multiprocessing, so it is safe beside threads, gRPC and CUDA,
never imports the program that started it, and shares no lock or pipe with its siblings: whatever happens
to it concerns only the picture in its hands.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from services.errors import ImageReason, ImageRejected, Unavailable

Call = tuple[Any, ...]

_START_SECONDS = 60.0
_SEND_SECONDS = 0.05
_NOT_STARTED = "A decoding process cannot be started."
_STATM = Path("/proc/self/statm")
_BOOT = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
descriptor, memory, sys.path = json.loads(sys.argv[1])
from services.images.process import serve
serve(descriptor, memory)
"""


class DecodeProcess:
    """The parent's side: start, hand over calls, collect outcomes, kill."""

    def __init__(self, memory: int) -> None:
        """Start the process and wait until it is ready.

        Args:
            memory: bytes of address space that it may take beyond what it has when ready.

        Raises:
            Unavailable: it cannot be started.
        """
        self.handled = 0
        try:
            self._connection, self._process = _start(memory)
        except OSError as error:  # no descriptor, memory or process is to be had at the moment
            raise Unavailable(_NOT_STARTED) from error
        # One poll object for all calls: Connection.poll makes a selector each time, at 20 µs.
        self._poll = select.poll()
        self._poll.register(self._connection.fileno(), select.POLLIN)
        try:
            if not self._answers_within(_START_SECONDS):
                raise TimeoutError
            self._connection.recv()
        except (EOFError, OSError) as error:
            self.kill()
            raise Unavailable(_NOT_STARTED) from error

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(
        self, function: Callable[..., Any], calls: Sequence[Call], timeout: float
    ) -> tuple[list[Any], ImageRejected | None]:
        """Make the calls one after the other, each within `timeout` seconds.

        Returns:
            For each call what it returned or the exception that it raised, and None; or, if a call hangs or
            crashes, the outcomes known until then, and why the process is now dead. The guilty call is one
            of those without an outcome.
        """
        outcomes: list[Any] = []
        try:
            self._connection.send((function, list(calls)))
            while len(outcomes) < len(calls):
                if not self._answers_within(timeout):
                    self.kill()
                    return outcomes, ImageRejected(
                        ImageReason.TIMEOUT, f"The file was not decoded within {timeout:g} seconds."
                    )
                outcomes += self._connection.recv()
        except (EOFError, OSError):
            self.kill()
            return outcomes, ImageRejected(ImageReason.CRASHED, "The decoder crashed on this file.")
        self.handled += len(calls)
        return outcomes, None

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _answers_within(self, seconds: float) -> bool:
        return bool(self._poll.poll(seconds * 1000))


def _start(memory: int) -> tuple[Connection, subprocess.Popen[bytes]]:
    """A process and the socket to it.

    Raises:
        OSError: the system has not what that needs.
    """
    ours, theirs = Pipe()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps([theirs.fileno(), memory, sys.path])],
                stdin=subprocess.PIPE,  # nothing is ever written: it closes with this process
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError:
            ours.close()
            raise
    return ours, process


def serve(descriptor: int, memory: int) -> None:
    """The child's side: make calls as they come, until the parent is gone."""
    # Imported before the limit is set and before the first call's clock runs.
    import services.images.thumbnails  # noqa: F401
    from services.images import preprocess  # noqa: F401

    # Who stops the service signals the whole process group or control group: the parent decides when we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Native decoders write their complaints about files there.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    _die_with_parent()
    _bound(memory)
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, ConnectionError):
        connection.send(None)
        while True:
            _answer(connection, *connection.recv())


def _answer(connection: Connection, function: Callable[..., Any], calls: Sequence[Call]) -> None:
    """Make the calls and send what comes of them, small pictures in groups: a message costs as much as a picture."""
    outcomes: list[Any] = []
    sent = time.monotonic()
    for call in calls:
        outcomes.append(_outcome(function, call))
        if time.monotonic() - sent >= _SEND_SECONDS:
            connection.send(outcomes)
            outcomes, sent = [], time.monotonic()
    if outcomes:
        connection.send(outcomes)


def _outcome(function: Callable[..., Any], call: Call) -> Any:
    try:
        return function(*call)
    except Exception as error:  # noqa: BLE001  it is raised on the other side
        return error


def _die_with_parent() -> None:
    """Have the kernel end us when stdin closes, even inside a decoder that never returns.

    The parent holds the other end of stdin, and the kernel closes it however the parent dies. PR_SET_PDEATHSIG
    is no substitute: it fires when the thread that started us ends. Where SIGIO does not end a process (macOS),
    an idle one still ends with its socket.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)


def _bound(memory: int) -> None:
    """Allow `memory` more bytes of address space than now, and no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _STATM.exists():
        now = int(_STATM.read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = now + memory if most == resource.RLIM_INFINITY else min(now + memory, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
