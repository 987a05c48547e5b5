"""The code holds to its own rules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def run(*command: str) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", ".")


def test_everything_is_formatted() -> None:
    run("ruff", "format", "--check", ".")


def test_mypy_strict_finds_nothing() -> None:
    run("mypy")


def test_imports_go_one_way() -> None:
    run("lint-imports")


@pytest.mark.parametrize("module", ["services.api.app", "services.cli", "services.bootstrap", "workers.scheduler"])
def test_importing_it_leaves_torch_out_and_connects_to_nothing(module: str) -> None:
    """Also creates the API application, with every address pointing at nothing."""
    program = f"""
import socket, sys, tempfile
def refuse(*_): raise AssertionError("connected")
socket.socket.connect = refuse
import {module}
from services.api.app import create_app
from services.config import Settings
from services.wiring import build
create_app(build(Settings(
    data_dir=tempfile.mkdtemp(), database_url="postgresql+psycopg://x@127.0.0.1:9/x",
    redis_url="redis://127.0.0.1:9", milvus_uri="http://127.0.0.1:9", storage_url="s3://nowhere",
)))
for module in ("torch", "torchvision", "pymilvus"):
    assert module not in sys.modules, module
"""
    run("python", "-c", program)
