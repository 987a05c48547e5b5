"""One stack a data directory: a file lock that the kernel releases however its holder ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.errors import Conflict


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the directory's lock. The file stays: deleting it would let two processes lock two files of one name.

    Raises:
        Conflict: another process holds it; the message names its id.
    """
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode().strip() or "unknown"
            raise Conflict(
                f"another `akin up` (process {holder}) runs on {data_dir}: "
                "stop it, or choose another directory with --data-dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)
