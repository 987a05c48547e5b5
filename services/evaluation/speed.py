"""How fast a subject encodes on this device, pictures decoded beforehand."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.evaluation.subjects import Subject
from services.images.preprocess import Pixels

BATCH = 64

_LATENCY_CALLS = (10, 100)
_THROUGHPUT_CALLS = (3, 1000)
_SECONDS = 1.0  # after which measuring ends, once it has the least number of calls
_LONGEST_BATCH = 10.0  # seconds that encoding a batch may be expected to take


@dataclass(frozen=True)
class Speed:
    """Pictures in host memory to vectors in host memory.

    Attributes:
        images_per_second: median, in batches of `batch`.
        batch: 64, or fewer where an encoder is so slow that 64 would take over ten seconds.
        latency_median_ms, latency_p95_ms: of one picture, in milliseconds.
    """

    images_per_second: float
    batch: int
    latency_median_ms: float
    latency_p95_ms: float


def measure_speed(subject: Subject) -> Speed:
    """Encode random pictures, one at a time and in batches, each time after one that is not counted."""
    size = subject.preprocessing.size
    pictures = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), np.uint8)
    single = _seconds(subject, pictures[:1], *_LATENCY_CALLS)
    batch = int(np.clip(_LONGEST_BATCH / np.median(single), 1, BATCH))
    batches = _seconds(subject, pictures[:batch], *_THROUGHPUT_CALLS)
    return Speed(
        images_per_second=float(batch / np.median(batches)),
        batch=batch,
        latency_median_ms=float(1e3 * np.median(single)),
        latency_p95_ms=float(1e3 * np.percentile(single, 95)),
    )


def device_name(device: str) -> str:
    """A device as people know it: the GPU's name, or the processor's and the threads that PyTorch uses of it."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    if device == "mps":
        return f"{platform.processor() or platform.machine()} GPU (MPS)"
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} {'thread' if threads == 1 else 'threads'}"


def _seconds(subject: Subject, pictures: Pixels, least: int, most: int) -> list[float]:
    subject.encode(pictures)
    taken: list[float] = []
    while len(taken) < least or (len(taken) < most and sum(taken) < _SECONDS):
        started = time.perf_counter()
        subject.encode(pictures)
        taken.append(time.perf_counter() - started)
    return taken


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
