"""Which server a command talks to: options, environment, or the stack that runs here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from services.client import AkinClient
from services.config import Settings
from services.errors import ConfigurationError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Target:
    """A server and a key for it.

    `journal_dir` is where unfinished uploads are remembered, `name` what tells this server from others
    there.
    """

    url: str
    key: str
    journal_dir: Path
    name: str
    catalog: str | None = None

    def connect(self) -> AkinClient:
        """A client for the server; nothing is sent yet."""
        return AkinClient(self.url, self.key, catalog=self.catalog)

    def sign_in_link(self) -> str:
        """The address that opens the page in a browser, signed in; its last part never reaches a server's log."""
        return f"{self.url}/signin#{self.key}"


def find_target(settings: Settings, url: str | None, key: str | None, catalog: str | None = None) -> Target:
    """The server named by options or settings, else the stack that runs in the data directory.

    Raises:
        ConfigurationError: no server is named and none runs, or there is no key for it.
    """
    url = url or settings.api_url
    key = key or (settings.api_key.get_secret_value() if settings.api_key else None)
    if url:
        if not key:
            raise ConfigurationError(f"no key for {url}: give --key or set AKIN_API_KEY")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return Target(url.rstrip("/"), key, cache / "akin" / "ingest", f"{url.rstrip('/')} {catalog or ''}", catalog)
    running = find_running(settings)
    if running is None:
        raise ConfigurationError(
            f"no Akin runs in {settings.data_dir}: start it with `akin up` in another terminal, or name a server"
            " with --url and --key (AKIN_API_URL, AKIN_API_KEY)"
        )
    name = f"here {catalog or ''}"  # the port may be another one after a restart
    return Target(running.url, key or running.key, running.journal_dir, name, catalog)


def find_running(settings: Settings) -> Target | None:
    """The stack that runs in the data directory, None where none does."""
    from services.stack.state import RunState

    state = RunState.read(settings.data_dir)
    if state is None:
        return None
    return local_target(settings, state.api_url, state.api_key)


def local_target(settings: Settings, url: str, key: str) -> Target:
    """The stack of this data directory, which keeps its journals with its data: both go together."""
    return Target(url, key, settings.data_dir / "ingest", "here ")


def target_options(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Add --url, --key and --catalog to a command."""
    options = (
        click.option("--url", help="Address of the server; AKIN_API_URL, else the stack that runs here."),
        click.option("--key", help="API key; AKIN_API_KEY, else that of the stack that runs here."),
        click.option("--catalog", help="Catalog to work in, where the key is not bound to one."),
    )
    for option in reversed(options):
        command = option(command)
    return command
