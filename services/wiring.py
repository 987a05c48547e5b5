"""build(settings) -> Services: the one place that chooses implementations. Nothing connects here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.catalog.database import Database
from services.config import Settings, listed
from services.encode_call import QueryEncoder
from services.encoders.registry import EncoderRegistry
from services.fetch.client import Fetcher
from services.fetch.client import Limits as FetchLimits
from services.fetch.guard import Guard
from services.images.decode import Limits
from services.images.pool import DecodePool
from services.queue import TaskQueue
from services.sources.roots import Roots
from services.sources.walks import Walks
from services.storage.blobs import BlobStore
from services.vectors.base import VectorStore


@dataclass(frozen=True)
class Services:
    """What use cases work with. Each part is made at first use and connects at its own first use."""

    settings: Settings

    @cached_property
    def database(self) -> Database:
        """Metadata."""
        return Database(self.settings.database)

    @cached_property
    def blobs(self) -> BlobStore:
        """Picture bytes and weights."""
        return BlobStore(self.settings.storage)

    @cached_property
    def vectors(self) -> VectorStore:
        """Milvus. Imported here because the client alone takes a second to import."""
        from services.vectors.milvus import MilvusStore

        return MilvusStore(self.settings.milvus, self.settings.milvus_secret)

    @cached_property
    def cache(self) -> redis.Redis:
        """What may be lost at any time: frozen pages, ranked ids, vectors of queries."""
        # One more try at once: by default a server that is gone is waited for, seconds that nobody has for a cache.
        return redis.Redis.from_url(
            self.settings.cache,
            socket_connect_timeout=1,
            socket_timeout=0.5,
            health_check_interval=30,
            retry=Retry(NoBackoff(), 1),
        )

    @cached_property
    def redis(self) -> redis.Redis:
        """Broker and query list."""
        return redis.Redis.from_url(
            self.settings.redis,
            socket_connect_timeout=3,
            socket_timeout=self.settings.query_deadline + 5,
            health_check_interval=30,
        )

    @cached_property
    def queue(self) -> TaskQueue:
        """Wake-ups of workers."""
        return TaskQueue(self.settings, self.redis)

    @cached_property
    def query_encoder(self) -> QueryEncoder:
        """Vectors of queries."""
        return QueryEncoder(self.redis, queue_limit=self.settings.query_queue, deadline=self.settings.query_deadline)

    @cached_property
    def fetcher(self) -> Fetcher:
        """Files of public servers."""
        settings = self.settings
        return Fetcher(Guard(listed(settings.fetch_allow)), FetchLimits(seconds=settings.fetch_timeout))

    @cached_property
    def roots(self) -> Roots:
        """Folders and object-store prefixes that imports may read."""
        return Roots(listed(self.settings.import_roots))

    @cached_property
    def walks(self) -> Walks:
        """Sources of imports that this process has open."""
        return Walks()

    @cached_property
    def limits(self) -> Limits:
        """What a picture may weigh."""
        return Limits(max_bytes=self.settings.max_image_bytes, max_pixels=self.settings.max_image_pixels)

    @cached_property
    def decoder(self) -> DecodePool:
        """Killable processes that decode."""
        return DecodePool(
            self.settings.decode_processes,
            self.settings.decode_timeout,
            self.settings.decode_memory,
            self.limits,
            patience=self.settings.query_deadline,
        )

    @cached_property
    def encoders(self) -> EncoderRegistry:
        """Registered encoders; loads torch when one is first asked to encode."""
        return EncoderRegistry(self.database, self.blobs, self.settings.device)

    def make_all(self) -> None:
        """Make every part now, in a process whose threads could otherwise make one twice. Still nothing connects."""
        for name, member in vars(type(self)).items():
            if isinstance(member, cached_property) and name != "encoders":
                getattr(self, name)

    def close(self) -> None:
        """Stop what was started."""
        started = vars(self)
        for name in ("decoder", "walks", "fetcher", "vectors", "cache", "redis", "database"):
            if name in started:
                started[name].close()


def build(settings: Settings) -> Services:
    """The services of one process."""
    return Services(settings)
