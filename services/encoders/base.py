"""What the rest of Akin knows of an encoder."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from services.encoders.manifest import Manifest


class Encoder(Protocol):
    """Turns preprocessed pictures into unit vectors. Implementations may be called from several threads."""

    @property
    def manifest(self) -> Manifest:
        """Declares the input size (`preprocessing.size`) and the vectors' `dimension`."""
        ...

    def encode(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Encode pictures of shape (n, size, size, 3) into rows of length 1, shape (n, dimension).

        A picture whose code is zero or not finite has no direction: its row is all zeros. Callers
        treat such a row as a failure of that picture and never store or search it.

        Raises:
            ValueError: the batch is not uint8 of that shape.
        """
        ...
