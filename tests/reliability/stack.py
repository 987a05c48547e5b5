"""A real stack that faults may strike: it can be killed as a whole and started again on the same data."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select

from services.catalog import jobs, keys
from services.catalog.database import Database
from services.catalog.keys import Scope
from services.catalog.models import Job, JobEntry
from services.catalog.states import EntryState
from services.client import AkinClient
from services.config import Settings
from services.errors import Unavailable
from services.stack.background import background_stack
from services.stack.logs import tail
from services.stack.plan import programs
from services.stack.program import Child, Program
from services.stack.state import RunState
from services.wiring import Services, build
from tests.servers import free_ports, wait_until

# Short leases, so that what a killed worker held comes back within the test. More attempts than by default: the
# tests kill more workers over one picture than a picture does that is to blame.
QUICK = {
    "AKIN_LEASE_SECONDS": "5",
    "AKIN_EMBED_BATCH": "8",
    "AKIN_MAX_ATTEMPTS": "12",
    "AKIN_DECODE_PROCESSES": "1",
    "AKIN_FETCH_ALLOW": "127.0.0.1",
}
PATIENCE = 120.0


def tell(line: str) -> None:
    """A line of a run's journal, for `pytest -s` and for what is shown of a test that failed."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Stack:
    """`akin up` on a data directory. For one thread: its processes end with the thread that started them.

    Args:
        variables: settings beside those of `QUICK`.
    """

    def __init__(self, data_dir: Path, variables: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.variables = {**QUICK, "AKIN_PORT": str(free_ports(1)[0]), **(variables or {})}
        self._held = ExitStack()
        self.state = self._start()
        with closing(Database(self.settings.database)) as database, database.transaction() as session:
            # That of a run ends with it.
            self.key = keys.create(session, "importer", list(Scope), None)

    @property
    def settings(self) -> Settings:
        """What its processes read from their environment, with the addresses of this run."""
        given: dict[str, Any] = {name.removeprefix("AKIN_").lower(): text for name, text in self.variables.items()}
        state = self.state
        given |= {"data_dir": self.data_dir, "redis_url": state.redis_url, "milvus_uri": state.milvus_uri}
        given |= {"cache_url": state.cache_url}
        return Settings(**given)

    @property
    def url(self) -> str:
        """Where the API is, in every run."""
        return f"http://127.0.0.1:{self.variables['AKIN_PORT']}"

    def client(self, patience: float = PATIENCE) -> AkinClient:
        """A client with a key that outlives every run."""
        return AkinClient(self.url, self.key, patience=patience)

    @contextmanager
    def services(self) -> Iterator[Services]:
        """Database, vectors and bytes as a process of the stack sees them."""
        with closing(build(self.settings)) as services:
            yield services

    def process(self, name: str) -> psutil.Process:
        """The running process of a part, waited for where it is being started again."""

        def running() -> bool:
            self.alive()
            state = RunState.read(self.data_dir)
            return state is not None and name in state.children and state.children[name].is_alive()

        wait_until(running, f"{name} runs", PATIENCE)
        state = RunState.read(self.data_dir)
        assert state is not None
        return psutil.Process(state.children[name].pid)

    def kill_part(self, name: str) -> None:
        """kill -9 of one of its processes."""
        self.process(name).kill()

    def kill(self) -> None:
        """kill -9 of `akin up`, which every other process follows; then start it again."""
        os.kill(self.state.pid, signal.SIGKILL)
        self._held.close()
        self.state = self._start()

    def alive(self) -> None:
        """Fail where `akin up` itself has ended."""
        assert self.state.is_alive(), (self.data_dir / "logs" / "up.log").read_text()[-2000:]

    def stop(self) -> None:
        """Stop it in order."""
        self._held.close()

    def program(self, name: str) -> Program:
        """One of its programs, to be run once more beside it."""
        (found,) = [program for program in programs(self.settings) if program.name == name]
        return found

    @contextmanager
    def beside(self, program: Program) -> Iterator[Child]:
        """Run a program beside the stack; it is stopped as the stack stops its own, and may finish its task."""
        child = Child(program, self.data_dir / "logs" / f"{program.name}-beside.log")
        child.start()
        try:
            yield child
        finally:
            child.ask_to_stop()
            try:
                wait_until(child.stopped, f"{program.name} stops", PATIENCE)
            finally:
                child.kill()

    def _start(self) -> RunState:
        state = self._held.enter_context(background_stack(self.data_dir, environment=self.variables))
        assert state.api_url == self.url, "clients find it where it was"
        return state


@contextmanager
def running_stack(data_dir: Path, variables: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """A stack for the length of a block."""
    stack = Stack(data_dir, variables)
    try:
        yield stack
    except BaseException:
        for log in sorted((data_dir / "logs").iterdir()):
            tell(f"{log.name}:\n{tail(log)}")
        raise
    finally:
        stack.stop()


class Progress:
    """How far imports are, between 0 and 1: half of it is listing what they name, half is embedding it.

    Args:
        expected: entries that all imports together will have.
    """

    def __init__(self, database: Database, expected: int) -> None:
        self._database = database
        self._expected = expected

    def __call__(self) -> float:
        counted = self.counts()
        listed = sum(counted.values())
        waiting = counted.get(EntryState.PENDING, 0) + counted.get(EntryState.ACCEPTED, 0)
        return (2 * listed - waiting) / (2 * self._expected)

    def counts(self) -> dict[EntryState, int]:
        """Entries by state; none where the database is away."""
        by_state = select(JobEntry.state, func.count()).join(Job).where(Job.kind == jobs.IMPORT)
        try:
            with self._database.reading() as session:
                found = session.execute(by_state.group_by(JobEntry.state)).all()
        except Unavailable:
            return {}
        return {EntryState(state): count for state, count in found}


def with_clock(program: Program, seconds: int, every: float = 0.0) -> Program:
    """The program with a clock that is so many seconds ahead, always or `every` other so many seconds."""
    python, *arguments = program.command
    command = [python, "-m", "tests.reliability.clock", str(seconds), str(every), *arguments]
    return replace(program, name=f"{program.name}-{seconds:+}", command=command)
