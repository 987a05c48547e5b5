"""Ask the query process for vectors and for what two pictures agree in, within a deadline.

A Celery round trip is too slow and collapses under load; a bounded Redis list with a reply key does not.
The request is msgpack on `akin:query`; the answer arrives on a list of its own that expires by itself. All kinds of
requests share the one list and its bound: they wait for the same device.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgpack
import numpy as np
import redis
from numpy.typing import NDArray

from services.errors import InvalidRequest, Overloaded, Unavailable

REQUESTS = "akin:query"

# An answer that nobody fetches (the caller gave up) goes by itself.
ANSWER_SECONDS = 30

# Bounded in one step: two callers cannot both see the last free place. A refusal is an answer too, the empty one, so
# that a caller asks and waits in one round trip.
_ENQUEUE = """
if redis.call('LLEN', KEYS[1]) < tonumber(ARGV[2]) then
  return redis.call('RPUSH', KEYS[1], ARGV[1])
end
redis.call('RPUSH', KEYS[2], '')
return redis.call('EXPIRE', KEYS[2], ARGV[3])
"""


class Kind(StrEnum):
    """What is asked for."""

    PIXELS = "pixels"
    TEXT = "text"
    AGREEMENT = "agreement"


@dataclass(frozen=True)
class Query:
    """One question to an encoder.

    Args:
        reply: the list that the answer is put on.
        encoder: SHA-256 of its weights.
        content: a preprocessed picture, uint8 (size, size, 3); a sentence; or, for an agreement, two pictures,
            uint8 (2, size, size, 3).
        deadline: Unix time in seconds; nobody waits for an answer after it.
    """

    reply: str
    encoder: str
    content: NDArray[np.uint8] | str
    deadline: float
    kind: Kind = Kind.PIXELS

    @property
    def group(self) -> tuple[str, Kind, tuple[int, ...]]:
        """What queries have in common that can be encoded together."""
        return self.encoder, self.kind, () if isinstance(self.content, str) else self.content.shape

    def pack(self) -> bytes:
        """To the wire."""
        fields: dict[str, Any] = {
            "reply": self.reply,
            "encoder": self.encoder,
            "deadline": self.deadline,
            "kind": self.kind.value,
        }
        if isinstance(self.content, str):
            fields["text"] = self.content
        else:
            fields |= {"shape": self.content.shape, "pixels": self.content.tobytes()}
        # JSON can name half of a surrogate pair, which no encoding of text has: it becomes a question mark.
        packed: bytes = msgpack.packb(fields, unicode_errors="replace")
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Query:
        """From the wire.

        Raises:
            ValueError: the bytes are no query, for example one of another release.
        """
        try:
            fields: dict[str, Any] = msgpack.unpackb(data)
            kind = Kind(fields["kind"])
            content = fields["text"] if kind is Kind.TEXT else _array(fields["pixels"], fields["shape"], np.uint8)
            if not all(isinstance(text, str) for text in (fields["reply"], fields["encoder"])):
                raise ValueError("it says neither where to answer nor which encoder is meant")
            if isinstance(content, str) != (kind is Kind.TEXT):
                raise ValueError("a sentence is text")
            return cls(fields["reply"], fields["encoder"], content, float(fields["deadline"]), kind)
        except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
            raise ValueError("not a query") from error


def pack_answer(arrays: Sequence[NDArray[np.float32]]) -> bytes:
    """What was asked for: one vector, or two grids."""
    packed: bytes = msgpack.packb({"arrays": [(array.shape, array.astype(np.float32).tobytes()) for array in arrays]})
    return packed


def pack_refusal(detail: str, code: str | None = None) -> bytes:
    """Why there is no answer; a code where the question itself cannot be answered by this encoder."""
    packed: bytes = msgpack.packb({"error": detail, "code": code})
    return packed


class QueryEncoder:
    """The caller's side; thread-safe.

    Every question may raise:
        Overloaded: as many questions wait as may. Told at once.
        Unavailable: no answer within the deadline, the encoder failed, or Redis is away.
    """

    def __init__(self, connection: redis.Redis, *, queue_limit: int, deadline: float) -> None:
        self._redis = connection
        self._limit = queue_limit
        self._deadline = deadline

    def encode(self, encoder: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The vector (dimension,) of a preprocessed picture (size, size, 3) by the encoder with this SHA-256."""
        (vector,) = self._ask(Kind.PIXELS, encoder, pixels)
        return vector

    def encode_text(self, encoder: str, text: str) -> NDArray[np.float32]:
        """The vector (dimension,) of a sentence, in the space of the pictures that it describes.

        Raises:
            InvalidRequest: the encoder embeds pictures only; code `text_unsupported`.
        """
        (vector,) = self._ask(Kind.TEXT, encoder, text)
        return vector

    def agreement(
        self, encoder: str, first: NDArray[np.uint8], second: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where two preprocessed pictures agree: for each a grid (rows, columns) in 0..1.

        See `services.encoders.agreement`.

        Raises:
            InvalidRequest: the encoder has no features by place; code `regions_unsupported`.
        """
        of_first, of_second = self._ask(Kind.AGREEMENT, encoder, np.stack([first, second]))
        return of_first, of_second

    def _ask(self, kind: Kind, encoder: str, content: NDArray[np.uint8] | str) -> list[NDArray[np.float32]]:
        query = Query(f"akin:answer:{uuid.uuid4().hex}", encoder, content, time.time() + self._deadline, kind)
        try:
            answer = self._exchange(query)
        except redis.RedisError as error:
            raise Unavailable("Redis does not answer", part="redis") from error
        if answer is None:
            raise Unavailable("no query process answered in time", part="query")
        if not answer[1]:
            raise Overloaded("too many searches are waiting")
        fields: dict[str, Any] = msgpack.unpackb(answer[1])
        if (detail := fields.get("error")) is None:
            return [_array(data, shape, np.float32) for shape, data in fields["arrays"]]
        if fields["code"] is not None:
            raise InvalidRequest(detail, code=fields["code"])
        raise Unavailable(detail, part="query")

    def _exchange(self, query: Query) -> Sequence[bytes] | None:
        """Put a query on the list and wait on its own for the answer, both sent at once.

        Not as a pipeline, which reads to the end before it tells an error: a Redis whose memory is full refuses the
        first command, and lets the second wait for nothing.
        """
        enqueue = ("EVAL", _ENQUEUE, 2, REQUESTS, query.reply, query.pack(), self._limit, ANSWER_SECONDS)
        pool = self._redis.connection_pool
        connection: Any = pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands([enqueue, ("BLPOP", query.reply, self._deadline)]))
            connection.read_response()
            answer: Sequence[bytes] | None = connection.read_response()
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)
        return answer


def _array(data: bytes, shape: Sequence[int], kind: type[Any]) -> NDArray[Any]:
    return np.frombuffer(data, kind).reshape(shape)
