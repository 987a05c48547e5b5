"""run.json: where a running stack is found by other commands, and what to clear away after a crash."""

from __future__ import annotations

import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

# psutil derives start times from the wall clock, which may be set while a process lives.
START_TOLERANCE = 2.0


class ProcessRef(BaseModel):
    """A process by id and start time (seconds since the epoch), since ids are used again."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessRef:
        """Refer to a running process.

        Raises:
            psutil.NoSuchProcess: there is none.
        """
        return cls(pid=pid, started=psutil.Process(pid).create_time())

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            process = psutil.Process(self.pid)
            return (
                abs(process.create_time() - self.started) < START_TOLERANCE and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False


class RunState(ProcessRef):
    """The running stack of a data directory; `pid` is the supervisor's. The file is readable by its owner only."""

    api_url: str
    api_key: str = Field(repr=False)
    redis_url: str = Field(repr=False)
    cache_url: str | None = Field(None, repr=False)  # unknown where an earlier release wrote it
    milvus_uri: str
    children: dict[str, ProcessRef]

    @classmethod
    def read(cls, data_dir: Path) -> RunState | None:
        """The stack that runs in this directory, None where none does."""
        state = cls._load(data_dir)
        return state if state is not None and state.is_alive() else None

    @classmethod
    def is_left_behind(cls, data_dir: Path) -> bool:
        """Whether the last stack of this directory was killed, and none has run since."""
        state = cls._load(data_dir)
        return state is not None and not state.is_alive()

    def write(self, data_dir: Path) -> None:
        """Replace run.json in one step."""
        descriptor, name = tempfile.mkstemp(dir=data_dir, prefix=".run-")  # mode 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(self.model_dump_json(indent=2))
            Path(name).replace(_path(data_dir))
        except BaseException:
            Path(name).unlink()
            raise

    @staticmethod
    def remove(data_dir: Path) -> None:
        """Delete run.json."""
        _path(data_dir).unlink(missing_ok=True)

    @classmethod
    def clear_orphans(cls, data_dir: Path) -> list[str]:
        """Kill what a supervisor that was itself killed left running, and delete its run.json.

        For the holder of the directory's lock only. Returns the names of the programs that were still alive.
        """
        state = cls._load(data_dir)
        orphans = [] if state is None else [(name, child) for name, child in state.children.items() if child.is_alive()]
        for _, child in orphans:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        cls.remove(data_dir)
        return [name for name, _ in orphans]

    @classmethod
    def _load(cls, data_dir: Path) -> RunState | None:
        try:
            return cls.model_validate_json(_path(data_dir).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValidationError:  # of another release
            return None


def _path(data_dir: Path) -> Path:
    return data_dir / "run.json"
