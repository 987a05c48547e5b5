"""gunicorn's threaded worker, which takes new connections only while one of its threads is free, and refuses early.

All processes of a server listen on one socket, and a connection goes to the one that looks first: of 32 clients that
came at once, one of two processes often had 30, and clients waited for its threads while those of the other rested.
What no thread is free for waits in the kernel instead, for whichever process has one first.

Where more wait than the threads will soon come to, what is beyond is answered 503 at once: connections that wait in
the kernel, and requests on connections that this process holds.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import Any, Final

from gunicorn.workers.gthread import ThreadWorker

from services.api.refusing import Crowd, Refusals, waiting_on

# Requests that may wait, for each thread.
MOST_WAITING: Final = 8
# So often it is looked who waits, while no thread is free.
LOOK_SECONDS: Final = 0.2


class Worker(ThreadWorker):  # type: ignore[misc]
    """For `gunicorn --worker-class`. Everything here runs in the thread of the event loop."""

    _in_hand = 0

    def run(self) -> None:
        """Serve until told to stop."""
        self._waiting: deque[Any] = deque()
        self._new_first = False
        self._refusals = Refusals(self.poller)
        self._requests = Crowd(MOST_WAITING * self.cfg.threads)
        self._connections = Crowd(MOST_WAITING * self.cfg.threads * self.cfg.workers)
        super().run()

    def set_accept_enabled(self, enabled: bool) -> None:
        """Take new connections or leave them; the event loop asks for the first whenever it went round."""
        super().set_accept_enabled(enabled and self._in_hand < self.cfg.threads)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """One round of the event loop."""
        busy = self._in_hand >= self.cfg.threads
        super().wait_for_and_dispatch_events(min(timeout, LOOK_SECONDS) if busy else timeout)
        self._refuse_requests()
        self._refuse_connections()
        self._refusals.close_overdue()

    def enqueue_req(self, conn: Any) -> None:
        """Give a connection with a request to a thread, once one is free."""
        self._waiting.append(conn)
        self._begin()

    def finish_request(self, conn: Any, fs: Future[Any]) -> None:
        """Take a connection back from its thread, which has another now: a new one and one that waited, in turn."""
        self._in_hand -= 1
        self._new_first = not self._new_first
        if self._waiting and self._new_first and self.alive and self.nr_conns < self.worker_connections:
            self._accept_first()
        super().finish_request(conn, fs)
        self._begin()

    def _accept_first(self) -> None:
        """Take a new connection, if there is one, before those that wait."""
        waiting, self._waiting = self._waiting, deque()
        for listener in self.sockets:
            self.accept(listener)
        self._waiting.extend(waiting)

    def _begin(self) -> None:
        while self._waiting and self._in_hand < self.cfg.threads:
            self._in_hand += 1
            super().enqueue_req(self._waiting.popleft())
        if self._in_hand >= self.cfg.threads:
            self.set_accept_enabled(False)

    def _refuse_requests(self) -> None:
        while not self._refusals.full and self._requests.is_too_large(len(self._waiting)):
            self.nr_conns -= 1
            self._refusals.refuse(self._waiting.pop().sock)

    def _refuse_connections(self) -> None:
        for listener in self.sockets:
            while not self._refusals.full and self._connections.is_too_large(sum(map(waiting_on, self.sockets))):
                try:
                    client, _ = listener.accept()
                except OSError:  # another process was quicker
                    break
                self._refusals.refuse(client)
