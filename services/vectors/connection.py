"""One connection to a Milvus server: lazy, bounded in time, with Akin's errors in place of pymilvus's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]
from pymilvus import MilvusClient, MilvusException

from services.errors import ConfigurationError, NotFound, Unavailable

# Codes of a Milvus status: https://github.com/milvus-io/milvus/blob/v2.3.5/pkg/util/merr/errors.go
COLLECTION_NOT_FOUND = 100
COLLECTION_NOT_LOADED = 101

# By default gRPC shares a failed connection between all channels of a process and waits up to two minutes
# before it tries a server that came back: new clients would find it gone as well.
CHANNEL_OPTIONS = {
    # Servers refuse clients that ping as often as pymilvus does while nothing is asked; every call has a timeout.
    "grpc.keepalive_time_ms": 600_000,
    "grpc.use_local_subchannel_pool": 1,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 1_000,
    "grpc.max_reconnect_backoff_ms": 1_000,
}


class MilvusConnection:
    """Connects at the first call, and again after the server was gone. Safe to share between threads.

    Args:
        uri: http:// or https:// address.
        token: token or user:password, empty where the server asks for none.
        timeout: seconds that one request may take.
        connect_timeout: seconds that connecting may take.
        load_timeout: seconds that a collection may take to load.

    Raises:
        ConfigurationError: the address is neither http:// nor https://.
    """

    def __init__(self, uri: str, token: str, *, timeout: float, connect_timeout: float, load_timeout: float) -> None:
        if urlsplit(uri).scheme not in ("http", "https"):
            raise ConfigurationError(f"the address of Milvus must begin with http:// or https://: {uri}")
        self.uri = uri
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.load_timeout = load_timeout
        self._token = token
        self._connecting = threading.Lock()
        self._client: MilvusClient | None = None

    def call(self, method: str, collection: str, *arguments: Any, timeout: float | None = None, **options: Any) -> Any:
        """Call a method of MilvusClient on a collection.

        A server that restarted may not have loaded the collection again: then load it and call once more.

        Raises:
            NotFound: there is no such collection.
            Unavailable: the server is gone, too slow, or refuses.
        """
        with self._typed_errors(collection):
            client = self._connected()
            act = getattr(client, method)
            options["timeout"] = timeout or self.timeout
            try:
                return act(collection, *arguments, **options)
            except MilvusException as error:
                if error.code != COLLECTION_NOT_LOADED:
                    raise
                client.load_collection(collection, timeout=self.timeout)
                return act(collection, *arguments, **options)

    def collections(self) -> list[str]:
        """The names of all collections.

        Raises:
            Unavailable: the server is gone or too slow.
        """
        with self._typed_errors(""):
            return [str(name) for name in self._connected().list_collections(timeout=self.timeout)]

    def version(self) -> str:
        """What the server calls its version, such as v2.3.5 or milvus_lite-3.2.2.

        Raises:
            Unavailable: the server does not answer.
        """
        with self._typed_errors(""):
            return str(self._connected().get_server_version(timeout=self.connect_timeout))

    def close(self) -> None:
        """Close the connection; a later call opens another."""
        with self._connecting:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> MilvusClient:
        client = self._client
        if client is not None:
            return client
        # Threads that wait here while one finds the server gone give up with it, not one after another.
        if not self._connecting.acquire(timeout=self.connect_timeout):
            raise Unavailable("Milvus does not answer")
        try:
            if self._client is None:
                # pymilvus logs a traceback for every error that it raises; here they are typed and raised.
                logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
                self._client = MilvusClient(
                    self.uri,
                    token=self._token,
                    timeout=self.connect_timeout,
                    dedicated=True,
                    grpc_options=CHANNEL_OPTIONS,
                )
            return self._client
        finally:
            self._connecting.release()

    @contextmanager
    def _typed_errors(self, collection: str) -> Iterator[None]:
        try:
            yield
        except MilvusException as error:
            if error.code == COLLECTION_NOT_FOUND:
                raise NotFound(f"Milvus has no collection {collection}") from error
            raise Unavailable(f"Milvus does not answer as it should (code {error.code})", part="milvus") from error
        except grpc.RpcError as error:
            raise Unavailable(f"Milvus does not answer ({error.code().name.lower()})") from error
