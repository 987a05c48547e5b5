"""Faults at random moments. The seed is printed; AKIN_FAULT_SEED repeats a run, as far as processes can be repeated."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, Self

import psutil
import redis

from services.queue import ROUTES, Task, celery_app
from tests.reliability.stack import PATIENCE, Stack, tell, with_clock
from tests.servers import Server, wait_until

# Read once: the tests remove Akin's variables from the environment of what they start.
SEED = int(os.environ.get("AKIN_FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
LAST_MOMENT = 0.92
DELIVERIES = 5
REPEATED = (Task.EMBED, Task.IMPORTS, Task.FINISH, Task.PURGE, Task.SWEEP)
HOUR = 3600
JUMP_SECONDS = 3.0

Fault = Callable[[], None]


class Chaos:
    """Strikes a stack, and keeps a journal of it. Leaving it ends what faults have left running beside the stack."""

    def __init__(self, stack: Stack, run: str) -> None:
        self.random = random.Random(f"{SEED} {run}")
        self.struck: list[str] = []
        self._stack = stack
        self._beside: dict[str, ExitStack] = {}
        tell(f"AKIN_FAULT_SEED={SEED} ({run})")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._beside):
            self._end(name)

    def strike(self, faults: Mapping[str, Fault], count: int, progress: Callable[[], float]) -> None:
        """So many faults, each of them as often as any other, at moments that are even over all of the work.

        Args:
            progress: from 0 to 1; it raises where the work cannot come to its end.
        """
        moments = sorted(self.random.uniform(0.0, LAST_MOMENT) for _ in range(count))
        order: list[str] = []
        while len(order) < count:
            order += self.random.sample(sorted(faults), len(faults))
        for moment, name in zip(moments, order, strict=False):
            wait_until(lambda moment=moment: progress() >= moment, f"{moment:.0%} done", 3 * PATIENCE)
            began = time.monotonic()
            faults[name]()
            self.struck.append(name)
            tell(f"{moment:5.1%} (by then {progress():5.1%}) {name}, {time.monotonic() - began:.1f} s")

    def process_faults(self) -> dict[str, Fault]:
        """kill -9 of everything that `akin up` runs, and of itself."""
        parts = ("worker-embed", "worker-imports", "query", "scheduler", "api", "redis", "cache", "milvus")
        own = [part for part in parts if part != "milvus" or "AKIN_MILVUS_URI" not in self._stack.variables]
        faults: dict[str, Fault] = {f"kill -9 {part}": lambda part=part: self._stack.kill_part(part) for part in own}
        return faults | {"kill -9 a process of the API": self._kill_api_process, "kill -9 akin up": self._kill_all}

    def queue_faults(self) -> dict[str, Fault]:
        """Messages that come again, workers that are two, and workers whose clock jumps."""

        def second(name: str) -> Fault:
            return lambda: self._toggle(name, lambda: self._stack.beside(self._stack.program(name)))

        def jumping(name: str, seconds: int) -> Fault:
            return lambda: self._toggle(
                f"{name}{seconds:+}",
                lambda: self._stack.beside(with_clock(self._stack.program(name), seconds, JUMP_SECONDS)),
            )

        names = ["worker-imports"]
        if "AKIN_MILVUS_URI" in self._stack.variables:  # Milvus Lite wants one writer
            names.append("worker-embed")
        faults: dict[str, Fault] = {f"each message {DELIVERIES} times": self._repeat_messages}
        for name in names:
            faults[f"a second {name}"] = second(name)
            faults[f"a {name} whose clock jumps ahead"] = jumping(name, HOUR)
            faults[f"a {name} whose clock jumps back"] = jumping(name, -HOUR)
        return faults

    def _kill_api_process(self) -> None:
        master = self._stack.process("api")
        wait_until(lambda: bool(master.children()), "the API has a process", PATIENCE)
        with suppress(psutil.NoSuchProcess):
            self.random.choice(master.children()).kill()

    def _kill_all(self) -> None:
        for name in list(self._beside):  # their addresses are those of this run
            self._end(name)
        self._stack.kill()

    def _repeat_messages(self) -> None:
        settings = self._stack.settings
        app = celery_app(settings)
        try:
            with redis.Redis.from_url(settings.redis) as connection:
                for task in REPEATED:
                    number = str(uuid.uuid4())
                    for _ in range(DELIVERIES):
                        app.send_task(task.value, queue=ROUTES[task], ignore_result=True, task_id=number)
                    # Nor does the mark of a waiting message hold further ones back.
                    connection.delete(f"akin:waiting:{task.value}")
        except (redis.RedisError, app.OperationalError) as error:
            tell(f"Redis is away for the messages: {error}")
        finally:
            app.close()

    def _toggle(self, name: str, beside: Callable[[], AbstractContextManager[object]]) -> None:
        """Start it; the second time, stop it."""
        if name in self._beside:
            self._end(name)
            return
        held = ExitStack()
        held.enter_context(beside())
        self._beside[name] = held

    def _end(self, name: str) -> None:
        self._beside.pop(name).close()


def server_fault(server: Server, seconds: float) -> Fault:
    """A server that is cut off without warning, and is there again after so many seconds."""

    def strike() -> None:
        server.stop()
        time.sleep(seconds)
        server.start()

    return strike


def full_disk(directory: Path, seconds: float, meanwhile: Fault) -> Fault:
    """A file system without a free byte for so many seconds, and another fault as soon as it is full."""

    def strike() -> None:
        ballast = directory / "ballast"
        until = time.monotonic() + seconds
        try:
            with ballast.open("wb", buffering=0) as file:
                _fill(file)
                meanwhile()
                while time.monotonic() < until:  # what is given back is taken at once
                    _fill(file)
                    time.sleep(0.05)
        finally:
            ballast.unlink()

    return strike


def _fill(file: BinaryIO) -> None:
    for size in (1 << 20, 1 << 12, 1):
        with suppress(OSError):
            while True:
                file.write(bytes(size))
