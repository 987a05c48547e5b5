"""Replace this process by a command that the kernel stops when its parent ends.

Run as a script: ``python -I -S tether.py PARENT SIGNAL COMMAND…``. It is a program of its own, not a
``preexec_fn``, because Python code between fork and exec is unsafe in a process that has threads, and
gRPC starts some. It imports nothing of Akin, so that it costs milliseconds.

Source: prctl(2), PR_SET_PDEATHSIG. The signal is sent when the *thread* that started this process ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1


def tethered(command: Sequence[str], on_parent_death: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command line that runs `command` under this process, to be sent `on_parent_death` when it ends.

    Elsewhere than on Linux the command runs untied: what is left is found by the next `akin up`.
    """
    script = str(Path(__file__).resolve())
    return [sys.executable, "-I", "-S", script, str(os.getpid()), str(int(on_parent_death)), *command]


def main(arguments: Sequence[str]) -> None:
    """Tie this process to its parent, then become the command."""
    parent, death_signal, command = int(arguments[0]), int(arguments[1]), list(arguments[2:])
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, death_signal) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:  # it ended before the request was made
            sys.exit(1)
    # A shell's background job ignores SIGINT and hands that down; these programs are stopped by it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the supervisor's own command, without a shell
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
