"""gunicorn's threaded worker, which takes new connections only while one of its threads is free.

All processes of a server listen on one socket, and a connection goes to the one that looks first: of 32 clients that
came at once, one of two processes often had 30, and clients waited for its threads while those of the other rested.
What no thread is free for waits in the kernel instead, for whichever process has one first.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from gunicorn.workers.gthread import ThreadWorker


class Worker(ThreadWorker):  # type: ignore[misc]
    """For `gunicorn --worker-class`. Everything here runs in the thread of the event loop."""

    _in_hand = 0

    def set_accept_enabled(self, enabled: bool) -> None:
        """Take new connections or leave them; the event loop asks for the first whenever it went round."""
        super().set_accept_enabled(enabled and self._in_hand < self.cfg.threads)

    def enqueue_req(self, conn: Any) -> None:
        """Give a connection with a request to a thread."""
        self._in_hand += 1
        super().enqueue_req(conn)
        if self._in_hand >= self.cfg.threads:
            self.set_accept_enabled(False)

    def finish_request(self, conn: Any, fs: Future[Any]) -> None:
        """Take a connection back from its thread."""
        self._in_hand -= 1
        super().finish_request(conn, fs)
