"""Publishable keys: what an origin is, and what such a key holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.catalog.keys import origin_of
from services.cli.keys import keys
from services.errors import InvalidRequest


@pytest.mark.parametrize(
    ("written", "origin"),
    [
        ("https://shop.example", "https://shop.example"),
        ("HTTPS://Shop.Example/", "https://shop.example"),
        (" https://shop.example:443 ", "https://shop.example"),
        ("http://shop.example:80", "http://shop.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://shop.example:80", "https://shop.example:80"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_origins_are_kept_as_browsers_write_them(written: str, origin: str) -> None:
    assert origin_of(written) == origin


@pytest.mark.parametrize(
    "written",
    [
        "*",
        "https://*",
        "https://*.shop.example",
        "shop.example",
        "null",
        "",
        "https://",
        "ftp://shop.example",
        "https://shop.example/page",
        "https://shop.example?a=1",
        "https://me@shop.example",
        "https://shop.example:x",
        "https://shop.example https://other.example",
        "https://shop..example",
    ],
)
def test_what_is_no_single_origin_is_refused(written: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        origin_of(written)
    assert refusal.value.code == "invalid_origin"


def test_the_command_line_makes_a_publishable_key_and_shows_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AKIN_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    options = ["create", "shop", "--publishable", "--origin", "https://a.example", "--origin", "http://localhost:3000"]

    made = CliRunner().invoke(keys, options).output.strip()
    listed = CliRunner().invoke(keys, ["list"]).output

    assert re.fullmatch(r"pk_[A-Za-z0-9_-]{32}", made)
    assert made in listed
    assert "https://a.example, http://localhost:3000" in listed
    assert "widget" in listed


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--publishable"],
        ["--origin", "https://a.example"],
        ["--publishable", "--origin", "https://a.example", "--scope", "search"],
        ["--publishable", "--origin", "*"],
        ["--scope", "widget"],
    ],
)
def test_the_command_line_refuses_keys_that_are_neither_secret_nor_publishable(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AKIN_DATA_DIR", str(tmp_path))

    assert CliRunner().invoke(keys, ["create", "shop", *options]).exit_code != 0
