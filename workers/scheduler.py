"""Wakes every task by the clock: `python -m workers.scheduler`. The schedule is in memory; nothing is stored.

Wake-ups are how a fresh upload is embedded at once. This loop is what makes up for lost ones: whatever a killed
worker, an emptied Redis or an ended lease left pending is found again within `wake_seconds`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from services.queue import Task
from services.wiring import Services
from workers.process import run_process

# In units of `wake_seconds`. Deletes wait for leases anyway, and stragglers are rare.
EVERY: Mapping[Task, int] = {
    Task.EMBED: 1,
    Task.IMPORTS: 1,
    Task.FINISH: 1,
    Task.NOTIFY: 1,
    Task.REINDEX: 1,
    Task.PURGE: 15,
    Task.SWEEP: 15,
    Task.DELETE: 1,
    Task.AUDIT: 1,
    Task.DUPLICATES: 1,
}


def run(services: Services, stop: threading.Event) -> None:
    """Wake tasks until told to stop."""
    beat = 0
    while not stop.is_set():
        for task, every in EVERY.items():
            if beat % every == 0:
                services.queue.wake(task)
        beat += 1
        stop.wait(services.settings.wake_seconds)


if __name__ == "__main__":
    run_process(run)
