"""One program of the stack, and its life as a process: start, death, restart, stop."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from services.stack.logs import open_log
from services.stack.tether import tethered

# Asks a program whether it does its work: None when it does, else one sentence that says what is missing.
Probe = Callable[[], str | None]

QUICK_DEATH_SECONDS = 10.0
FIRST_DELAY = 0.5
LONGEST_DELAY = 10.0


@dataclass(frozen=True)
class Program:
    """What to run, how to know that it is ready, and how to stop it.

    Args:
        name: of the log file and of messages.
        environment: the whole environment of the process, as it may hold secrets kept out of messages.
        stdin: given on standard input, for secrets that a command line would show to every user.
        directory: where it runs, made if it is missing; the supervisor's own by default.
        grace: seconds from `stop_signal` until it is killed.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    stdin: str = field(default="", repr=False)
    directory: Path | None = None
    probe: Probe | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 10.0


class Child:
    """A program that is to be running. Use it from the main thread: it dies with the thread that started it.

    The process leads a session and a process group of its own, so that a terminal's Ctrl-C reaches only the
    supervisor, and whatever the program started can be killed with it.
    """

    def __init__(self, program: Program, log: Path) -> None:
        self.program = program
        self.log = log
        self.restarts = 0
        self.quick_deaths = 0
        self.has_lasted = False
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._next_start = 0.0

    @property
    def pid(self) -> int | None:
        """Process id while it is running."""
        return self._process.pid if self._process else None

    @property
    def delay(self) -> float:
        """Seconds from the last death to the restart; they double with each death soon after a start."""
        return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** max(0, self.quick_deaths - 1))

    @property
    def settled(self) -> bool:
        """Whether it is running, and if it died soon after its last start, for longer than that."""
        if self._process is None:
            return False
        return self.quick_deaths == 0 or time.monotonic() - self._started > QUICK_DEATH_SECONDS

    @property
    def due(self) -> bool:
        """Whether it is not running and the delay is over."""
        return self._process is None and time.monotonic() >= self._next_start

    def start(self) -> None:
        """Start the process."""
        if self.program.directory:
            self.program.directory.mkdir(parents=True, exist_ok=True)
        with open_log(self.log) as log:
            self._process = subprocess.Popen(
                tethered(self.program.command),
                cwd=self.program.directory,
                env=dict(self.program.environment),
                stdin=subprocess.PIPE if self.program.stdin else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started = time.monotonic()
        if self._process.stdin:
            with suppress(BrokenPipeError), self._process.stdin as stdin:  # its death is seen by reap()
                stdin.write(self.program.stdin.encode())

    def reap(self) -> str | None:
        """How the process ended, once, after it did; it is then to be started again after `delay`."""
        if self._process is None or self._process.poll() is None:
            return None
        returncode = self._process.returncode
        self._bury()
        now = time.monotonic()
        lasted = now - self._started >= QUICK_DEATH_SECONDS
        self.has_lasted = self.has_lasted or lasted
        self.quick_deaths = 0 if lasted else self.quick_deaths + 1
        self.restarts += 1
        self._next_start = now + self.delay
        return f"signal {signal.Signals(-returncode).name}" if returncode < 0 else f"exit status {returncode}"

    def ask_to_stop(self) -> None:
        """Send the stop signal to the process itself: only it knows in what order its helpers may end."""
        if self._process:
            self._process.send_signal(self.program.stop_signal)

    def stopped(self) -> bool:
        """Whether the process has ended; what it left in its group is then killed."""
        if self._process is not None and self._process.poll() is not None:
            self._bury()
        return self._process is None

    def kill(self) -> None:
        """Kill the process and its group, and wait for its end."""
        if self._process:
            self._kill_group(self._process.pid)
            self._process.wait()
            self._bury()

    def _bury(self) -> None:
        assert self._process is not None
        self._kill_group(self._process.pid)
        self._process = None

    @staticmethod
    def _kill_group(leader: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
            os.killpg(leader, signal.SIGKILL)
