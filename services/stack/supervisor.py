"""The supervisor of `akin up`: starts the stack in order, restarts what dies, and leaves nothing behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Protocol

import psutil

from services.config import Settings
from services.errors import ConfigurationError, Unavailable
from services.stack.lock import locked
from services.stack.logs import Follower, tail
from services.stack.plan import Plan
from services.stack.program import Child, Probe, Program
from services.stack.signals import Signals
from services.stack.state import ProcessRef, RunState

DEATHS_AT_START = 5
TICK = 0.25
CONFIGURED_TIMEOUT = 5.0
SERVERS_TIMEOUT = 60.0
READY_TIMEOUT = 240.0


class Prepared(Protocol):
    """What the bootstrap hands back: keys in clear, which are stored only as hashes."""

    @property
    def first_admin_key(self) -> str | None:
        """Set when it was created just now."""

    @property
    def local_key(self) -> str:
        """A key for this run."""


@dataclass(frozen=True)
class Output:
    """Where the supervisor's words go.

    Args:
        ready: called once, when the stack serves.
        say: one line about something that happened.
        echo: a program's name and a line of its log; None keeps the logs in their files.
    """

    ready: Callable[[RunState, Prepared], None]
    say: Callable[[str], None]
    echo: Callable[[str, str], None] | None = None


class _StopRequested(Exception):
    """A signal asked for the end while something was awaited."""


class Supervisor:
    """Runs one plan in the foreground until a signal ends it. For the main thread of a process."""

    def __init__(self, plan: Plan, prepare: Callable[[Settings], Prepared], output: Output) -> None:
        self._plan = plan
        self._prepare = prepare
        self._output = output
        self._data_dir = plan.settings.data_dir
        self._signals = Signals()
        self._children: list[Child] = []
        self._followers: list[tuple[str, Follower]] = []
        self._state: RunState | None = None
        self._recorded = True

    def run(self) -> None:
        """Start everything, keep it running, and stop it in reverse order on SIGINT, SIGTERM or SIGHUP.

        Raises:
            ConfigurationError: the data directory cannot be made.
            Conflict: another stack runs in the data directory.
            Unavailable: a part does not come up; the message ends with its log.
            AkinError: of the bootstrap.
        """
        with ExitStack() as stack:
            stack.callback(os.umask, os.umask(0o077))
            self._make_data_dir()
            stack.enter_context(locked(self._data_dir))
            stack.enter_context(self._signals)
            for name in RunState.clear_orphans(self._data_dir):
                self._say(f"killed {name}, left behind by a run that did not end well")
            stack.callback(self._stop)
            with suppress(_StopRequested):
                prepared = self._bring_up()
                self._serve(prepared)
            self._say("stopping; Ctrl-C again to hasten")

    def _make_data_dir(self) -> None:
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"cannot make AKIN_DATA_DIR {self._data_dir}: {error.strerror}") from error

    def _bring_up(self) -> Prepared:
        for note in self._plan.notes:
            self._say(note)
        self._await(self._plan.required, CONFIGURED_TIMEOUT)
        self._start(self._plan.servers, SERVERS_TIMEOUT)
        prepared = self._prepare(self._plan.settings)
        self._heed_stop()
        self._start(self._plan.programs, READY_TIMEOUT)
        return prepared

    def _serve(self, prepared: Prepared) -> None:
        self._state = RunState(
            **ProcessRef.of(os.getpid()).model_dump(),
            api_url=self._plan.api_url,
            api_key=prepared.local_key,
            redis_url=self._plan.settings.redis,
            cache_url=self._plan.settings.cache,
            milvus_uri=self._plan.settings.milvus,
            children=self._living(),
        )
        self._state.write(self._data_dir)
        with suppress(OSError):  # the terminal is gone; SIGHUP says so
            self._output.ready(self._state, prepared)
        while True:
            self._mend()
            self._pause()

    def _start(self, programs: Sequence[Program], timeout: float) -> None:
        for program in programs:
            child = Child(program, self._data_dir / "logs" / f"{program.name}.log")
            self._followers.append((program.name, Follower(child.log)))
            self._children.append(child)
            child.start()
        self._await({program.name: program.probe for program in programs if program.probe}, timeout)

    def _await(self, probes: Mapping[str, Probe], timeout: float) -> None:
        """Keep the children running until every probe is satisfied and no child is between a death and a lasting start.

        Raises:
            Unavailable: the time is over, or a program does not stay up.
            _StopRequested: a signal came.
        """
        waiting = dict(probes)
        deadline = time.monotonic() + timeout
        while True:
            missing = {name: reason for name, probe in waiting.items() if (reason := probe()) is not None}
            self._mend()
            unsettled = [child.program.name for child in self._children if not child.settled]
            if not missing and not unsettled:
                return
            if time.monotonic() > deadline:
                problems = [f"{name} does not answer: {reason}" for name, reason in missing.items()]
                problems += [f"{name} does not stay up" for name in unsettled]
                raise Unavailable(f"{'; '.join(problems)} (logs: {self._data_dir / 'logs'})")
            waiting = {name: waiting[name] for name in missing}
            self._pause()

    def _mend(self) -> None:
        """Start again what has died.

        Raises:
            Unavailable: a program keeps dying that never stayed up, or that the stack needs to become ready.
        """
        for child in self._children:
            if cause := child.reap():
                self._on_death(child, cause)
            if child.due:
                child.start()
                self._recorded = False
        if not self._recorded:
            self._record()

    def _pause(self) -> None:
        """Wait for a signal or a tick.

        Raises:
            _StopRequested: a signal came.
        """
        self._follow()
        self._heed_stop()
        self._signals.wait(TICK)
        self._heed_stop()

    def _heed_stop(self) -> None:
        if self._signals.stop_requested:
            raise _StopRequested

    def _on_death(self, child: Child, cause: str) -> None:
        name = child.program.name
        if child.restarts >= DEATHS_AT_START and (self._state is None or not child.has_lasted):
            raise Unavailable(
                f"{name} does not stay up: it ended {child.restarts} times ({cause}). "
                f"The end of {child.log}:\n{tail(child.log)}"
            )
        self._say(f"{name} ended ({cause}); restart {child.restarts} in {child.delay:g} s")

    def _record(self) -> None:
        if self._state is not None:
            self._state = self._state.model_copy(update={"children": self._living()})
            # A full disk must not end what runs: it is written as soon as there is room.
            with suppress(OSError):
                self._state.write(self._data_dir)
                self._recorded = True

    def _living(self) -> dict[str, ProcessRef]:
        living = {}
        for child in self._children:
            with suppress(psutil.NoSuchProcess):
                if child.pid is not None:
                    living[child.program.name] = ProcessRef.of(child.pid)
        return living

    def _stop(self) -> None:
        """Stop every program in reverse order; RunState goes first, as nobody should find a stack that ends."""
        RunState.remove(self._data_dir)
        for child in reversed(self._children):
            child.ask_to_stop()
            deadline = time.monotonic() + child.program.grace
            while not child.stopped():
                if self._signals.hurry or time.monotonic() > deadline:
                    self._say(f"{child.program.name} did not stop in time: killed")
                    child.kill()
                else:
                    self._signals.wait(TICK)
            self._follow()

    def _follow(self) -> None:
        if self._output.echo is None:
            return
        with suppress(OSError):
            for name, follower in self._followers:
                for line in follower.lines():
                    self._output.echo(name, line)

    def _say(self, message: str) -> None:
        with suppress(OSError):  # a closed terminal must not keep the stack from stopping
            self._output.say(message)
