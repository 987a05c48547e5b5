"""Registered encoders: rows in the catalog, weights in the blob store under their SHA-256."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from services.catalog import encoders, indexes
from services.catalog.database import Database
from services.catalog.models import EncoderRow
from services.catalog.states import IndexState
from services.encoders.checkpoint import Checkpoint, verify
from services.encoders.manifest import Manifest
from services.errors import AkinError, ConfigurationError, Conflict, NotFound
from services.storage.blobs import BlobStore

if TYPE_CHECKING:
    from services.encoders.base import Encoder

logger = logging.getLogger(__name__)


class EncoderRegistry:
    """Registers encoders and loads them once a process; thread-safe."""

    def __init__(self, database: Database, blobs: BlobStore, device: str) -> None:
        self._database = database
        self._blobs = blobs
        self._device = device
        self._loaded: dict[str, Encoder] = {}
        self._lock = threading.Lock()

    def register(self, checkpoint: Checkpoint, *, recalibrate: bool = False) -> int:
        """Make an encoder known; returns its id. The same weights again are the same encoder.

        An encoder that is known without a calibration gets that of the checkpoint: what is shipped may have gained one.

        Args:
            recalibrate: let the checkpoint's calibration take the place of another one, too.

        Raises:
            EncoderError: the weights are not those that the manifest names.
            Conflict: its name and version belong to other weights.
        """
        verify(checkpoint)
        manifest = checkpoint.manifest
        # Weights first: a row never points at nothing.
        self._blobs.put(_weights_key(manifest.weights_sha256), checkpoint.weights)
        try:
            return self._add(manifest, recalibrate)
        except IntegrityError:  # another process registers at the same time: by now its row is there
            return self._add(manifest, recalibrate)

    def _add(self, manifest: Manifest, recalibrate: bool) -> int:
        with self._database.transaction() as session:
            same_name = select(EncoderRow).where(
                EncoderRow.name == manifest.name, EncoderRow.version == manifest.version
            )
            known = session.scalar(select(EncoderRow).where(EncoderRow.sha256 == manifest.weights_sha256))
            if known is None and session.scalar(same_name) is not None:
                raise Conflict(f"{manifest.ref} is registered with other weights; give it a new version")
            if known is None:
                known = EncoderRow(
                    name=manifest.name,
                    version=manifest.version,
                    sha256=manifest.weights_sha256,
                    dimension=manifest.dimension,
                    manifest=manifest.model_dump(mode="json"),
                )
                session.add(known)
                session.flush()
            elif manifest.calibration is not None:
                registered = Manifest.model_validate(known.manifest)
                if registered.calibration is None or (recalibrate and registered.calibration != manifest.calibration):
                    # Nothing else of it: the weights, and all that belongs to them, are as they were registered.
                    update = {"calibration": manifest.calibration}
                    known.manifest = registered.model_copy(update=update).model_dump(mode="json")
            return known.id

    def encoder(self, sha256: str) -> Encoder:
        """The encoder with these weights, on the configured device.

        Raises:
            NotFound: none is registered with this SHA-256.
            EncoderError: its weights are damaged or need another release.
            Unavailable: the blob store does not answer.
        """
        with self._lock:
            if sha256 not in self._loaded:
                self._loaded[sha256] = self._load(sha256)
            return self._loaded[sha256]

    def warm_up(self, threads: int | None = None) -> None:
        """Load the encoders of live and building indexes, so that the first picture does not wait for torch.

        Args:
            threads: cores that this process encodes on, where it does so on the CPU; None leaves it to torch.

        Raises:
            ConfigurationError: AKIN_DEVICE names a device that is not there.
        """
        if threads is not None:
            from services.encoders.torch_encoder import use_threads

            use_threads(threads)
        with self._database.reading() as session:
            states = [IndexState.LIVE, IndexState.BUILDING]
            wanted = {index.encoder.sha256 for index in indexes.in_states(session, states)}
        for sha256 in wanted:
            try:
                encoder = self.encoder(sha256)
            except ConfigurationError:  # no encoder can be loaded on such a device
                raise
            except AkinError as error:  # those who ask for this one are told; the others go on
                logger.error("encoder %s cannot be loaded: %s", sha256[:12], error.detail)
                continue
            size = encoder.manifest.preprocessing.size
            encoder.encode(np.zeros((1, size, size, 3), np.uint8))

    def checkpoint(self, ref: str) -> Checkpoint:
        """A registered encoder's manifest and weights, by `name@version`, or the latest version of `name`.

        Raises:
            NotFound: none is registered under this name.
            EncoderError: its weights are damaged.
            Unavailable: the blob store does not answer.
        """
        with self._database.reading() as session:
            manifest = Manifest.model_validate(encoders.by_ref(session, ref).manifest)
        checkpoint = Checkpoint(manifest, self._blobs.get(_weights_key(manifest.weights_sha256)))
        verify(checkpoint)
        return checkpoint

    def _load(self, sha256: str) -> Encoder:
        from services.encoders.torch_encoder import TorchEncoder

        with self._database.reading() as session:
            row = session.scalar(select(EncoderRow).where(EncoderRow.sha256 == sha256))
        if row is None:
            raise NotFound(f"no encoder with weights {sha256[:12]}… is registered", code="encoder_not_found")
        return TorchEncoder(Manifest.model_validate(row.manifest), self._blobs.get(_weights_key(sha256)), self._device)


def _weights_key(sha256: str) -> str:
    return f"encoders/{sha256}/weights.safetensors"
