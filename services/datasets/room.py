"""Room for arrays that are larger than memory should hold."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile

import numpy as np
import numpy.typing as npt

from services.errors import ConfigurationError

# What a full disk answers, a quota that is used up, and a file that is longer than the disk can have.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What file systems answer that cannot reserve room; writing to the array then has to do.
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def array_in_file(shape: tuple[int, ...], dtype: npt.DTypeLike, contents: str) -> np.memmap:
    """An array, not filled, in a temporary file without a name, that is gone with the array.

    The disk's space is reserved at once: a process that writes into a mapped file on a full disk is killed (SIGBUS).

    Args:
        contents: what the array is for, in plural, for the message.

    Raises:
        ConfigurationError: the disk has not enough space left.
    """
    folder = tempfile.gettempdir()
    needed = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    # Asked first, so that what cannot succeed does not fill the disk of others on its way.
    if needed > shutil.disk_usage(folder).free:
        raise _no_room(folder, needed, contents)
    with tempfile.TemporaryFile(prefix="akin-array-") as file:
        try:
            _reserve(file.fileno(), needed)
        except OSError as error:
            if error.errno in _FULL:
                raise _no_room(folder, needed, contents) from error
            raise
        return np.memmap(file, dtype, "w+", shape=shape)


def _reserve(descriptor: int, size: int) -> None:
    # macOS and Windows have no such call.
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _CANNOT_RESERVE:
            raise


def _no_room(folder: str, needed: int, contents: str) -> ConfigurationError:
    return ConfigurationError(
        f"{contents} need {needed:,} bytes in {folder}, which has {shutil.disk_usage(folder).free:,} left: set TMPDIR "
        "to a folder on a larger disk, or take fewer pictures"
    )
