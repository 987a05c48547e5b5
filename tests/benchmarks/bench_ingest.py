"""Pictures a second from the first request to the last searchable picture, beside a bare loop on the same cores.

    make bench-ingest                           # photographs beside the repository, else drawn sample pictures
    make bench-ingest IMAGES=folder-or-zip      # your own

A round uploads pictures as one archive to a whole stack, and before and after runs the bare loop on them, which reads,
decodes, preprocesses and encodes in batches and does nothing else: a machine that others use too is slower at one
moment than at the next. Each round doubles the catalog, so that the CPU time of each stage shows whether it grows with
what is stored.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import click
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from services.cli.encoders import find_checkpoint
from services.cli.terminal import reporting_errors
from services.client import AkinClient, ImportOptions
from services.config import Settings, load_settings
from services.datasets.source import open_source
from services.encoders.torch_encoder import TorchEncoder
from services.errors import ImageRejected, InvalidRequest
from services.evaluation.speed import device_name
from services.images.decode import Limits
from services.images.preprocess import Pixels, preprocess
from services.samples import write_samples
from services.stack.background import background_stack
from services.stack.state import RunState

PHOTOGRAPHS = Path(__file__).parents[2] / ".." / "shared" / "data" / "clothing.zip"
# What only a decoding process has on its command line.
DECODING = "services.images.process"
ONE_BY_ONE = "bare loop, one after the other"
AHEAD = "bare loop, decoding ahead in threads"
SERVICE = "service"
WANTED = 0.7
BARE_STAGES = ("read", "decode and preprocess", "encode")
LOOKS = 0.2  # seconds after which it is asked again whether all can be searched; some times that while much is left
LEAST = 0.005  # CPU milliseconds a picture below which a stage is not shown


@dataclass(frozen=True)
class Round:
    """What one round measured: pictures a second, and CPU milliseconds a picture by stage."""

    pictures: int
    rates: Mapping[str, float]
    bare_cpu: Mapping[str, float]
    cpu: Mapping[str, float]


@click.command()
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="Folder or zip file of pictures.")
@click.option("--count", type=click.IntRange(min=64), help="Pictures of the first round, at most.")
@click.option("--rounds", type=click.IntRange(min=2), default=3, show_default=True, help="Each doubles the catalog.")
@reporting_errors
def bench_ingest(*, images: Path | None, count: int | None, rounds: int) -> None:
    """Measure ingest beside the bare loop."""
    settings = load_settings()
    bare = BareLoop(settings)
    measured: list[Round] = []
    files = _files(images, count, bare)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archives = [_copies(files, number, folder) for number in range(rounds)]
        warm_up = _written(files[: settings.embed_batch], folder / "warm-up.zip")
        with background_stack(folder / "data") as state:
            # The encoder, connections and decoding processes are there when the first round begins.
            for archive in (warm_up, *archives):
                measured.append(_round(bare, Service(state), archive))
    _show(measured[1:], bare, files)


class BareLoop:
    """A script that wants vectors and nothing else, with the encoder, batch, threads and cores of the stack."""

    def __init__(self, settings: Settings) -> None:
        self.encoder = TorchEncoder(*find_checkpoint(settings.default_encoder), device=settings.device)
        self.threads = settings.decode_processes
        self._batch = settings.embed_batch
        self._limits = Limits(settings.max_image_bytes, settings.max_image_pixels)

    def one_by_one(self, archive: Path) -> Mapping[str, float]:
        """Read, decode and encode in turn; returns the CPU seconds of each."""
        seconds: defaultdict[str, float] = defaultdict(float)
        with zipfile.ZipFile(archive) as opened:
            for names in self._batches(opened):
                moments = [time.process_time()]
                read = [opened.read(name) for name in names]
                moments.append(time.process_time())
                pixels = np.stack([self.pixels(data) for data in read])
                moments.append(time.process_time())
                self.encoder.encode(pixels)
                moments.append(time.process_time())
                for stage, (began, ended) in zip(BARE_STAGES, pairwise(moments), strict=True):
                    seconds[stage] += ended - began
        return seconds

    def ahead(self, archive: Path) -> None:
        """Read and decode one batch ahead of encoding, in threads: Pillow frees the interpreter while it decodes."""
        with zipfile.ZipFile(archive) as opened, ThreadPoolExecutor(self.threads) as pool:
            upcoming: Iterator[Pixels] | None = None
            for names in [*self._batches(opened), []]:
                decoding, upcoming = upcoming, pool.map(lambda name: self.pixels(opened.read(name)), names)
                if decoding is not None:
                    self.encoder.encode(np.stack(list(decoding)))

    def pixels(self, data: bytes) -> Pixels:
        """Decode and preprocess with the service's own function."""
        return preprocess(data, self.encoder.manifest.preprocessing, self._limits)

    def _batches(self, archive: zipfile.ZipFile) -> list[list[str]]:
        names = archive.namelist()
        return [names[start : start + self._batch] for start in range(0, len(names), self._batch)]


