"""An encoder on disk: a folder with manifest.json and weights.safetensors. Needs no torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from services.encoders.manifest import Manifest, parse_manifest
from services.errors import AkinError, Conflict, EncoderError

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"


class Checkpoint(NamedTuple):
    """A manifest and the safetensors bytes that belong to it."""

    manifest: Manifest
    weights: bytes


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, replacing the one in the folder.

    Each file is replaced whole. A crash between the two leaves a pair that `read` refuses.

    Raises:
        EncoderError: the weights are not those that the manifest names.
        AkinError: the folder cannot be written.
    """
    verify(checkpoint)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / WEIGHTS_FILE, checkpoint.weights)
        _replace(folder / MANIFEST_FILE, checkpoint.manifest.to_json().encode())
    except OSError as error:
        raise AkinError(f"{folder} cannot be written: {error.strerror or error}") from error


def save_new(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint where there is none, or that of the same weights.

    Raises:
        Conflict: the folder holds other weights, or another program's file of these names.
        EncoderError: the weights are not those that the manifest names.
        AkinError: the folder cannot be read or written.
    """
    wanted = checkpoint.manifest.weights_sha256
    weights, manifest = folder / WEIGHTS_FILE, folder / MANIFEST_FILE
    try:
        held = [digest(weights.read_bytes())] if weights.is_file() else []
        held += [parse_manifest(manifest.read_bytes()).weights_sha256] if manifest.is_file() else []
    except EncoderError as error:
        raise Conflict(f"{manifest} is no encoder's") from error
    except OSError as error:
        raise AkinError(f"{folder} cannot be read: {error.strerror or error}") from error
    if any(sha256 != wanted for sha256 in held):
        raise Conflict(f"{folder} holds other weights")
    save(folder, checkpoint)


def read(folder: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        EncoderError: a file is missing, the manifest cannot be read, or the weights are not those it names.
    """
    try:
        manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes())
        checkpoint = Checkpoint(manifest, (folder / WEIGHTS_FILE).read_bytes())
    except OSError as error:
        raise EncoderError(f"{folder} is not an encoder checkpoint: {error}") from error
    verify(checkpoint)
    return checkpoint


def verify(checkpoint: Checkpoint) -> None:
    """Check that the weights are those that the manifest names.

    Raises:
        EncoderError: they are not.
    """
    manifest, weights = checkpoint
    found = digest(weights)
    if found != manifest.weights_sha256:
        raise EncoderError(
            f"the weights of {manifest.ref} are damaged or of another encoder: "
            f"their SHA-256 is {found}, the manifest says {manifest.weights_sha256}"
        )


def digest(weights: bytes) -> str:
    """SHA-256 of weights, which is an encoder's identity."""
    return hashlib.sha256(weights).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
