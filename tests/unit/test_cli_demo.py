"""akin demo against a server that runs already: every step is checked and counts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from services.cli.demo import demo
from services.stack.state import ProcessRef, RunState
from tests.unit.api_server import KEY, ApiServer, api_server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """A server that the data directory says is running, in this very process."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    monkeypatch.setenv("AKIN_DATA_DIR", str(data_dir))
    with api_server() as running:
        own = ProcessRef.of(os.getpid())
        addresses = {"api_url": running.url, "redis_url": "", "milvus_uri": ""}
        RunState(pid=own.pid, started=own.started, api_key=KEY, children={}, **addresses).write(data_dir)
        yield running


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(20):
        Image.new("RGB", (8, 8), (number * 12, 80, 120)).save(folder / f"{number:02}.png")
    return folder


def run_demo(tmp_path: Path, pictures: Path) -> Result:
    return CliRunner().invoke(demo, ["--once", "--images", str(pictures), "--output", str(tmp_path / "demo")])


def searched(outcome: Result, pictures: Path) -> list[str]:
    lines = [line.strip() for line in outcome.output.splitlines()]
    return [path.name for path in sorted(pictures.iterdir()) if path.name in lines]


def test_every_step_holds(server: ApiServer, tmp_path: Path, pictures: Path) -> None:
    outcome = run_demo(tmp_path, pictures)

    assert outcome.exit_code == 0, outcome.output
    assert "✗" not in outcome.output
    assert "20 found = 20 indexed + 0 listed" in outcome.output
    assert "pictures per second" in outcome.output
    with Image.open(tmp_path / "demo" / "contact-sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_the_queries_are_spread_over_the_set_and_the_same_each_time(
    server: ApiServer, tmp_path: Path, pictures: Path
) -> None:
    first, second = run_demo(tmp_path, pictures), run_demo(tmp_path, pictures)

    assert searched(first, pictures) == searched(second, pictures) == ["03.png", "10.png", "16.png"]


def test_pictures_that_failed_are_listed_and_not_searched_with(
    server: ApiServer, tmp_path: Path, pictures: Path
) -> None:
    (pictures / "10.png").write_bytes(b"broken")

    outcome = run_demo(tmp_path, pictures)

    assert outcome.exit_code == 0, outcome.output
    assert "20 found = 19 indexed + 1 listed" in outcome.output
    assert '"ref": "10.png"' in (tmp_path / "demo" / "report.json").read_text()
    assert searched(outcome, pictures) == ["03.png", "09.png", "16.png"]


def test_a_query_that_does_not_find_itself_fails_the_demo(server: ApiServer, tmp_path: Path, pictures: Path) -> None:
    server.searches_miss = True

    outcome = run_demo(tmp_path, pictures)

    assert outcome.exit_code == 1
    assert "✗ finds itself first" in outcome.output
    assert "✗ not every step held" in outcome.output


def test_a_folder_without_pictures_is_refused_in_words(server: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    outcome = run_demo(tmp_path, tmp_path / "empty")

    assert outcome.exit_code == 1
    assert "holds no pictures" in outcome.output