class Service:
    """The whole stack, through its HTTP API."""

    def __init__(self, state: RunState) -> None:
        self._state = state

    def ingest(self, archive: Path) -> None:
        """Upload an archive and wait until the last of its pictures can be searched."""
        with AkinClient(self._state.api_url, self._state.api_key) as client:
            job = client.wait(client.import_archive(archive, "application/zip", ImportOptions()).id, interval=LOOKS)
        if job.state != "finished" or job.indexed != job.total:
            raise click.ClickException(f"{job.indexed} of {job.total} pictures became searchable: {job.state}")

    def cpu_seconds(self) -> Mapping[str, float]:
        """CPU time so far of each program with its processes; that of its decoding processes by itself."""
        seconds: defaultdict[str, float] = defaultdict(float)
        seconds["client"] = time.process_time()
        seconds["supervisor"] = _used(psutil.Process(self._state.pid))
        for program, reference in self._state.children.items():
            leader = psutil.Process(reference.pid)
            for process in (leader, *leader.children(recursive=True)):
                decodes = DECODING in " ".join(process.cmdline())
                seconds[f"{program}: decoding" if decodes else program] += _used(process)
                # Decoding processes are replaced after thousands of pictures; nothing else ends in between.
                ended = process.cpu_times()
                seconds[f"{program}: decoding"] += ended.children_user + ended.children_system
        return seconds


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _round(bare: BareLoop, service: Service, archive: Path) -> Round:
    with zipfile.ZipFile(archive) as opened:
        count = len(opened.namelist())
    began = time.perf_counter()
    bare_cpu = bare.one_by_one(archive)
    in_turn = time.perf_counter() - began
    ahead = _seconds(bare.ahead, archive)
    before = service.cpu_seconds()
    served = _seconds(service.ingest, archive)
    after = service.cpu_seconds()
    ahead_again = _seconds(bare.ahead, archive)
    return Round(
        count,
        {ONE_BY_ONE: count / in_turn, AHEAD: 2 * count / (ahead + ahead_again), SERVICE: count / served},
        {stage: 1000 * used / count for stage, used in bare_cpu.items()},
        {stage: 1000 * (used - before.get(stage, 0.0)) / count for stage, used in after.items()},
    )


def _seconds(work: Callable[[Path], None], archive: Path) -> float:
    began = time.perf_counter()
    work(archive)
    return time.perf_counter() - began


def _files(images: Path | None, count: int | None, bare: BareLoop) -> list[bytes]:
    """The bytes of the pictures that can be decoded; evenly chosen ones where there are more than wanted."""
    if images is None and not PHOTOGRAPHS.exists():
        with tempfile.TemporaryDirectory() as folder:
            write_samples(Path(folder))
            return _files(Path(folder), count, bare)
    with open_source(str(images or PHOTOGRAPHS)) as source:
        step = max(1, len(source.pictures) // count) if count else 1
        files = []
        for picture in source.pictures[::step]:
            with suppress(ImageRejected, OSError):
                data = picture.content()
                bare.pixels(data)
                files.append(data)
    if not files:
        raise InvalidRequest("none of these files is a picture that can be decoded")
    return files[:count]


def _copies(files: Sequence[bytes], number: int, folder: Path) -> Path:
    """What a round adds: the pictures once in the first two, then twice, four times, as much as there is already.

    Bytes behind the end of a picture make it another file, which costs as much to decode.
    """
    times = max(1, 2 ** (number - 1))
    copies = [data + f"{number}.{copy}".encode() for copy in range(times) for data in files]
    return _written(copies, folder / f"round-{number}.zip")


def _written(files: Sequence[bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for position, data in enumerate(files):
            archive.writestr(f"{path.stem}/{position}.jpg", data)
    return path


def _show(rounds: Sequence[Round], bare: BareLoop, files: Sequence[bytes]) -> None:
    console = Console(width=100)
    console.print(
        f"{bare.encoder.manifest.ref}, {len(files):,} pictures of {sum(map(len, files)) / len(files) / 1024:.1f} KiB, "
        f"{device_name(str(bare.encoder.device))}, {bare.threads} decoding threads or processes",
        highlight=False,
    )
    sizes = [f"{size:,}" for size in accumulate(one.pictures for one in rounds)]
    rates = _table("pictures/s, up to a catalog of", *sizes, "median")
    for name in rounds[0].rates:
        each = [one.rates[name] for one in rounds]
        rates.add_row(name, *(f"{rate:,.0f}" for rate in each), f"{statistics.median(each):,.0f}")
    console.print(rates)
    reached = [one.rates[SERVICE] / max(one.rates[ONE_BY_ONE], one.rates[AHEAD]) for one in rounds]
    console.print(
        f"{SERVICE} at {statistics.median(reached):.0%} of the better bare loop, "
        f"{', '.join(f'{share:.0%}' for share in reached)} (wanted: {WANTED:.0%} or more)",
        highlight=False,
    )
    stages = _table("CPU milliseconds a picture", *sizes, "last / first")
    _add_stages(stages, "bare loop", [one.bare_cpu for one in rounds])
    stages.add_section()
    _add_stages(stages, SERVICE, [one.cpu for one in rounds])
    console.print(stages)
    times = statistics.median(sum(one.cpu.values()) / sum(one.bare_cpu.values()) for one in rounds)
    console.print(f"{SERVICE} takes {times:.2f} times the CPU time of the {ONE_BY_ONE}", highlight=False)


def _table(*columns: str) -> Table:
    table = Table(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _add_stages(table: Table, whole: str, rounds: Sequence[Mapping[str, float]]) -> None:
    for stage in [*rounds[0], whole]:
        used = [sum(one.values()) if stage == whole else one[stage] for one in rounds]
        if max(used) >= LEAST:
            name = f"[bold]{whole}, together[/]" if stage == whole else stage
            table.add_row(name, *(f"{one:.2f}" for one in used), f"{used[-1] / used[0]:.2f}" if used[0] else "")


if __name__ == "__main__":
    bench_ingest()
