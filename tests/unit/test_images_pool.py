"""Decoding in processes: whatever a picture does, it does it to itself alone."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from services.errors import ImageReason, ImageRejected, InvalidRequest, Unavailable
from services.images.decode import Limits
from services.images.pool import DecodePool
from services.images.preprocess import Preprocessing, preprocess

ROOT = Path(__file__).parents[2]
LIMITS = Limits(max_bytes=50_000_000, max_pixels=200_000_000)
GIGABYTE = 1024**3
SPEC = Preprocessing(size=16, fit="stretch", resample="box", mean=(0.5,) * 3, std=(0.5,) * 3)


def picture(shade: int = 0, side: int = 20) -> bytes:
    target = BytesIO()
    Image.new("RGB", (side, side), (shade, 40, 200)).save(target, "PNG", compress_level=1)
    return target.getvalue()


def awaited(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    return condition()


def misbehave(data: bytes) -> bytes:
    """Stands for a decoder: hangs on one kind of file without letting go of the interpreter, crashes on another."""
    if data == b"hang":
        pow(7, 10**9)
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    return data.upper()


def decoders(parent: psutil.Process | None = None) -> list[psutil.Process]:
    children = (parent or psutil.Process()).children()
    return [child for child in children if "services.images.process" in " ".join(child.cmdline())]


def fail() -> None:
    raise LookupError("as the function says")


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    with DecodePool(2, timeout=2, memory=GIGABYTE, limits=LIMITS) as pool:
        yield pool


def test_no_process_starts_before_it_is_needed() -> None:
    with DecodePool(2, timeout=2, memory=GIGABYTE, limits=LIMITS):
        assert decoders() == []


def test_each_operation_gives_what_it_gives_in_this_process(pool: DecodePool) -> None:
    data = picture()

    assert (pool.preprocess(data, SPEC) == preprocess(data, SPEC, LIMITS)).all()
    assert (pool.inspect(data).width, pool.verify(data).format) == (20, "png")
    assert Image.open(BytesIO(pool.thumbnail(data, 128))).format == "WEBP"
    assert pool.rendition(data)[1] == "image/jpeg"


def test_rejections_and_other_errors_are_raised_as_they_are(pool: DecodePool) -> None:
    with pytest.raises(ImageRejected) as caught:
        pool.preprocess(b"no picture", SPEC)
    with pytest.raises(InvalidRequest):
        pool.thumbnail(picture(), 99)
    with pytest.raises(LookupError, match="as the function says"):
        pool.call(fail)

    assert caught.value.reason is ImageReason.UNRECOGNISED


def test_many_pictures_keep_their_order_and_each_its_rejection(pool: DecodePool) -> None:
    pictures = [picture(shade) for shade in range(200)]
    pictures[70] = b"no picture"
    pictures[199] = b""

    outcomes = pool.preprocess_many(pictures, SPEC)

    assert isinstance(outcomes[70], ImageRejected) and isinstance(outcomes[199], ImageRejected)
    reds = [int(pixels[0, 0, 0]) for pixels in outcomes if isinstance(pixels, np.ndarray)]
    assert reds == [shade for shade in range(199) if shade != 70]


def test_no_pictures_are_no_work(pool: DecodePool) -> None:
    assert pool.preprocess_many([], SPEC) == []


def test_a_hang_and_a_crash_reject_only_themselves(pool: DecodePool) -> None:
    files = [b"%d" % number for number in range(40)]
    files[3], files[20], files[21] = b"crash", b"hang", b"crash"

    outcomes = pool.call_many(misbehave, [(data,) for data in files])

    reasons = {at: each.reason for at, each in enumerate(outcomes) if isinstance(each, ImageRejected)}
    assert reasons == {3: ImageReason.CRASHED, 20: ImageReason.TIMEOUT, 21: ImageReason.CRASHED}
    assert [each for each in outcomes if isinstance(each, bytes)] == [
        data for data in files if data not in (b"hang", b"crash")
    ]


def test_a_hanging_process_is_gone_and_the_pool_works_on(pool: DecodePool) -> None:
    hanging = pool.call(os.getpid)

    with pytest.raises(ImageRejected) as caught:
        pool.call(misbehave, b"hang")

    assert caught.value.reason is ImageReason.TIMEOUT
    assert not psutil.pid_exists(hanging)
    assert pool.call(misbehave, b"fine") == b"FINE"


def test_a_process_killed_while_idle_is_replaced(pool: DecodePool) -> None:
    idle = psutil.Process(pool.call(os.getpid))

    idle.kill()

    assert awaited(lambda: idle.status() == psutil.STATUS_ZOMBIE)
    assert pool.call(misbehave, b"fine") == b"FINE"


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_a_picture_that_needs_too_much_memory_is_rejected() -> None:
    large = picture(side=5_000)

    with DecodePool(1, timeout=20, memory=64 * 1024**2, limits=LIMITS) as pool:
        with pytest.raises(ImageRejected) as caught:
            pool.verify(large)

        assert caught.value.reason is ImageReason.TOO_MANY_PIXELS
        assert pool.verify(picture()).width == 20


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_grey_needs_little_more_memory_than_its_pixels(dtype: type) -> None:
    target = BytesIO()
    Image.fromarray(np.zeros((4_000, 4_000), dtype)).save(target, "TIFF", compression="tiff_deflate")

    with DecodePool(1, timeout=20, memory=256 * 1024**2, limits=LIMITS) as pool:
        assert pool.verify(target.getvalue()).width == 4_000


def limit_leaving(free: int) -> int:
    """The limit of descriptors under which so many are free."""
    used = {int(descriptor.name) for descriptor in Path("/proc/self/fd").iterdir()}
    limit = 0
    while free or limit in used:
        free -= limit not in used
        limit += 1
    return limit


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts the descriptors of this process")
@pytest.mark.parametrize("free", [0, 2])
def test_a_process_that_the_system_has_no_room_for_is_started_later(pool: DecodePool, free: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = limit_leaving(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        with pytest.raises(Unavailable):
            pool.call_many(misbehave, [(b"a",)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert limit_leaving(free) == limit, "nothing was left open"
    assert pool.call_many(misbehave, [(b"a",)]) == [b"A"]


def test_many_threads_share_the_processes(pool: DecodePool) -> None:
    with ThreadPoolExecutor(16) as threads:
        outcomes = list(threads.map(lambda shade: pool.preprocess(picture(shade), SPEC)[0, 0, 0], range(100)))

    assert outcomes == list(range(100))
    assert len(decoders()) <= 2


def test_processes_ignore_the_signals_meant_for_the_service(pool: DecodePool) -> None:
    worker = psutil.Process(pool.call(os.getpid))

    worker.send_signal(signal.SIGINT)
    worker.send_signal(signal.SIGTERM)

    assert pool.call(os.getpid) == worker.pid


def test_processes_import_neither_the_program_nor_anything_heavy(pool: DecodePool) -> None:
    loaded = set(pool.call(eval, "sorted(__import__('sys').modules)"))

    assert "services.images.decode" in loaded
    assert loaded & {"torch", "flask", "celery", "pymilvus", "sqlalchemy", "pytest"} == set()
    assert not pool.call(eval, "hasattr(__import__('__main__'), '__file__')")


def test_a_process_outlives_the_thread_that_started_it(pool: DecodePool) -> None:
    started: list[int] = []
    thread = threading.Thread(target=lambda: started.append(pool.call(os.getpid)))
    thread.start()
    thread.join()

    assert pool.call(os.getpid) == started[0]


def test_closing_ends_all_processes_and_refuses_work() -> None:
    pool = DecodePool(2, timeout=2, memory=GIGABYTE, limits=LIMITS)
    pool.preprocess_many([picture(shade) for shade in range(50)], SPEC)
    started = decoders()

    pool.close()

    assert started and not any(child.is_running() for child in started)
    with pytest.raises(Unavailable):
        pool.inspect(picture())
    with pytest.raises(Unavailable):
        pool.preprocess_many([picture()], SPEC)


PROGRAM = """
import threading
from services.images.decode import Limits
from services.images.pool import DecodePool
from tests.unit.test_images_pool import misbehave

pool = DecodePool(2, timeout=300, memory=2**30, limits=Limits(10**6, 10**6))
pool.call_many(misbehave, [(b"fine",)] * 40)
threading.Thread(target=pool.call, args=(misbehave, b"hang"), daemon=True).start()
pool.call(misbehave, b"fine")
print("working", flush=True)
threading.Event().wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process that is busy in native code")
def test_no_process_outlives_a_parent_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"working\n"
        orphans = decoders(psutil.Process(parent.pid))
        parent.kill()

    assert len(orphans) == 2
    assert awaited(lambda: not any(orphan.is_running() for orphan in orphans))


def test_a_program_that_forgets_to_close_the_pool_still_ends() -> None:
    program = PROGRAM.replace("threading.Event().wait()", "").replace('b"hang"', 'b"fine"')

    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60, check=False)

    assert (ended.returncode, ended.stderr) == (0, b"")
