"""The README says what is there."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import SecretStr

from services.cli import COMMANDS
from services.config import MEGABYTE, Settings
from services.encoders.shipped import shipped

README = (Path(__file__).parents[2] / "README.md").read_text()


def shown(name: str) -> str:
    default = Settings.model_fields[name].default
    if name == "decode_processes":
        return "cores, at most 8"
    if default in (None, "") or isinstance(default, SecretStr):
        return "unset"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int) and default and default % MEGABYTE == 0:
        return f"{default // MEGABYTE} MiB"
    return f"{default:,}" if isinstance(default, int) and default > 9999 else f"`{default}`"


def settings_table() -> str:
    rows = [
        f"| `AKIN_{name.upper()}` | {shown(name)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | what |", "| --- | --- | --- |", *rows])


def test_the_configuration_table_is_that_of_the_settings() -> None:
    assert settings_table() in README


def test_every_command_shown_exists() -> None:
    shown_commands = set(re.findall(r"^akin ([a-z]+)", README, re.MULTILINE))
    assert shown_commands <= set(COMMANDS)
    assert shown_commands


def test_every_shipped_encoder_is_described() -> None:
    for encoder in shipped():
        assert f"`{encoder.manifest.ref}`" in README
