"""Keys from the command line, on the database of a fresh folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from services.cli.keys import keys


@pytest.fixture(autouse=True)
def data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKIN_DATA_DIR", str(tmp_path))


def test_keys_are_listed_by_the_names_that_they_were_given_until_they_are_revoked() -> None:
    names = ["shop [web]", "[/]", "plain"]
    made = [CliRunner().invoke(keys, ["create", name, "--scope", "search"]).output.strip() for name in names]

    listed = CliRunner().invoke(keys, ["list"])
    revoked = CliRunner().invoke(keys, ["revoke", "2"])

    assert listed.exit_code == revoked.exit_code == 0, listed.output + revoked.output
    assert all(name in listed.output for name in names)
    assert not any(key in listed.output for key in made)
    assert "[/]" not in CliRunner().invoke(keys, ["list"]).output
