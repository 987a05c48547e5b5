"""Signals as something that the supervisor's loop waits for."""

from __future__ import annotations

import select
import signal
import socket
from types import FrameType, TracebackType
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """While entered, requests to stop are counted and a child's end wakes `wait`. For the main thread.

    Only a repeated SIGINT is a person in a hurry: a closing terminal or a service manager may well send
    SIGTERM and SIGHUP one after the other and still expect an orderly stop.
    """

    def __init__(self) -> None:
        self.stop_requested = False
        self.interrupts = 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in STOPS:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup
            self._previous[number] = signal.signal(number, self._on_stop)
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._reader.close()
        self._writer.close()

    def wait(self, seconds: float) -> None:
        """Return after this time, or at once when a signal comes."""
        if select.select([self._reader], [], [], seconds)[0]:
            self._reader.recv(4096)

    @property
    def hurry(self) -> bool:
        """Whether Ctrl-C was pressed again."""
        return self.interrupts > 1

    def _on_stop(self, number: int, _: FrameType | None) -> None:
        self.stop_requested = True
        if number == signal.SIGINT:
            self.interrupts += 1
