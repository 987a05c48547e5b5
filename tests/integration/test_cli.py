"""The command line against the real API over HTTP, with workers in a thread: sources, deletions, catalogs, jobs."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask import Response
from werkzeug.serving import make_server

from services.cli import importing, main
from services.client import AkinClient, ImportOptions, UploadFile
from services.config import Settings
from tests.integration.conftest import Akin, picture
from tests.integration.test_imports import Shop, item_ids, lines, pictures_of, sha256, tarred, zipped

Wsgi = Callable[..., Iterable[bytes]]


@dataclass
class Server:
    """The API at an address, the requests that it got, and what it does instead of answering the next ones."""

    akin: Akin
    folder: Path
    url: str = ""
    requests: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    faults: deque[Callable[[Wsgi], Wsgi]] = field(default_factory=deque)
    working: threading.Event = field(default_factory=threading.Event)

    def run(self, *arguments: str | Path, stdin: str | None = None) -> Result:
        group, *rest = map(str, arguments)
        options = ["--url", self.url, "--key", self.akin.key]
        nested = [rest.pop(0)] if group in ("jobs", "catalogs") else []
        return CliRunner().invoke(main, [group, *nested, *options, *rest], input=stdin)

    def ingest(self, *arguments: str | Path, code: int = 0, stdin: str | None = None) -> dict[str, Any]:
        """The report of an ingest that ends with an exit code; its output is under "output"."""
        report = self.folder / "report.json"
        outcome = self.run("ingest", "--report", report, *arguments, stdin=stdin)
        assert outcome.exit_code == code, outcome.output
        return {**json.loads(report.read_text())["sources"], "output": outcome.output}

    def application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        self.keys.append(environ.get("HTTP_IDEMPOTENCY_KEY"))
        answer: Wsgi = self.akin.client.application
        answer = self.faults.popleft()(answer) if self.faults else answer

        def note(status: str, *rest: Any) -> Any:
            self.statuses.append(status[:3])
            return start_response(status, *rest)

        return answer(environ, note)

    def posts(self, path: str) -> list[str | None]:
        """The Idempotency-Keys of requests to a path."""
        return [key for key, request in zip(self.keys, self.requests, strict=True) if request == f"POST {path}"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(4):
        (folder / f"{seed}.jpg").write_bytes(picture(seed))
    return folder


@pytest.fixture
def settings(settings: Settings, photos: Path) -> Settings:
    return settings.model_copy(update={"import_roots": str(photos), "fetch_allow": "127.0.0.1"})


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def server(akin: Akin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = Server(akin, tmp_path)
    found.working.set()
    http = make_server("127.0.0.1", 0, found.application, threaded=True)
    found.url = f"http://127.0.0.1:{http.server_port}"
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.05):
            if found.working.is_set():
                akin.work()

    threads = [threading.Thread(target=http.serve_forever, args=(0.02,)), threading.Thread(target=work)]
    for thread in threads:
        thread.start()
    yield found
    stop.set()
    http.shutdown()
    for thread in threads:
        thread.join()
    http.server_close()


def refusing(status: int, code: str, detail: str, retry_after: str) -> Callable[[Wsgi], Wsgi]:
    document = {"status": status, "code": code, "detail": detail}
    headers = {"Retry-After": retry_after}
    return lambda _: Response(json.dumps(document), status, headers, mimetype="application/problem+json")


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def losing_the_answer(application: Wsgi) -> Wsgi:
    """As a proxy does whose connection breaks when everything is done."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        b"".join(application(environ, lambda *_: None))
        return Response("bad gateway", 502)(environ, start_response)

    return answer


def test_a_tar_file_is_uploaded_whole_and_followed_until_all_is_settled(server: Server, tmp_path: Path) -> None:
    files = {f"shoes/{seed}.jpg": picture(seed) for seed in range(5)} | {"broken.jpg": b"\xff\xd8 broken"}
    (tmp_path / "all.tar.gz").write_bytes(tarred(files))

    report = server.ingest(tmp_path / "all.tar.gz", code=3)

    facts = report[str(tmp_path / "all.tar.gz")]
    assert (facts["found"], facts["indexed"], facts["failed"], facts["waiting"]) == (6, 5, 1, 0)
    assert [failure["ref"] for failure in facts["failures"]] == ["broken.jpg"]
    assert [job["state"] for job in facts["jobs"]] == ["finished_with_errors"]
    assert "1 × image_" in report["output"]
    assert item_ids(server.akin) == {f"shoes/{seed}" for seed in range(5)}


def test_an_archive_that_is_none_fails_with_its_reason(server: Server, tmp_path: Path) -> None:
    (tmp_path / "all.tar").write_bytes(b"no tar file" * 1000)

    report = server.ingest(tmp_path / "all.tar", code=1)

    assert "[archive_unreadable]" in report["output"]


