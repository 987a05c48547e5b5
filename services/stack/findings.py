"""What a check of `akin doctor` reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit, urlunsplit

from services.config import Settings
from services.errors import AkinError, ConfigurationError


class Outcome(StrEnum):
    """How a check ended. Only `failed` keeps the service from working."""

    OK = "ok"
    IDLE = "not running"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """One row of the report.

    Args:
        source: "configured", "embedded" or "this machine".
        address: without passwords.
        advice: what to do; empty where nothing is to be done.
    """

    part: str
    source: str
    address: str
    outcome: Outcome
    detail: str
    advice: str = ""


def redact(url: str) -> str:
    """The URL without password and query, which may hold secrets."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    shown = f"{user.partition(':')[0]}{':***' if ':' in user else ''}{at}{host}"
    return urlunsplit(parts._replace(netloc=shown, query=""))


def embedded(part: str, find: Callable[[], str]) -> Finding:
    """An embedded server of a stack that does not run now: what matters is that it could be started."""
    try:
        return Finding(part, "embedded", find(), Outcome.IDLE, "found", "`akin up` starts it")
    except ConfigurationError as error:
        return Finding(part, "embedded", "", Outcome.FAILED, "not found", error.detail)


def what_to_do(settings: Settings, source: str, part: str, configured: str) -> str:
    """What to do about a server: as told where it is a configured one, else to read its log."""
    return configured if source == "configured" else f"read {settings.data_dir / 'logs' / part}.log"


def attempt(part: str, source: str, address: str, answer: Callable[[], str], advice: str) -> Finding:
    """The finding of a check that may fail in whatever way the part's library fails: a report lists it and goes on."""
    try:
        return Finding(part, source, address, Outcome.OK, answer())
    except AkinError as error:
        return Finding(part, source, address, Outcome.FAILED, error.detail, advice)
    except Exception as error:  # noqa: BLE001
        return Finding(part, source, address, Outcome.FAILED, f"{type(error).__name__}: {error}", advice)
