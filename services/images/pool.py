"""A pool of decoding processes: no file, however broken, can hang, crash or fill the process that asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from queue import Empty, LifoQueue
from types import TracebackType
from typing import Any, Self, TypeVar

from services.errors import ImageRejected, Overloaded, Unavailable
from services.images.decode import ImageInfo, Limits, inspect, verify
from services.images.preprocess import Crop, Pixels, Preprocessing, preprocess
from services.images.process import Call, DecodeProcess
from services.images.thumbnails import rendition, thumbnail

T = TypeVar("T")

# Small pictures cost less to decode than to hand over one by one; large ones would fill the process's memory.
_CHUNK_CALLS = 16
_CHUNK_BYTES = 4 * 1024 * 1024
# Part of the timeout that a picture gets among others: a slow one then has all of it alone.
_SHARED_PATIENCE = 0.25
# Native decoders leak; a process that has handled this many calls is replaced.
_MAX_CALLS = 10_000

_STOPPED = "Decoding has been stopped."


class DecodePool:
    """Decodes pictures in killable processes, which start when first needed. Safe to use from many threads.

    Every method raises Unavailable if no process can be started or the pool is closed, and ImageRejected
    (TIMEOUT, CRASHED) for a picture on which its process hung or died. Those with one picture, which somebody
    waits for, raise Overloaded if every process stays busy.
    """

    def __init__(self, processes: int, timeout: float, memory: int, limits: Limits, *, patience: float = 60.0) -> None:
        """
        Args:
            processes: pictures decoded at the same time.
            timeout: seconds that one picture may take.
            memory: bytes that a process may take on top of what it starts with.
            limits: bytes and pixels of one picture.
            patience: seconds that a call with one picture waits for a free process.
        """
        self._patience = patience
        self.limits = limits
        self._processes = processes
        self._timeout = timeout
        self._memory = memory
        self._closed = False
        # Last in, first out: the process that worked last is the one that is warm.
        self._slots: LifoQueue[DecodeProcess | None] = LifoQueue()
        for _ in range(processes):
            self._slots.put(None)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decode")

    def warm_up(self) -> None:
        """Start a process, which takes a second, before somebody waits for it."""
        self.call(bytes)

    def inspect(self, data: bytes) -> ImageInfo:
        """Read format and displayed size from the header."""
        return self.call(inspect, data, self.limits)

    def inspect_many(self, pictures: Sequence[bytes]) -> list[ImageInfo | ImageRejected]:
        """Read many headers; in their order, each what it says or why the picture was rejected."""
        return self.call_many(inspect, [(data, self.limits) for data in pictures])

    def verify(self, data: bytes) -> ImageInfo:
        """Inspect the header and prove that all pixels decode."""
        return self.call(verify, data, self.limits)

    def preprocess(self, data: bytes, spec: Preprocessing, crop: Crop | None = None) -> Pixels:
        """Decode a picture, or a part of it, to an encoder's input: uint8, (size, size, 3)."""
        return self.call(preprocess, data, spec, self.limits, crop)

    def preprocess_many(self, pictures: Sequence[bytes], spec: Preprocessing) -> list[Pixels | ImageRejected]:
        """Decode many pictures on all processes; in their order, each its pixels or why it was rejected."""
        return self.call_many(preprocess, [(data, spec, self.limits) for data in pictures])

    def thumbnail(self, data: bytes, size: int) -> bytes:
        """Draw a picture as WebP that fits into size × size pixels."""
        return self.call(thumbnail, data, size, self.limits)

    def rendition(self, data: bytes) -> tuple[bytes, str]:
        """Encode a picture anew at full size, without metadata; return bytes and media type."""
        return self.call(rendition, data, self.limits)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call an importable function in a process of the pool; raise what it raises."""
        (outcome,) = self._run(function, [arguments], self._patience)
        if isinstance(outcome, Exception):
            raise outcome
        value: T = outcome
        return value

    def call_many(self, function: Callable[..., T], calls: Sequence[Call]) -> list[T | ImageRejected]:
        """Call a function on many pictures, whose bytes are the first argument, on all processes.

        A call that hangs or crashes is rejected alone: its neighbours go on in another process.
        """
        if self._closed:
            raise Unavailable(_STOPPED)
        chunks = _chunks(calls, max(1, min(_CHUNK_CALLS, len(calls) // (2 * self._processes))))
        outcomes = list(chain.from_iterable(self._threads.map(lambda chunk: self._run(function, chunk), chunks)))
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, ImageRejected):
                raise outcome
        return outcomes

    def close(self) -> None:
        """Wait for the calls in progress and end all processes."""
        self._closed = True
        for _ in range(self._processes):
            process = self._slots.get()
            if process is not None:
                process.kill()
        for _ in range(self._processes):
            self._slots.put(None)
        self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, function: Callable[..., Any], calls: Sequence[Call], patience: float | None = None) -> list[Any]:
        """Make calls together; once a process has died, one by one until it is known on which."""
        outcomes: list[Any] = []
        together = len(calls)
        while len(outcomes) < len(calls):
            batch = calls[len(outcomes) : len(outcomes) + together]
            timeout = self._timeout if len(batch) == 1 else self._timeout * _SHARED_PATIENCE
            with self._process(patience) as process:
                known, death = process.run(function, batch, timeout)
            outcomes += known
            if death is not None and len(batch) == 1:
                outcomes.append(death)
                together = len(calls)
            elif death is not None:
                together = 1
        return outcomes

    @contextmanager
    def _process(self, patience: float | None) -> Iterator[DecodeProcess]:
        try:
            process = self._slots.get(timeout=patience)
        except Empty:
            raise Overloaded("too many pictures are being decoded") from None
        try:
            if self._closed:
                raise Unavailable(_STOPPED)
            if process is not None and not process.alive:
                process.kill()
                process = None
            if process is None:
                process = DecodeProcess(self._memory)
            yield process
        finally:
            if process is not None and (not process.alive or process.handled >= _MAX_CALLS):
                process.kill()
                process = None
            self._slots.put(process)


def _chunks(calls: Sequence[Call], most: int) -> Iterator[Sequence[Call]]:
    """Cut into runs of at most `most` calls and, beyond one call, of _CHUNK_BYTES."""
    start, size = 0, 0
    for position, call in enumerate(calls):
        size += len(call[0])
        if position > start and (position - start == most or size > _CHUNK_BYTES):
            yield calls[start:position]
            start, size = position, len(call[0])
    if start < len(calls):
        yield calls[start:]