def test_a_zip_as_an_archive_can_replace_what_is_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "old.zip").write_bytes(zipped({"a.jpg": picture(1), "b.jpg": picture(2)}))
    (tmp_path / "new.zip").write_bytes(zipped({"b.jpg": picture(2), "c.jpg": picture(3)}))
    server.ingest(tmp_path / "old.zip")

    report = server.ingest(tmp_path / "new.zip", "--as-archive", "--mode", "replace")

    assert item_ids(server.akin) == {"b", "c"}
    assert "1 items removed" in report["output"]
    assert report[str(tmp_path / "new.zip")]["jobs"][0]["mode"] == "replace"


@pytest.mark.parametrize("option", [("--mode", "replace"), ("--mode", "create"), ("--webhook", "https://x.example/")])
def test_what_is_uploaded_in_several_jobs_refuses_what_needs_one(
    server: Server, photos: Path, option: tuple[str, str]
) -> None:
    outcome = server.run("ingest", photos, *option)

    assert outcome.exit_code == 1
    assert "--as-archive" in outcome.output
    assert server.requests == []


def test_replacing_takes_one_source(server: Server) -> None:
    outcome = server.run("ingest", "--on-server", "/a", "--on-server", "/b", "--mode", "replace")

    assert outcome.exit_code == 1
    assert "one source" in outcome.output
    assert server.requests == []


def test_a_list_names_pictures_here_and_elsewhere(server: Server, shop: Shop, photos: Path) -> None:
    shop.files = {"/far.jpg": picture(50)}
    manifest = photos / "list.jsonl"
    manifest.write_bytes(
        lines(
            {"item_id": "near", "image": "0.jpg", "title": "Near"},
            {"item_id": "far", "image": f"{shop.url}/far.jpg", "attributes": {"price": 3}},
            {"item_id": "both", "images": ["1.jpg", f"{shop.url}/far.jpg"]},
            {"item_id": "none"},
            {"item_id": "absent", "image": "absent.jpg"},
            {"item_id": "away", "image": f"{shop.url}/away.jpg"},
        )
        + b"\n{\n"
    )

    report = server.ingest(manifest, code=3)

    near, far = report[str(manifest)], report[f"{manifest}, the rest"]
    assert (near["found"], near["indexed"], near["unreadable"]) == (4, 2, 2)
    assert [(f["ref"], f["code"]) for f in near["failures"]] == [
        ("absent.jpg", "unreadable"),
        ("line 7", "entry_invalid"),
    ]
    assert (far["found"], far["indexed"], far["unchanged"], far["failed"]) == (4, 2, 1, 1)
    assert item_ids(server.akin) == {"near", "far", "both", "none"}
    assert server.akin.get("/v1/items/near")["title"] == "Near"
    assert server.akin.get("/v1/items/far")["attributes"] == {"price": 3}
    assert sorted(pictures_of(server.akin, "both")) == sorted([sha256(picture(1)), sha256(picture(50))])


def test_paths_of_a_list_lie_beside_it_or_below_a_base_of_the_server(server: Server, photos: Path) -> None:
    server.akin.upload(picture(9), "there")
    (photos / "items.csv").write_text('item_id,image,title\nhere,0.jpg,"two\nlines"\n\nthere,,Again\n')

    server.ingest(photos / "items.csv")
    report = server.ingest(photos / "items.csv", "--base", photos, "--mode", "create", code=3)

    refs = [failure["ref"] for failure in report[str(photos / "items.csv")]["failures"]]
    assert refs == ["0.jpg", "line 5"]
    assert server.akin.get("/v1/items/there")["title"] == "Again"
    assert server.akin.get("/v1/items/here")["title"] == "two\nlines"


def test_places_of_the_server_are_read_by_it_below_its_roots_only(server: Server, photos: Path) -> None:
    report = server.ingest("--on-server", photos)
    refused = server.run("ingest", "--on-server", "/etc")
    elsewhere = server.run("ingest", "s3://bucket/photos")

    assert report[str(photos)]["indexed"] == 4
    assert (refused.exit_code, elsewhere.exit_code) == (1, 1)
    assert "[root_not_allowed]" in refused.output
    assert "[root_not_allowed]" in elsewhere.output


def test_a_list_elsewhere_is_fetched_by_the_server(server: Server, shop: Shop) -> None:
    shop.files = {"/list.csv": f"item_id,image\nz,{shop.url}/z.jpg\n".encode(), "/z.jpg": picture(1)}

    assert server.ingest(f"{shop.url}/list.csv")[f"{shop.url}/list.csv"]["indexed"] == 1
    missing = server.ingest(f"{shop.url}/none.csv", code=1)

    assert "[fetch_failed]" in missing["output"]
    assert item_ids(server.akin) == {"z"}


