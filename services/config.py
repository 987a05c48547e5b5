"""One typed Settings object, read from AKIN_* variables and checked when a process starts."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.errors import ConfigurationError

MEGABYTE = 1024 * 1024
GIGABYTE = 1024 * MEGABYTE
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """Everything that can be configured. Each field is the variable AKIN_<NAME IN CAPITALS>.

    The five addresses may stay unset: `akin up` then runs an embedded server (Redis for the queue, another as the
    cache, Milvus Lite) or uses a file under `data_dir` (SQLite, blobs). A configured `redis_url` is the cache too
    unless `cache_url` names another, which production should have: a queue must drop nothing, a cache must.
    """

    model_config = SettingsConfigDict(env_prefix="AKIN_", frozen=True, extra="forbid")

    data_dir: Path = Field(Path(".akin"), description="where the embedded parts keep their files")
    database_url: SecretStr | None = Field(None, description="SQLAlchemy URL of SQLite or PostgreSQL")
    redis_url: SecretStr | None = Field(None, description="redis:// URL of the broker (maxmemory-policy noeviction)")
    cache_url: SecretStr | None = Field(
        None, description="redis:// URL of the cache (maxmemory-policy allkeys-lru); the broker's unless set"
    )
    milvus_uri: str | None = Field(None, description="http:// address of Milvus")
    milvus_token: SecretStr | None = Field(None, description="token or user:password of Milvus")
    storage_url: str | None = Field(None, description="file://, s3://, gs:// or az:// prefix for picture bytes")
    secret_key: SecretStr | None = Field(None, description="signs the browser's session cookie")

    secure_cookie: bool = Field(False, description="send the session cookie over HTTPS only")

    host: str = Field("127.0.0.1", description="address that the API binds to")
    port: int = Field(8080, ge=1, le=65535, description="port of the API; `akin up` takes a free one if it is taken")
    # Searches wait for the encoder and for Milvus most of the time: with 4, a core rested while 32 clients waited.
    api_threads: Positive = Field(8, description="request threads of one API process")
    api_processes: Positive = Field(2, description="API processes; each has threads and decoders of its own")

    api_url: str | None = Field(None, description="where the command line finds the API")
    api_key: SecretStr | None = Field(None, description="the key that the command line uses")

    default_encoder: str = Field("metric-photo", description="encoder of a new catalog's first index")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="torch device of workers: auto, cpu, cuda, cuda:1, mps",
    )

    max_image_bytes: Positive = Field(32 * MEGABYTE, description="largest accepted picture, in bytes")
    max_image_pixels: Positive = Field(128_000_000, description="largest accepted width × height")
    max_request_bytes: Positive = Field(256 * MEGABYTE, description="largest accepted request body")
    max_import_files: Positive = Field(1000, description="files in one import request")
    max_archive_bytes: Positive = Field(16 * GIGABYTE, description="largest accepted archive or manifest, in bytes")
    max_backlog: Positive = Field(
        100_000,
        description=(
            "pictures of a catalog that may wait; uploads beyond are answered 429, single ones when so many single "
            "ones wait"
        ),
    )
    import_roots: str = Field(
        "", description="folders and s3://, gs://, az:// prefixes that imports may read, separated by commas"
    )

    fetch_allow: str = Field(
        "", description="hosts that may be fetched from, and told by webhooks, although not public, separated by commas"
    )
    fetch_timeout: Seconds = Field(
        15.0,
        description="seconds that fetching one picture may take; for a search no longer than AKIN_QUERY_DEADLINE",
    )
    fetch_threads: Positive = Field(16, description="pictures that a worker fetches at the same time")

    decode_processes: Positive = Field(
        max(1, min(8, os.cpu_count() or 1)), description="decoding processes of a worker"
    )
    decode_timeout: Seconds = Field(20.0, description="seconds that decoding one picture may take")
    decode_memory: Positive = Field(2048 * MEGABYTE, description="bytes of address space of a decoding process")

    embed_batch: Positive = Field(128, description="pictures encoded together")
    # What is held for longer than entries.LONGEST_WAIT is taken for the work of a clock that is ahead.
    lease_seconds: float = Field(
        60.0, gt=0, le=600, description="how long a worker may hold claimed ledger rows, at most 600"
    )
    max_attempts: Positive = Field(3, description="times that an embedding is tried before it is failed")
    wake_seconds: Seconds = Field(2.0, description="how often the scheduler wakes the loop for pending rows")

    job_history_days: Positive = Field(30, description="days that finished imports and their entries are kept")

    audit_hours: float = Field(24.0, ge=0, description="hours between audits that repair what they find; 0 never")

    query_queue: Positive = Field(64, description="queries that may wait to be encoded")
    # On a CPU more are hardly quicker together, and while all wait for one batch nothing else is done for any.
    query_batch: Positive = Field(4, description="queries encoded together; on a GPU 16 or more")
    # Of one picture, threads that wait for each other take longer than one does alone.
    query_threads: Positive = Field(1, description="cores that one query process encodes on; more processes take more")
    query_deadline: Seconds = Field(5.0, description="seconds until a query is given up")

    cache_memory: int = Field(
        256 * MEGABYTE,
        ge=8 * MEGABYTE,
        description="bytes of memory of the cache that `akin up` starts, and of which workers fill half in any",
    )

    widget_rate: int = Field(
        300,
        ge=0,
        description=(
            "requests a minute that a visitor may make with a publishable key, ten times as many for thumbnails; "
            "0 any number"
        ),
    )
    event_days: int = Field(0, ge=0, description="days that what the widget reports is kept; 0 not at all")
    proxies: int = Field(
        0, ge=0, description="proxies before the API, whose X-Forwarded-For, -Proto and -Host are believed"
    )

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @property
    def database(self) -> str:
        """URL of the metadata database; SQLite under data_dir unless configured."""
        return self.database_url.get_secret_value() if self.database_url else f"sqlite:///{self.data_dir / 'akin.db'}"

    @property
    def storage(self) -> str:
        """URL of the blob store; a directory under data_dir unless configured."""
        return self.storage_url or (self.data_dir / "blobs").as_uri()

    @property
    def redis(self) -> str:
        """URL of Redis.

        Raises:
            ConfigurationError: AKIN_REDIS_URL is unset.
        """
        if self.redis_url is None:
            raise ConfigurationError("no Redis: set AKIN_REDIS_URL, or run `akin up`, which starts one")
        return self.redis_url.get_secret_value()

    @property
    def cache(self) -> str:
        """URL of the Redis that holds what may be lost at any time.

        Raises:
            ConfigurationError: neither AKIN_CACHE_URL nor AKIN_REDIS_URL is set.
        """
        return self.cache_url.get_secret_value() if self.cache_url else self.redis

    @property
    def milvus(self) -> str:
        """Address of Milvus.

        Raises:
            ConfigurationError: AKIN_MILVUS_URI is unset.
        """
        if self.milvus_uri is None:
            raise ConfigurationError("no Milvus: set AKIN_MILVUS_URI, or run `akin up`, which starts one")
        return self.milvus_uri

    @cached_property
    def milvus_secret(self) -> str:
        """Token of Milvus, empty where it needs none."""
        return self.milvus_token.get_secret_value() if self.milvus_token else ""


def listed(value: str) -> list[str]:
    """The members of a setting that is a list, separated by commas."""
    return [member.strip() for member in value.split(",") if member.strip()]


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment.

    Raises:
        ConfigurationError: a variable is unknown or has a bad value; the message names each.
    """
    unknown = sorted(
        name
        for name in os.environ
        if name.startswith("AKIN_") and name[5:].lower() not in Settings.model_fields and name != "AKIN_REQUIRE"
    )
    if unknown:
        raise ConfigurationError(f"unknown setting: {', '.join(unknown)}")
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "; ".join(f"AKIN_{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(problems) from error
