"""Pictures a second from files to vectors, stage by stage, beside the plain loop that the articles use.

    make bench-encode                                    # drawn sample pictures, the default encoder
    make bench-encode IMAGES=photos.zip ENCODER=NAME     # your own

Every figure is the median of rounds in which all stages take turns, so that what else the machine does falls on
all of them alike. "The plain loop" opens, resizes, converts and encodes one picture after the other.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.nn.functional import normalize
from torchvision.transforms import functional as transforms

from services.cli.encoders import find_checkpoint
from services.cli.terminal import device_option, reporting_errors
from services.config import Settings, load_settings
from services.datasets.source import open_source
from services.encoders.architectures import load
from services.encoders.checkpoint import Checkpoint
from services.encoders.normalisation import to_input
from services.encoders.torch_encoder import TorchEncoder, reduced_precision
from services.errors import EncoderError, ImageRejected, InvalidRequest
from services.evaluation.speed import device_name
from services.images.decode import Limits, decode
from services.images.pool import DecodePool
from services.images.preprocess import preprocess
from services.samples import write_samples

Pixels = npt.NDArray[np.uint8]
LOOP_PICTURES = 100
RESIDENT, RESIDENT_PIXELS = 2048, 2**27


@dataclass(frozen=True)
class Stage:
    """Something to time: `run` handles `pictures` pictures."""

    name: str
    pictures: int
    run: Callable[[], object]


@click.command()
@click.option("--images", help="Folder or zip of pictures; sample pictures are drawn unless given.")
@click.option("--encoder", help="Name or checkpoint folder; the default encoder unless given.")
@device_option
@click.option("--count", type=click.IntRange(min=2), default=600, show_default=True, help="Pictures, at most.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Of PyTorch and ONNX Runtime, on the CPU.")
@reporting_errors
def bench_encode(
    *, images: str | None, encoder: str | None, device: str | None, count: int, rounds: int, threads: int | None
) -> None:
    """Measure decoding, preprocessing and encoding."""
    settings = load_settings()
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = find_checkpoint(encoder or settings.default_encoder)
    on_device = TorchEncoder(*checkpoint, device=device or settings.device)
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    files = _readable(_files(images, count), checkpoint, limits)
    with _pool(settings, limits) as pool:
        pool.warm_up()
        stages = _stages(files, checkpoint, on_device, pool, settings.embed_batch)
        rates = _measure(stages, rounds)
    _show(rates, files, checkpoint, on_device, settings.decode_processes)


def _stages(
    files: list[bytes], checkpoint: Checkpoint, encoder: TorchEncoder, pool: DecodePool, batch: int
) -> list[Stage]:
    spec = checkpoint.manifest.preprocessing
    pixels = np.stack([preprocess(data, spec, pool.limits) for data in files])
    plain = load(*checkpoint).to(encoder.device)
    few = files[:LOOP_PICTURES]
    stages = [
        Stage("the plain loop, one by one", len(few), lambda: _plain_loop(few, checkpoint, plain, encoder.device)),
        Stage("decode", len(files), lambda: [decode(data, pool.limits, at_least=2 * spec.size) for data in files]),
        Stage("decode + preprocess", len(files), lambda: [preprocess(data, spec, pool.limits) for data in files]),
        Stage("the same in processes", len(files), lambda: pool.preprocess_many(files, spec)),
        Stage("encode", len(files), lambda: encoder.encode(pixels)),
        Stage("together", len(files), lambda: _together(files, encoder, pool, batch)),
    ]
    if encoder.device.type == "cpu":
        stages += _onnx_stage(checkpoint, pixels, batch)
    stages += _resident_stages(pixels, encoder)
    return stages


def _plain_loop(files: list[bytes], checkpoint: Checkpoint, network: torch.nn.Module, device: torch.device) -> None:
    spec = checkpoint.manifest.preprocessing
    for data in files:
        picture = Image.open(BytesIO(data)).convert("RGB").resize((spec.size, spec.size))
        values = transforms.normalize(transforms.to_tensor(picture), list(spec.mean), list(spec.std))
        with torch.no_grad():
            normalize(network(values.unsqueeze(0).to(device))).cpu().numpy()


def _together(files: list[bytes], encoder: TorchEncoder, pool: DecodePool, batch: int) -> None:
    """As a worker does: the next batch is decoded in processes while one is encoded."""
    spec = encoder.manifest.preprocessing
    with ThreadPoolExecutor(1) as ahead:
        decoding = ahead.submit(pool.preprocess_many, files[:batch], spec)
        for start in range(batch, len(files) + batch, batch):
            decoded = decoding.result()
            decoding = ahead.submit(pool.preprocess_many, files[start : start + batch], spec)
            encoder.encode(np.stack([pixels for pixels in decoded if not isinstance(pixels, ImageRejected)]))


def _onnx_stage(checkpoint: Checkpoint, pixels: Pixels, batch: int) -> Iterator[Stage]:
    """What ONNX Runtime would make of it, where it is installed."""
    try:
        import onnxruntime

        from services.encoders.onnx_export import INPUT, OUTPUT, export

        with tempfile.TemporaryDirectory() as folder:
            export(checkpoint, Path(folder) / "encoder.onnx")
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(
                Path(folder) / "encoder.onnx", options, providers=["CPUExecutionProvider"]
            )
    except (ImportError, EncoderError) as error:
        click.echo(f"ONNX Runtime is left out: {error}", err=True)
        return

    def run() -> None:
        for start in range(0, len(pixels), batch):
            session.run([OUTPUT], {INPUT: pixels[start : start + batch]})

    yield Stage("encode by ONNX Runtime", len(pixels), run)


def _resident_stages(pixels: Pixels, encoder: TorchEncoder) -> Iterator[Stage]:
    """The share of the bare forward rate that is left when pictures come from host memory and vectors go back."""
    # On a GPU enough for a steady state, as far as they fit; on a CPU there is nothing to fill.
    fitting = RESIDENT_PIXELS // encoder.manifest.preprocessing.size**2
    count = max(len(pixels), min(RESIDENT, fitting)) if encoder.device.type == "cuda" else len(pixels)
    many = np.resize(pixels, (count, *pixels.shape[1:]))
    resident = [
        to_input(torch.from_numpy(part).to(encoder.device), encoder.manifest.preprocessing)
        for part in np.array_split(many, -(-len(many) // encoder.largest_batch))
    ]

    @torch.inference_mode()
    def forward() -> None:
        with reduced_precision(encoder.device):
            for values in resident:
                encoder.network(values)
        if encoder.device.type == "cuda":
            torch.cuda.synchronize(encoder.device)

    yield Stage(HOST_TO_HOST, len(many), lambda: encoder.encode(many))
    yield Stage(RESIDENT_FORWARD, len(many), forward)


HOST_TO_HOST = "host to host"
RESIDENT_FORWARD = "bare forward, resident"


def _measure(stages: list[Stage], rounds: int) -> dict[str, float]:
    """Pictures a second of each stage: the median over rounds, after one that is not counted."""
    seconds: dict[str, list[float]] = {stage.name: [] for stage in stages}
    for number in range(rounds + 1):
        for stage in stages:
            started = time.perf_counter()
            stage.run()
            if number > 0:
                seconds[stage.name].append(time.perf_counter() - started)
    return {stage.name: stage.pictures / statistics.median(seconds[stage.name]) for stage in stages}


def _show(
    rates: dict[str, float], files: list[bytes], checkpoint: Checkpoint, encoder: TorchEncoder, processes: int
) -> None:
    spec = checkpoint.manifest.preprocessing
    console = Console(width=100)
    console.print(
        f"{checkpoint.manifest.ref} at {spec.size} × {spec.size}, {len(files)} pictures of "
        f"{sum(map(len, files)) / len(files) / 1024:.0f} KiB, {device_name(str(encoder.device))}, "
        f"{processes} decoding processes",
        highlight=False,
    )
    table = Table("stage", "images/s", "plain loop ×")
    for column in table.columns[1:]:
        column.justify = "right"
    loop = next(iter(rates.values()))
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}", f"{rate / loop:.2f}")
    console.print(table)
    share = rates[HOST_TO_HOST] / rates[RESIDENT_FORWARD]
    console.print(f"host uint8 to host vectors at {share:.0%} of the bare forward rate", highlight=False)


def _files(images: str | None, count: int) -> list[bytes]:
    if images:
        with open_source(images) as source:
            step = max(1, len(source.pictures) // count)
            return [picture.content() for picture in islice(source.pictures[::step], count)]
    with tempfile.TemporaryDirectory() as folder:
        return [path.read_bytes() for path in write_samples(Path(folder), count)]


def _readable(files: list[bytes], checkpoint: Checkpoint, limits: Limits) -> list[bytes]:
    kept = []
    for data in files:
        try:
            preprocess(data, checkpoint.manifest.preprocessing, limits)
        except ImageRejected:
            continue
        kept.append(data)
    if not kept:
        raise InvalidRequest("none of these files is a picture that can be decoded")
    return kept


def _pool(settings: Settings, limits: Limits) -> DecodePool:
    return DecodePool(settings.decode_processes, settings.decode_timeout, settings.decode_memory, limits)


if __name__ == "__main__":
    bench_encode()
