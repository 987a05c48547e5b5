"""Log files of supervised programs: rotation, the last lines, and following them on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

ROTATE_BYTES = 10 * 1024 * 1024
TAIL_BYTES = 16 * 1024


def open_log(path: Path) -> BinaryIO:
    """Open a log for appending; one over 10 MB is first set aside as `<name>.log.1`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > ROTATE_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return path.open("ab")


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, empty where there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


class Follower:
    """Reads the lines that are added to a log after it was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._partial = b""

    def lines(self) -> Iterator[str]:
        """The whole lines that came since the last call."""
        if not self._path.exists():
            return
        if self._path.stat().st_size < self._offset:  # rotated
            self._offset, self._partial = 0, b""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            added = file.read()
        self._offset += len(added)
        *whole, self._partial = (self._partial + added).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
