"""What akin ingest takes an argument for, and what it refuses before anything is sent."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.cli.ingest import ingest
from services.cli.kinds import Kind, recognise
from services.errors import InvalidRequest
from tests.unit.api_server import KEY, ApiServer, api_server


@pytest.mark.parametrize(
    ("name", "kind", "media_type"),
    [
        ("photos.zip", Kind.PICTURES, "application/zip"),
        ("A.JPG", Kind.PICTURES, "application/zip"),
        ("photos.tar", Kind.ARCHIVE, "application/x-tar"),
        ("photos.TAR.GZ", Kind.ARCHIVE, "application/gzip"),
        ("photos.tgz", Kind.ARCHIVE, "application/gzip"),
        ("list.jsonl", Kind.MANIFEST, "application/x-ndjson"),
        ("list.ndjson", Kind.MANIFEST, "application/x-ndjson"),
        ("list.csv", Kind.MANIFEST, "text/csv"),
    ],
)
def test_files_are_recognised_by_their_names(tmp_path: Path, name: str, kind: Kind, media_type: str) -> None:
    (tmp_path / name).write_bytes(b"")

    given = recognise(str(tmp_path / name), as_archive=False)

    assert given.kind is kind
    if kind is not Kind.PICTURES:
        assert given.media_type == media_type


def test_a_zip_is_uploaded_whole_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"")

    given = recognise(str(tmp_path / "photos.zip"), as_archive=True)

    assert (given.kind, given.media_type) == (Kind.ARCHIVE, "application/zip")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("https://shop.example/list.csv", Kind.WEB),
        ("HTTP://shop.example/all.zip", Kind.WEB),
        ("s3://bucket/photos", Kind.PLACE),
        ("gs://bucket", Kind.PLACE),
        ("az://container/x", Kind.PLACE),
        (".", Kind.PICTURES),
    ],
)
def test_places_are_recognised_by_their_beginning(source: str, kind: Kind) -> None:
    assert recognise(source, as_archive=False).kind is kind


@pytest.mark.parametrize(
    ("name", "as_archive", "said"),
    [
        ("ftp://host/a.zip", False, "begin with"),
        ("nothing/here", False, "--on-server nothing/here"),
        ("notes.txt", False, "is no folder, picture, archive"),
        ("photos.tar.xz", False, "is no folder, picture, archive"),
        ("items.jsonl", False, "give their folder"),
        ("a.jpg", True, "--as-archive"),
        (".", True, "--as-archive"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, as_archive: bool, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("notes.txt", "photos.tar.xz", "items.jsonl", "a.jpg"):
        Path(file).write_bytes(b"")

    with pytest.raises(InvalidRequest, match=said):
        recognise(name, as_archive=as_archive)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "at least one source"),
        (["photos.zip", "--base", "/srv"], "--base is for lists"),
        (["list.csv", "--mode", "replace"], "--as-archive"),
        (["list.csv", "--webhook", "https://x.example/"], "--as-archive"),
        (["--urls", "absent.txt"], "absent.txt cannot be read"),
        (["odd.csv"], "column"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with zipfile.ZipFile("photos.zip", "w") as archive:
        archive.writestr("a.jpg", b"a")
    Path("list.csv").write_text("item_id,image\na,a.jpg\n")
    Path("odd.csv").write_text("sku,picture\na,a.jpg\n")

    with api_server() as server:
        outcome = CliRunner().invoke(ingest, ["--url", server.url, "--key", KEY, *arguments])

    assert outcome.exit_code in (1, 2), outcome.output
    assert said in outcome.output
    assert server.requests == []


def test_an_interrupted_upload_of_a_list_goes_on_and_takes_what_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("services.cli.upload.BATCH_FILES", 1)
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
    manifest = tmp_path / "list.jsonl"
    records = [{"item_id": f"item-{name}", "image": f"{name}.jpg"} for name in "abc"]

    def run(server: ApiServer) -> int:
        manifest.write_text("".join(json.dumps(record) + "\n" for record in records))
        return CliRunner().invoke(ingest, ["--url", server.url, "--key", KEY, str(manifest)]).exit_code

    with api_server() as server:
        server.imports_left = 2
        assert run(server) == 1
        accepted = list(server.refs)
        server.imports_left = 10**9
        records[int("abc".index(accepted[0][0]))]["title"] = "New"

        assert run(server) == 0

    again = [ref for ref in server.refs if server.refs.count(ref) > 1]
    assert set(server.refs) == {"a.jpg", "b.jpg", "c.jpg"}
    assert again == [accepted[0]] * 2
    assert [{"item_id": f"item-{accepted[0][0]}", "title": "New"}] in server.manifests