def test_addresses_come_from_standard_input_and_wrong_lines_are_listed(
    server: Server, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "URLS_AT_ONCE", 2)
    shop.files = {f"/{seed}.jpg": picture(seed) for seed in range(3)}
    good = [f"{shop.url}/{seed}.jpg" for seed in range(3)]
    text = "\n".join([good[0], "ftp://x/a.jpg", "", "http://[broken/a.jpg", "http:///a.jpg", good[1], good[2]])

    report = server.ingest("--urls", "-", code=3, stdin=text)

    facts = report["-"]
    assert (facts["found"], facts["unreadable"], facts["indexed"], len(facts["jobs"])) == (6, 3, 3, 2)
    assert [failure["ref"] for failure in facts["failures"]] == ["line 2", "line 4", "line 5"]
    assert len(server.posts("/v1/imports/urls")) == 2


def test_several_jobs_of_addresses_cannot_replace(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "URLS_AT_ONCE", 2)
    text = "".join(f"https://shop.example/{n}.jpg\n" for n in range(3))

    outcome = server.run("ingest", "--urls", "-", "--mode", "replace", stdin=text)

    assert outcome.exit_code == 1
    assert "several jobs" in outcome.output
    assert server.requests == []


def test_a_server_that_asks_to_wait_is_waited_for_with_the_same_key(server: Server, tmp_path: Path) -> None:
    (tmp_path / "all.tar").write_bytes(tarred({"a.jpg": picture(1)}, "w"))
    server.faults += [refusing(429, "overloaded", "100,000 pictures wait", "1")] * 2

    report = server.ingest(tmp_path / "all.tar")

    assert "the server asks to wait (1 s): 100,000 pictures wait" in report["output"]
    keys = server.posts("/v1/imports/archive")
    assert len(keys) == 3 and len(set(keys)) == 1 and keys[0]


def test_an_upload_whose_answer_was_lost_is_not_imported_twice(server: Server, tmp_path: Path) -> None:
    (tmp_path / "all.tar").write_bytes(tarred({"a.jpg": picture(1)}, "w"))
    server.faults.append(losing_the_answer)

    server.ingest(tmp_path / "all.tar")

    assert len(server.posts("/v1/imports/archive")) == 2
    assert len(server.akin.get("/v1/jobs")["data"]) == 1


def test_a_dry_run_needs_no_server_and_says_what_is_there_and_what_is_wrong(tmp_path: Path, photos: Path) -> None:
    (photos / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "all.tar.gz").write_bytes(tarred({"a.jpg": b"1", "a.png": b"2", "notes.txt": b"3"}))
    (tmp_path / "list.csv").write_text("item_id,image\na,https://x.example/a.jpg\na,photos/1.jpg\n,b.jpg\nc,/etc/x\n")
    (tmp_path / "urls").write_text("https://x.example/1\nhttps://x.example/1\nnone\n")
    names = [str(photos), str(tmp_path / "all.tar.gz"), str(tmp_path / "list.csv"), "s3://bucket/x"]
    report = tmp_path / "report.json"

    outcome = CliRunner().invoke(
        main, ["ingest", "--dry-run", "--report", str(report), *names, "--urls", str(tmp_path / "urls")]
    )

    assert outcome.exit_code == 3, outcome.output
    found = json.loads(report.read_text())["sources"]
    folder, archive, listed, place, addresses = (found[name] for name in [*names, str(tmp_path / "urls")])
    assert folder["counts"]["pictures"] == 5
    assert [problem["ref"] for problem in folder["problems"]] == ["dangling.jpg"]
    assert (archive["counts"]["pictures"], archive["named_more_than_once"]) == (2, 1)
    assert archive["skipped"] == {".txt": 1}
    assert (listed["counts"]["lines"], listed["counts"]["addresses"], listed["counts"]["paths"]) == (4, 1, 2)
    assert [problem["ref"] for problem in listed["problems"]] == ["line 5", "b.jpg"]
    assert "cannot be counted" in place["plan"]
    assert (addresses["counts"]["addresses"], addresses["named_more_than_once"]) == (2, 1)
    assert [problem["ref"] for problem in addresses["problems"]] == ["line 3"]


def test_without_waiting_the_job_is_named_and_can_be_followed_later(server: Server, photos: Path) -> None:
    report = server.ingest("--on-server", photos, "--no-wait", "--webhook", "http://127.0.0.1:9/hook")
    (job,) = report[str(photos)]["jobs"]

    shown = server.run("jobs", "show", job["id"], "--wait")
    listed = server.run("jobs", "list")

    assert job["id"] in report["output"]
    assert "4 searchable" in shown.output
    assert f"from {photos}" in shown.output
    assert "per second" in shown.output
    assert "webhook http://127.0.0.1:9/hook: not told" in shown.output
    assert job["id"] in listed.output


