"""Sets that torchvision keeps as arrays, CIFAR-10 and Fashion-MNIST, as pictures with names."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.errors import ConfigurationError, InvalidRequest

PARTS = ("train", "test")

_CIFAR10_FOLDER = "cifar-10-batches-py"
_CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
_FASHION_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class ArrayPicture:
    """A picture of a set, uint8 (h, w) or (h, w, 3)."""

    name: str
    label: str
    pixels: npt.NDArray[np.uint8]

    def png(self) -> bytes:
        """The picture as PNG, not compressed: the same bytes with every release of zlib."""
        target = BytesIO()
        Image.fromarray(self.pixels).save(target, "PNG", compress_level=0)
        return target.getvalue()


def read(name: str, folder: Path, part: str) -> list[ArrayPicture]:
    """Read a set of SETS, ordered by name; a folder that does not exist is downloaded into.

    Args:
        part: `train` or `test`.

    Raises:
        InvalidRequest: the part is neither, or the files are not there and cannot be downloaded.
        ConfigurationError: torchvision is not installed.
    """
    if part not in PARTS:
        raise InvalidRequest(f"{name}:{folder} needs a part: {name}:{folder}#train or {name}:{folder}#test")
    try:
        import torchvision  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{name}: needs torchvision: pip install 'akin[worker]'") from error
    dataset = SETS[name](folder, part == "train")
    pixels = np.asarray(dataset.data, np.uint8)
    labels = [str(dataset.classes[int(target)]) for target in dataset.targets]
    pictures = [
        ArrayPicture(f"{label.replace('/', '-')}/{number:05}.png", label, picture)
        for number, (label, picture) in enumerate(zip(labels, pixels, strict=True))
    ]
    return sorted(pictures, key=lambda picture: picture.name)


def _cifar10(folder: Path, train: bool) -> Any:
    from torchvision.datasets import CIFAR10

    # torchvision takes an archive that lies there instead of downloading it.
    download = not folder.exists() or (folder / _CIFAR10_ARCHIVE).exists()
    try:
        return CIFAR10(str(folder), train=train, download=download)
    except (RuntimeError, OSError) as error:
        raise InvalidRequest(
            f"CIFAR-10 is not in {folder} ({error}): put {_CIFAR10_FOLDER}/ or {_CIFAR10_ARCHIVE} "
            "of https://www.cs.toronto.edu/~kriz/cifar.html there"
        ) from error


def _fashion_mnist(folder: Path, train: bool) -> Any:
    from torchvision.datasets import FashionMNIST

    if not folder.exists():
        try:
            return FashionMNIST(str(folder), train=train, download=True)
        except (RuntimeError, OSError) as error:
            raise _no_fashion_mnist(folder, str(error)) from error
    nested = folder / "FashionMNIST" / "raw"
    raw = nested if nested.is_dir() else folder
    with tempfile.TemporaryDirectory() as temporary:
        # torchvision wants the files unpacked in folders of its own naming; the user's folder stays as it is.
        arranged = Path(temporary, "FashionMNIST", "raw")
        arranged.mkdir(parents=True)
        try:
            for file in _FASHION_FILES:
                _unpack(raw / file, arranged / file)
            return FashionMNIST(temporary, train=train, download=False)
        except (RuntimeError, OSError, EOFError, ValueError, AssertionError) as error:
            raise _no_fashion_mnist(folder, str(error)) from error


def _unpack(file: Path, target: Path) -> None:
    """Link a file, or unpack the `.gz` beside it."""
    if file.exists():
        target.symlink_to(file.resolve())
        return
    with gzip.open(f"{file}.gz") as packed, target.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)


def _no_fashion_mnist(folder: Path, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"Fashion-MNIST is not in {folder} ({reason}): put {', '.join(_FASHION_FILES)}, each as it is or with .gz, "
        f"there or into {folder / 'FashionMNIST' / 'raw'}"
    )


SETS: dict[str, Callable[[Path, bool], Any]] = {"cifar10": _cifar10, "fashion-mnist": _fashion_mnist}
