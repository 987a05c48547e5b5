"""Settings are checked when a process starts, and each wrong one is named."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.catalog.entries import LONGEST_WAIT
from services.config import load_settings
from services.errors import ConfigurationError
from services.listing import FETCHED_SECONDS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AKIN_PROT", "8080"),
        ("AKIN_PORT", "99999"),
        ("AKIN_DEVICE", "gpu"),
        ("AKIN_EMBED_BATCH", "0"),
        ("AKIN_LEASE_SECONDS", "601"),
        ("AKIN_SECURE_COOKIE", "perhaps"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        load_settings()


def test_what_a_worker_holds_is_not_taken_for_the_work_of_a_wrong_clock() -> None:
    held = load_settings(lease_seconds=600).lease_seconds + FETCHED_SECONDS
    assert timedelta(seconds=held) < LONGEST_WAIT


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1", "mps"])
def test_torch_devices_are_accepted(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv("AKIN_DEVICE", device)
    assert load_settings().device == device


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AKIN_DATABASE_URL", "AKIN_REDIS_URL", "AKIN_MILVUS_TOKEN", "AKIN_SECRET_KEY", "AKIN_API_KEY"):
        monkeypatch.setenv(name, "redis://user:hidden-word@host/0")
    assert "hidden-word" not in repr(load_settings())