def test_uploading_without_waiting_says_what_is_on_its_way(server: Server, photos: Path) -> None:
    report = server.ingest(photos, "--no-wait")

    facts = report[str(photos)]
    assert facts["accepted"] == 4 == facts["waiting"] + facts["indexed"]
    assert "do not add up" not in report["output"]


def test_who_waits_for_a_job_is_told_what_has_changed_only(server: Server, photos: Path) -> None:
    server.working.clear()
    seen: list[str] = []
    with AkinClient(server.url, server.akin.key) as client, ThreadPoolExecutor(1) as pool:
        job = client.import_location(str(photos), ImportOptions())
        waiting = pool.submit(client.wait, job.id, lambda job: seen.append(job.state), interval=0.01)
        wait_for(lambda: "304" in server.statuses)
        server.working.set()

        assert waiting.result(timeout=60).indexed == 4

    assert seen[0] == "queued"
    assert seen[-1] == "finished"


def test_a_request_that_changes_something_has_one_key_for_all_its_tries(server: Server) -> None:
    server.faults.append(refusing(503, "unavailable", "starting", "0"))
    server.faults.append(refusing(409, "idempotency_key_at_work", "the same request is at work", "0"))
    file = UploadFile("a.jpg", picture(1))

    with AkinClient(server.url, server.akin.key) as client:
        client.wait(client.import_files([file]).id)
        client.import_files([file])
        client.search(file.content, limit=1)

    first, *again, second = server.posts("/v1/imports")
    assert again == [first, first]
    assert first and second and first != second
    assert server.posts("/v1/search") == [None]
    assert len(server.akin.get("/v1/jobs")["data"]) == 2


def test_items_are_deleted_by_filter_and_by_id_once_somebody_says_so(server: Server) -> None:
    for seed in range(6):
        server.akin.upload(picture(seed), f"item-{seed}", attributes=f'{{"price": {seed}}}')
    cheap = json.dumps({"field": "price", "lt": 3})

    counted = server.run("delete", "--filter", cheap, "--dry-run")
    unasked = server.run("delete", "--filter", cheap)
    assert (counted.exit_code, unasked.exit_code) == (0, 1)
    assert "3 items" in counted.output
    assert "--yes" in unasked.output
    assert len(item_ids(server.akin)) == 6

    deleted = server.run("delete", "--filter", cheap, "--yes")
    by_id = server.run("delete", "--item", "item-3", "--item", "unknown", "--yes")

    assert (deleted.exit_code, by_id.exit_code) == (0, 0), deleted.output + by_id.output
    assert "3 items with 3 pictures deleted" in deleted.output
    assert "1 ids are not there" in by_id.output
    assert item_ids(server.akin) == {"item-4", "item-5"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "--item"),
        (["--item", "a", "--filter", "{}"], 2, "--item"),
        (["--filter", "price < 3"], 2, "not JSON"),
        (["--filter", "[]"], 2, "object"),
        (["--filter", '{"field": "price", "near": 3}'], 1, "[invalid_filter]"),
        (["--item", ""], 1, "item_ids"),
    ],
)
def test_a_wrong_choice_of_items_deletes_nothing(server: Server, arguments: list[str], code: int, said: str) -> None:
    server.akin.upload(picture(1), "a")

    outcome = server.run("delete", *arguments, "--yes")

    assert outcome.exit_code == code, outcome.output
    assert said in outcome.output
    assert item_ids(server.akin) == {"a"}


def test_catalogs_are_made_listed_and_deleted(server: Server) -> None:
    made = server.run("catalogs", "create", "shoes")
    twice = server.run("catalogs", "create", "shoes")
    secrets = [server.run("catalogs", "webhook-secret", *names).output for names in ([], ["default"], ["shoes"])]
    listed = server.run("catalogs", "list")
    unasked = server.run("catalogs", "delete", "shoes")
    deleted = server.run("catalogs", "delete", "shoes", "--yes")

    assert (made.exit_code, twice.exit_code, listed.exit_code) == (0, 1, 0), made.output + listed.output
    assert "shoes" in listed.output and "default" in listed.output
    assert secrets[0] == secrets[1] != secrets[2] and all(secret.startswith("whsec_") for secret in secrets)
    assert unasked.exit_code == 1 and "--yes" in unasked.output
    assert deleted.exit_code == 0, deleted.output
    assert "shoes" not in server.run("catalogs", "list").output
    assert server.run("catalogs", "delete", "default", "--yes").exit_code == 1
    assert "there is no catalog" in server.run("catalogs", "delete", "nowhere", "--yes").output
