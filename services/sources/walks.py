"""Sources that a process has open, so that a walk need not begin anew for every piece. For one thread."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from services.sources.base import Cursor, Source, Step

Walk = Iterator[Step]


@dataclass
class _Open:
    source: Source
    cursor: Cursor | None = None
    walk: Walk | None = None


class Walks:
    """Sources by the job that reads them; those not asked for in a while are closed, those not being walked first.

    Args:
        most: sources that are open at the same time.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._open: OrderedDict[str, _Open] = OrderedDict()

    def source(self, job_id: str, opener: Callable[[], Source]) -> Source:
        """The open source of a job; raises what the opener raises."""
        found = self._open.get(job_id)
        if found is None:
            found = self._open[job_id] = _Open(opener())
            while len(self._open) > self._most:
                others = [other for other in self._open if other != job_id]
                self.forget(next((other for other in others if self._open[other].walk is None), others[0]))
        self._open.move_to_end(job_id)
        return found.source

    def walk(self, job_id: str, cursor: Cursor, source: Source) -> Walk:
        """Go on from a cursor: with the walk that stopped there, or with another."""
        found = self._open.get(job_id)
        if found is not None and found.source is source and found.walk is not None and found.cursor == cursor:
            walk, found.walk = found.walk, None
            return walk
        return source.steps(cursor)

    def keep(self, job_id: str, cursor: Cursor, walk: Walk) -> None:
        """Remember a walk that has come as far as the cursor says."""
        found = self._open.get(job_id)
        if found is not None:
            found.cursor, found.walk = cursor, walk

    @property
    def crowded(self) -> bool:
        """Whether a walk may be closed before it is gone on with, so many others are kept."""
        return sum(one.walk is not None for one in self._open.values()) >= self._most - 1

    def forget(self, job_id: str) -> None:
        """Close the source of a job."""
        found = self._open.pop(job_id, None)
        if found is not None:
            found.source.close()

    def close(self) -> None:
        """Close all."""
        for job_id in list(self._open):
            self.forget(job_id)
