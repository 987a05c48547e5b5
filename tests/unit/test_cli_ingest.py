"""akin ingest and akin search against a server: what is uploaded, what is listed, what is not done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from services.cli import upload
from services.cli.ingest import ingest
from services.cli.pictures import Source, Unreadable, clean_ref
from services.cli.search import search
from services.errors import InvalidRequest
from tests.unit.api_server import KEY, ApiServer, api_server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with api_server() as running:
        yield running


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder of 200 small "pictures" and some other files."""
    folder = tmp_path / "shop"
    for kind in ("dress", "shoe"):
        (folder / kind).mkdir(parents=True)
        for number in range(100):
            (folder / kind / f"{number:03}.jpg").write_bytes(f"{kind} {number}".encode())
    (folder / "LICENSE").write_text("free")
    (folder / "notes.txt").write_text("notes")
    (folder / ".hidden.jpg").write_bytes(b"hidden")
    (folder / ".git").mkdir()
    (folder / ".git" / "object.png").write_bytes(b"hidden")
    return folder


def run_ingest(server: ApiServer, *arguments: str | Path, key: str = KEY) -> Result:
    return CliRunner().invoke(ingest, ["--url", server.url, "--key", key, *map(str, arguments)])


def write_items(path: Path, *records: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def test_a_folder_is_uploaded_whole_and_other_files_are_counted(server: ApiServer, shop: Path) -> None:
    outcome = run_ingest(server, shop)

    assert outcome.exit_code == 0, outcome.output
    assert server.refs == [f"{kind}/{number:03}.jpg" for kind in ("dress", "shoe") for number in range(100)]
    assert "200 pictures" in outcome.output
    assert "200 indexed" in outcome.output
    assert "not pictures, skipped: 2 (no extension 1, .txt 1)" in outcome.output


def test_requests_are_bounded_in_files_and_bytes(server: ApiServer, tmp_path: Path) -> None:
    for number in range(70):
        (tmp_path / f"small-{number:02}.png").write_bytes(b"x")
    for number in range(5):
        (tmp_path / f"zlarge-{number}.png").write_bytes(bytes([number]) * (7 * upload.MEGABYTE))

    assert run_ingest(server, tmp_path).exit_code == 0

    assert len(server.refs) == 75
    assert max(len(files) for files in server.imports) <= upload.BATCH_FILES
    assert max(sum(len(content) for _, content in files) for files in server.imports) <= upload.BATCH_BYTES


def test_failures_are_grouped_listed_and_add_up(server: ApiServer, shop: Path, tmp_path: Path) -> None:
    for number in range(5):
        (shop / "shoe" / f"{number:03}.jpg").write_bytes(b"broken")
    (shop / "dress" / "050.jpg").write_bytes(b"poison")
    (shop / "dress" / "051.jpg").unlink()
    (shop / "dress" / "051.jpg").symlink_to("nowhere")
    os.mkfifo(shop / "dress" / "pipe.jpg")
    report = tmp_path / "out" / "report.json"

    outcome = run_ingest(server, shop, "--report", report)

    assert outcome.exit_code == 3, outcome.output
    facts = json.loads(report.read_text())["sources"][str(shop)]
    assert facts["found"] == 201 == facts["unreadable"] + facts["refused"] + facts["accepted"]
    assert facts["accepted"] == 198 == facts["indexed"] + facts["failed"]
    assert sorted((failure["ref"], failure["code"]) for failure in facts["failures"]) == [
        ("dress/050.jpg", "invalid_request"),
        ("dress/051.jpg", "unreadable"),
        ("dress/pipe.jpg", "unreadable"),
        *((f"shoe/{number:03}.jpg", "image_broken") for number in range(5)),
    ]
    assert "5 × image_broken" in outcome.output
    assert "and 2 more" in outcome.output


def test_a_picture_over_the_limit_is_listed_and_not_uploaded(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AKIN_MAX_IMAGE_BYTES", "10")
    (tmp_path / "a.jpg").write_bytes(b"x" * 10)
    (tmp_path / "b.jpg").write_bytes(b"x" * 11)

    outcome = run_ingest(server, tmp_path)

    assert outcome.exit_code == 3
    assert "1 × image_too_many_bytes" in outcome.output
    assert server.refs == ["a.jpg"]


def test_an_interrupted_run_goes_on_where_it_stopped(server: ApiServer, shop: Path) -> None:
    server.imports_left = 2
    stopped = run_ingest(server, shop)
    accepted = len(server.refs)
    server.imports_left = 10**9

    resumed = run_ingest(server, shop)

    assert stopped.exit_code == 1
    assert "the key was revoked" in stopped.output
    assert 0 < accepted < 200
    assert resumed.exit_code == 0, resumed.output
    assert f"{accepted} were uploaded by an earlier run" in resumed.output
    assert "200 indexed" in resumed.output
    assert len(server.refs) == len(set(server.refs)) == 200


def test_after_ctrl_c_the_same_command_goes_on(server: ApiServer, shop: Path) -> None:
    server.polls_until_done = 10**9
    command = [sys.executable, "-m", "services.cli", "ingest", "--url", server.url, "--key", KEY, str(shop)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while len(server.refs) < 200 or not all(job["polls"] for job in server.jobs.values()):
        assert process.poll() is None
        time.sleep(0.02)

    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    server.polls_until_done = 0
    resumed = run_ingest(server, shop)

    assert process.returncode == 1
    assert "run the same command again" in output
    assert "Traceback" not in output
    assert resumed.exit_code == 0, resumed.output
    assert "200 were uploaded by an earlier run" in resumed.output
    assert len(server.refs) == 200


def test_a_picture_that_changed_since_the_interruption_is_uploaded_again(server: ApiServer, shop: Path) -> None:
    server.imports_left = 1
    run_ingest(server, shop)
    server.imports_left = 10**9
    changed = server.refs[0]
    (shop / changed).write_bytes(b"another picture")

    assert run_ingest(server, shop).exit_code == 0

    assert [ref for ref in server.refs if server.refs.count(ref) > 1] == [changed, changed]


def test_no_resume_uploads_everything(server: ApiServer, shop: Path) -> None:
    server.imports_left = 1
    run_ingest(server, shop)
    server.imports_left = 10**9
    before = len(server.refs)

    assert run_ingest(server, shop, "--no-resume").exit_code == 0

    assert len(server.refs) == before + 200


def test_a_server_that_forgot_its_jobs_gets_everything_again(server: ApiServer, shop: Path) -> None:
    server.imports_left = 2
    run_ingest(server, shop)
    server.imports_left = 10**9
    server.jobs.clear()
    server.imports.clear()

    outcome = run_ingest(server, shop)

    assert outcome.exit_code == 0
    assert "earlier run" not in outcome.output
    assert len(server.refs) == 200


def test_a_complete_run_leaves_nothing_to_resume(server: ApiServer, shop: Path, tmp_path: Path) -> None:
    assert run_ingest(server, shop).exit_code == 0

    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_zip_is_read_without_unpacking_and_broken_members_are_listed(server: ApiServer, tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("top/one.jpg", b"first picture")
        archive.writestr("top/two.jpg", b"second picture")
        archive.writestr("top/README.md", "text")
        archive.writestr("__MACOSX/top/._one.jpg", b"resource fork")
    path.write_bytes(path.read_bytes().replace(b"second picture", b"secXnd picture", 1))

    outcome = run_ingest(server, path)

    assert outcome.exit_code == 3, outcome.output
    assert server.refs == ["top/one.jpg"]
    assert "top/two.jpg: Bad CRC-32" in outcome.output
    assert sorted(tmp_path.iterdir()) == [tmp_path / "cache", path]


def test_items_jsonl_in_a_folder_describes_its_pictures(server: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "shop" / name).write_bytes(name.encode())
    item = {"item_id": "dress-1", "title": "Red dress", "attributes": {"price": 10}}
    write_items(tmp_path / "shop" / "items.jsonl", {"file": "./a.jpg", **item, "note": "not sent"})

    outcome = run_ingest(server, tmp_path / "shop")

    assert outcome.exit_code == 0
    assert server.manifests == [[item, {}]]
    assert "1 are described by items.jsonl" in outcome.output
    assert "skipped" not in outcome.output


@pytest.mark.parametrize("folder", ["", "catalogue/"])
def test_items_jsonl_inside_a_zip_names_files_from_where_it_lies(
    server: ApiServer, tmp_path: Path, folder: str
) -> None:
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
        archive.writestr(f"{folder}dress/a.jpg", b"a")
        archive.writestr(f"{folder}items.jsonl", '{"file": "dress/a.jpg", "item_id": "a"}\n')

    assert run_ingest(server, tmp_path / "shop.zip").exit_code == 0

    assert server.manifests == [[{"item_id": "a"}]]


@pytest.mark.parametrize("file", ["a.jpg", "shop/a.jpg"])
def test_items_jsonl_beside_a_folder_may_name_the_folder_or_not(server: ApiServer, tmp_path: Path, file: str) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "a.jpg").write_bytes(b"a")
    write_items(tmp_path / "items.jsonl", {"file": file, "title": "A"})

    assert run_ingest(server, tmp_path / "shop").exit_code == 0

    assert server.manifests == [[{"title": "A"}]]


@pytest.mark.parametrize("line", ["{", "[]", '{"item_id": "no file"}'])
def test_a_malformed_items_jsonl_is_refused_by_line(server: ApiServer, tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "items.jsonl").write_text('{"file": "a.jpg"}\n\n' + line)

    outcome = run_ingest(server, tmp_path)

    assert outcome.exit_code == 1
    assert "items.jsonl, line 3" in outcome.output
    assert server.imports == []


def test_a_wrong_key_is_one_clear_error(server: ApiServer, shop: Path) -> None:
    outcome = run_ingest(server, shop, key="wrong")

    assert outcome.exit_code == 1
    assert "unknown key [unauthorized]" in outcome.output


def test_without_a_server_the_error_says_how_to_start_one(
    tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AKIN_DATA_DIR", str(tmp_path / "data"))

    outcome = CliRunner().invoke(ingest, [str(shop)])

    assert outcome.exit_code == 1
    assert "akin up" in outcome.output


@pytest.mark.parametrize(
    ("name", "ref"),
    [
        ("../../etc/cron.jpg", "etc/cron.jpg"),
        ("/absolute/a.jpg", "absolute/a.jpg"),
        ("C:\\shop\\a.jpg", "shop/a.jpg"),
        ("a//./b.jpg", "a/b.jpg"),
        ("line\nbreak.jpg", "linebreak.jpg"),
        ("Größe/ä.jpg", "Größe/ä.jpg"),
        (".hidden/a.jpg", None),
        ("..", None),
    ],
)
def test_references_are_clean_relative_paths(name: str, ref: str | None) -> None:
    assert clean_ref(name) == ref


def test_pictures_come_in_the_same_order_each_time(shop: Path) -> None:
    refs = [picture.ref for picture in Source(shop).pictures()]

    assert refs == sorted(refs)
    assert len(refs) == Source(shop).count() == 200


def test_a_member_that_unpacks_to_more_than_the_limit_is_read_no_further(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(50 * upload.MEGABYTE))

    (length,) = (len(picture.read(1000)) for picture in Source(tmp_path / "bomb.zip").pictures())

    assert length == 1001


def test_an_encrypted_member_says_so(tmp_path: Path) -> None:
    path = tmp_path / "secret.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", b"a")
    content = bytearray(path.read_bytes())
    for header, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(header) + offset] |= 1
    path.write_bytes(content)

    for picture in Source(path).pictures():
        with pytest.raises(Unreadable, match="encrypted"):
            picture.read(100)


def test_what_is_neither_folder_zip_nor_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")

    with pytest.raises(InvalidRequest, match="is not a folder, a zip file or a picture"):
        Source(tmp_path / "notes.txt")
    with pytest.raises(InvalidRequest, match="does not exist"):
        Source(tmp_path / "nothing")


def test_search_prints_a_table_and_writes_a_sheet(server: ApiServer, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "b.png")
    run_ingest(server, tmp_path)
    sheet = tmp_path / "out" / "sheet.png"
    arguments = [str(tmp_path / "b.png"), "--url", server.url, "--key", KEY, "--sheet", str(sheet)]

    outcome = CliRunner().invoke(search, arguments)

    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.index("1.0000") < outcome.output.index("0.9000")
    assert "Northwick" in outcome.output
    with Image.open(sheet) as drawn:
        assert drawn.format == "PNG"


def test_search_prints_json_for_programs(server: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    run_ingest(server, tmp_path / "a.jpg")

    outcome = CliRunner().invoke(search, [str(tmp_path / "a.jpg"), "--url", server.url, "--key", KEY, "--json"])

    assert json.loads(outcome.output)["hits"][0]["item"]["item_id"] == "a"


def test_search_with_a_broken_picture_says_so(server: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"broken")

    outcome = CliRunner().invoke(search, [str(tmp_path / "a.jpg"), "--url", server.url, "--key", KEY])

    assert outcome.exit_code == 1
    assert "the picture is cut off [image_broken]" in outcome.output
