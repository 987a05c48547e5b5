"""Answers about jobs that many viewers share: counting a large import's entries again for each would cost too much.

Each process keeps its own, and none that is of another state than the job's row: so whichever process is asked, a job
that was stopped, is over or goes on again is shown so.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from services.api.schemas import JobOut
from services.catalog.models import Job

# Seconds for each entry of the job. Counting one takes a tenth of that at most, so however many look on, at most a
# tenth of a core goes into counting one job.
_LASTS = 5e-6
_MOST = 1_000


class Snapshots:
    """The latest answer of each job, for a moment. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, JobOut]] = OrderedDict()

    def get(self, job: Job, count: Callable[[Job], JobOut]) -> JobOut:
        """A job's answer: the kept one while it lasts and the job's state stays, or one that is counted now."""
        with self._lock:
            until, answer = self._kept.get(job.id, (0.0, None))
        if answer is None or time.monotonic() >= until:
            return self.renew(job, count)
        if (answer.state, answer.finished_at) != (job.state, job.finished_at):
            return self.renew(job, count)
        return answer

    def renew(self, job: Job, count: Callable[[Job], JobOut]) -> JobOut:
        """Count now, after a change that the caller is to see."""
        answer = count(job)
        with self._lock:
            self._kept[job.id] = (time.monotonic() + _LASTS * answer.total, answer)
            self._kept.move_to_end(job.id)
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return answer
