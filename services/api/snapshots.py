"""Answers about jobs that many viewers share: counting a large import's entries again for each would cost too much."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from services.api.schemas import JobOut

# Seconds for each entry of the job. Counting one takes a tenth of that at most, so however many look on, at most a
# tenth of a core goes into counting one job.
_LASTS = 5e-6
_MOST = 1_000


class Snapshots:
    """The latest answer of each job, for a moment. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, JobOut]] = OrderedDict()

    def get(self, job_id: str, count: Callable[[], JobOut]) -> JobOut:
        """A job's answer: the kept one while it lasts, or one that is counted now."""
        with self._lock:
            until, answer = self._kept.get(job_id, (0.0, None))
        if answer is not None and time.monotonic() < until:
            return answer
        return self.renew(job_id, count)

    def renew(self, job_id: str, count: Callable[[], JobOut]) -> JobOut:
        """Count now, after a change that the caller is to see."""
        answer = count()
        with self._lock:
            self._kept[job_id] = (time.monotonic() + _LASTS * answer.total, answer)
            self._kept.move_to_end(job_id)
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return answer
