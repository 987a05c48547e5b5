"""Batches through a device.

On a GPU, copies of the next and the last part overlap with the computing of this one. On a CPU each core computes
parts of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Parts that are under way on the GPU at a time: one is computed while the next is copied.
_IN_FLIGHT = 2
# Of fewer pictures a core of a CPU is given none by itself.
_SMALLEST_PART = 4


class Batches:
    """Maps a function over pictures in parts of bounded size. Used by one thread at a time.

    On CUDA the pictures go as bytes through page-locked memory on a stream of their own, so that the GPU computes
    one part while the host copies the next, and results come back behind it.

    On a CPU a thread for each core computes parts on that core alone. Threads that share the computing of one part
    wait for each other after each layer: measured on two cores, one of which another process wanted too, such threads
    encoded 200 pictures a second, and these 320. As many are used as torch computes on (`torch.set_num_threads`), and
    together they hold no more than a part. A function must bear to be called by several threads at once.

    Args:
        device: where the function computes.
        largest: pictures of a part.
        apart: on a CPU, call the function in a thread for each core.
    """

    def __init__(self, device: torch.device, largest: int, *, apart: bool = False) -> None:
        self._device = device
        self._largest = largest
        self._apart = apart
        self._cores: ThreadPoolExecutor | None = None
        self._threads = 0
        self._copies: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def map(
        self, function: Callable[[Tensor], Tensor], batch: npt.NDArray[np.uint8], width: int
    ) -> npt.NDArray[np.float32]:
        """Call a function on uint8 (n, s, s, 3) on the device; its float32 rows (n, width) as one array."""
        rows = np.empty((len(batch), width), np.float32)
        if self._copies is None:
            self._map_on_cores(function, batch, rows)
            return rows
        waiting: deque[tuple[slice, Tensor, torch.cuda.Event]] = deque()
        for part in _parts(len(batch), self._largest):
            waiting.append((part, *self._start(function, batch[part], self._copies)))
            if len(waiting) >= _IN_FLIGHT:
                _collect(waiting, rows)
        while waiting:
            _collect(waiting, rows)
        return rows

    def _map_on_cores(
        self, function: Callable[[Tensor], Tensor], batch: npt.NDArray[np.uint8], rows: npt.NDArray[np.float32]
    ) -> None:
        def compute(part: slice) -> None:
            with torch.inference_mode():
                # Torch reads no array that it may not write to, nor one that runs backwards.
                pictures = torch.from_numpy(np.require(batch[part], requirements=["C", "W"]))
                rows[part] = function(pictures.to(self._device)).cpu().numpy()

        at_once = min(len(batch), self._largest)
        threads = min(torch.get_num_threads(), at_once // _SMALLEST_PART) if self._device.type == "cpu" else 1
        if not self._apart or threads < 2:
            for part in _parts(len(batch), self._largest):
                compute(part)
            return
        if self._cores is None or self._threads != threads:
            self._cores, self._threads = _threads_of_one_core(threads), threads
        for _ in self._cores.map(compute, _parts(len(batch), at_once // threads)):
            pass

    def _start(
        self, function: Callable[[Tensor], Tensor], batch: npt.NDArray[np.uint8], copies: torch.cuda.Stream
    ) -> tuple[Tensor, torch.cuda.Event]:
        """Queue everything that a part needs on the GPU; returns at once, with where its rows will lie and when."""
        computing = torch.cuda.current_stream(self._device)
        # Page-locked blocks come from a cache of torch's, which hands none out before the GPU has read it.
        locked = torch.empty(batch.shape, dtype=torch.uint8, pin_memory=True)
        np.copyto(locked.numpy(), batch)
        with torch.cuda.stream(copies):
            pictures = locked.to(self._device, non_blocking=True)
        computing.wait_stream(copies)
        pictures.record_stream(computing)
        found = function(pictures)
        rows = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
        rows.copy_(found, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(computing)
        return rows, done


def _threads_of_one_core(count: int) -> ThreadPoolExecutor:
    """Threads in each of which torch computes on one core."""
    pool = ThreadPoolExecutor(count, "core")
    all_there = Barrier(count)

    def start(_: int) -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # from the first time it is asked for, the number is the thread's own
        all_there.wait()

    cores = torch.get_num_threads()
    try:
        for _ in pool.map(start, range(count)):
            pass
    finally:
        # Threads to come have the number that was set last.
        torch.set_num_threads(cores)
    return pool


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _collect(waiting: deque[tuple[slice, Tensor, torch.cuda.Event]], rows: npt.NDArray[np.float32]) -> None:
    part, found, done = waiting.popleft()
    done.synchronize()
    rows[part] = found.numpy()
