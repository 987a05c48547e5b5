"""Ask the query process for a vector, within a deadline.

A Celery round trip is too slow and collapses under load; a bounded Redis list with a reply key does not.
The request is msgpack on `akin:query`; the answer arrives on a list of its own that expires by itself.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import redis
from numpy.typing import NDArray

from services.errors import Overloaded, Unavailable

REQUESTS = "akin:query"

# Bounded in one step: two callers cannot both see the last free place.
_ENQUEUE = """
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[1])
return 1
"""


@dataclass(frozen=True)
class Query:
    """One preprocessed picture that wants a vector.

    `pixels` is uint8 (size, size, 3); `deadline` is Unix time in seconds.
    """

    reply: str
    encoder: str
    pixels: NDArray[np.uint8]
    deadline: float

    def pack(self) -> bytes:
        """To the wire."""
        packed: bytes = msgpack.packb(
            {
                "reply": self.reply,
                "encoder": self.encoder,
                "shape": self.pixels.shape,
                "pixels": self.pixels.tobytes(),
                "deadline": self.deadline,
            }
        )
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Query:
        """From the wire.

        Raises:
            ValueError: the bytes are no query, for example one of another release.
        """
        try:
            fields: dict[str, Any] = msgpack.unpackb(data)
            pixels = np.frombuffer(fields["pixels"], np.uint8).reshape(fields["shape"])
            return cls(fields["reply"], fields["encoder"], pixels, float(fields["deadline"]))
        except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
            raise ValueError("not a query") from error


def pack_answer(vector: NDArray[np.float32] | None, error: str | None = None) -> bytes:
    """A vector, or why there is none."""
    packed: bytes = msgpack.packb({"vector": None if vector is None else vector.tobytes(), "error": error})
    return packed


class QueryEncoder:
    """The caller's side; thread-safe."""

    def __init__(self, connection: redis.Redis, *, queue_limit: int, deadline: float) -> None:
        self._redis = connection
        self._limit = queue_limit
        self._deadline = deadline
        self._enqueue = connection.register_script(_ENQUEUE)

    def encode(self, encoder: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The vector (dimension,) of a preprocessed picture (size, size, 3) by the encoder with this SHA-256.

        Raises:
            Overloaded: as many queries wait as may.
            Unavailable: no answer within the deadline, or Redis is away.
        """
        query = Query(f"akin:answer:{uuid.uuid4().hex}", encoder, pixels, time.time() + self._deadline)
        try:
            if not self._enqueue(keys=[REQUESTS], args=[query.pack(), self._limit]):
                raise Overloaded("too many searches are waiting")
            answer = self._redis.blpop([query.reply], timeout=self._deadline)
        except redis.RedisError as error:
            raise Unavailable("Redis does not answer", part="redis") from error
        if answer is None:
            raise Unavailable("no query process encoded the picture in time", part="query")
        fields: dict[str, Any] = msgpack.unpackb(answer[1])
        if fields["error"]:
            raise Unavailable(fields["error"], part="query")
        return np.frombuffer(fields["vector"], np.float32)
