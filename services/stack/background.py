"""A stack in the background, for programs that need one while they run: the demo, tests, benchmarks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from services.errors import Unavailable
from services.stack.logs import open_log, tail
from services.stack.state import RunState
from services.stack.tether import tethered

START_TIMEOUT = 300.0
STOP_TIMEOUT = 90.0
POLL = 0.1
# Nobody reads its welcome, so a first admin key would be lost there.
COMMAND = (sys.executable, "-m", "services.cli", "up", "--no-admin-key")


@contextmanager
def background_stack(
    data_dir: Path,
    *,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = COMMAND,
) -> Iterator[RunState]:
    """Run `akin up` as a child process for the length of the block; it ends with this process, however that ends.

    Enter it in a thread that lives as long as the block: the child is tied to the thread that started it.

    Args:
        environment: variables added to this process's own, AKIN_* settings among them.

    Raises:
        Unavailable: it ended before it was ready, or took too long; the message says what it said.
    """
    data_dir = data_dir.expanduser().resolve()
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = data_dir / "logs" / "up.log"
    with open_log(log) as notices:
        process = subprocess.Popen(
            tethered(command, on_parent_death=signal.SIGTERM),
            env={**os.environ, **(environment or {}), "AKIN_DATA_DIR": str(data_dir)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=notices,
            start_new_session=True,  # a Ctrl-C reaches this process, which then stops the stack once
        )
    try:
        yield _await_ready(process, data_dir, log)
    finally:
        _stop(process)


def _await_ready(process: subprocess.Popen[bytes], data_dir: Path, log: Path) -> RunState:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        state = RunState.read(data_dir)
        if state is not None and state.pid == process.pid:
            return state
        if process.poll() is not None:
            raise Unavailable(f"the stack did not start (exit status {process.returncode}):\n{tail(log)}")
        time.sleep(POLL)
    raise Unavailable(f"the stack was not ready within {START_TIMEOUT:g} s:\n{tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()  # its children die with it
        process.wait()
