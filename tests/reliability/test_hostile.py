"""Files made to break decoders, and archives that lie: each costs its own entry, and nothing else."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import ExifTags
from PIL import Image as Pillow

from services.sources.names import PICTURE_SUFFIXES, suffix_of
from services.stack.background import background_stack
from tests.reliability import hostile_archives, hostile_manifests, hostile_pictures
from tests.reliability.hostile_mutations import mutations
from tests.reliability.hostile_pictures import FORMATS, drawn
from tests.reliability.hostile_stack import HostileStack
from tests.servers import free_ports, require

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded and measured on Linux only")

AWKWARD = Path(__file__).parents[2] / ".." / "shared" / "data" / "awkward.zip"
# Read here, before a fixture clears the environment of what is not for the stack.
LONG = os.environ.get("AKIN_FAULTS") == "long"
MUTATIONS = 5_000 if LONG else 300
SEED = 20_240_229
BATCH = 100
REFUSALS = {
    "image_empty",
    "image_unrecognised",
    "image_unsupported",
    "image_broken",
    "image_too_many_pixels",
    "image_too_many_bytes",
    "image_timeout",
    "image_crashed_decoder",
}
TEST_SECONDS = 1500 if LONG else 300


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileStack]:
    """A stack as it is by default on a CPU; only queries may take longer, as the tests use all of a small machine."""
    data_dir = tmp_path_factory.mktemp("hostile") / "data"
    with started(data_dir, AKIN_QUERY_DEADLINE="60") as found:
        yield found


@contextmanager
def started(data_dir: Path, **settings: str) -> Iterator[HostileStack]:
    """A stack with these settings alone, watched."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AKIN_") and name != "AKIN_REQUIRE"]:
            patch.delenv(name)
        environment = {"AKIN_PORT": str(free_ports(1)[0]), "AKIN_DEVICE": "cpu", **settings}
        with background_stack(data_dir, environment=environment) as state, HostileStack(state, data_dir) as stack:
            yield stack


def awkward() -> dict[str, bytes]:
    """Files that decoders trip over."""
    if not AWKWARD.exists():
        require("awkward", "the files that decoders trip over are not on this machine")
    with zipfile.ZipFile(AWKWARD) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def prove_working(stack: HostileStack, seed: int) -> None:
    """An ordinary picture is accepted, becomes searchable, and is found."""
    data = drawn("JPEG", seed, side=96)
    job = stack.over(stack.start([(f"ordinary-{seed}.jpg", data)]))
    assert (job.indexed, job.failed) == (1, 0)
    best = stack.ask("POST", "/v1/search", files={"image": ("q.jpg", data)}).json()["hits"][0]
    assert best["score"] >= 0.999


@pytest.mark.timeout(TEST_SECONDS)
def test_files_that_decoders_trip_over_are_indexed_or_listed_with_their_reason(stack: HostileStack) -> None:
    files = awkward()
    pictures = [name for name in files if suffix_of(name) in PICTURE_SUFFIXES]
    with stack.unharmed():
        started_jobs = [
            *(stack.start(batch) for batch in _batches(list(files.items()))),
            stack.start_archive(AWKWARD.read_bytes(), "application/zip"),
        ]
        *uploads, archive = [stack.over(job) for job in started_jobs]

        assert sum(job.total for job in uploads) == len(files)
        assert archive.total == len(pictures)
        assert set().union(*(job.failed_by_code for job in uploads)) <= REFUSALS
        assert sum(job.indexed + job.unchanged for job in uploads) >= 130
        prove_working(stack, 1_000)


@pytest.mark.timeout(TEST_SECONDS)
def test_mutated_files_are_indexed_or_refused_and_harm_nobody(stack: HostileStack) -> None:
    files = {f"drawn.{kind.lower()}": drawn(kind, at) for at, kind in enumerate(FORMATS)}
    if AWKWARD.exists():
        files |= awkward()
    with stack.unharmed():
        mutated = list(mutations(files, MUTATIONS, SEED))
        jobs = [stack.start(batch) for batch in _batches(mutated)]
        for name, data in mutated[::20]:
            assert stack.upload(name, data, name[:5]) in REFUSALS | {"ok"}, name
            assert stack.search(name, data) in REFUSALS | {"ok"}, name
        ended = [stack.over(job) for job in jobs]

        assert sum(job.total for job in ended) == MUTATIONS
        assert set().union(*(job.failed_by_code for job in ended)) <= REFUSALS
        assert sum(job.indexed for job in ended) > MUTATIONS // 20
        prove_working(stack, 1_001)


@pytest.mark.timeout(TEST_SECONDS)
def test_an_archive_that_lies_costs_no_more_than_its_own_entries(stack: HostileStack) -> None:
    large = hostile_archives.within_limits(32 if LONG else 4)
    archives = [*hostile_archives.zips(), *hostile_archives.tars(), large]
    with stack.unharmed():
        jobs = [stack.start_archive(archive.data, archive.media_type) for archive in archives]

        assert {archive.name: _outcome(stack, job) for archive, job in zip(archives, jobs, strict=True)} == {
            archive.name: (archive.indexed, dict(archive.failed), archive.error) for archive in archives
        }
        assert not _pictures_outside(stack)
        prove_working(stack, 1_002)


@pytest.mark.timeout(TEST_SECONDS)
def test_a_manifest_that_says_what_nothing_can_hold_costs_no_more_than_its_own_lines(stack: HostileStack) -> None:
    manifests = list(hostile_manifests.manifests())
    with stack.unharmed():
        jobs = [stack.start_manifest(manifest.data, manifest.media_type) for manifest in manifests]

        assert {manifest.name: _outcome(stack, job) for manifest, job in zip(manifests, jobs, strict=True)} == {
            manifest.name: (manifest.taken, dict(manifest.failed), manifest.error) for manifest in manifests
        }
        prove_working(stack, 1_008)


def _outcome(stack: HostileStack, job_id: str) -> tuple[int, dict[str, int], str | None]:
    job = stack.over(job_id)
    return job.indexed + job.unchanged, dict(job.failed_by_code), job.error.code if job.error else None


def _pictures_outside(stack: HostileStack) -> list[Path]:
    """Files that an archive could have named; stored bytes have no names."""
    near = stack.data_dir.parent.rglob("*.jpg")
    return [*near, *(path for path in (Path("/etc/x.jpg"), Path("/x.jpg"), Path("/tmp/through.jpg")) if path.exists())]


@pytest.mark.timeout(TEST_SECONDS)
def test_pictures_that_declare_too_much_are_refused_by_their_header(stack: HostileStack) -> None:
    bombs = dict(hostile_pictures.oversized())
    with stack.unharmed():
        job = stack.start([(f"{name}.png", data) for name, data in bombs.items()])

        assert {stack.upload(name, data, name[:40]) for name, data in bombs.items()} == {"image_too_many_pixels"}
        assert {stack.search(name, data) for name, data in bombs.items()} == {"image_too_many_pixels"}
        assert _outcome(stack, job) == (0, {"image_too_many_pixels": len(bombs)}, None)

        contained = dict(hostile_pictures.containers())
        refused = {stack.upload(name, data, name[:40]) for name, data in contained.items()}
        assert refused <= {"image_too_many_pixels", "image_broken"}
        prove_working(stack, 1_003)


@pytest.mark.timeout(TEST_SECONDS)
def test_pictures_that_unpack_or_loop_without_end_are_taken_or_refused_at_once(stack: HostileStack) -> None:
    crafty = dict(hostile_pictures.crafty())
    with stack.unharmed():
        job = stack.start([(f"{name}.png", data) for name, data in crafty.items()])
        for name, data in crafty.items():
            assert stack.upload(name, data, name[:40]) in {"ok", "image_broken"}, name
            assert stack.search(name, data) in {"ok", "image_broken"}, name
        assert set(stack.over(job).failed_by_code) == {"image_broken"}
        prove_working(stack, 1_004)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_pictures_that_cost_much_stay_within_memory_and_time(stack: HostileStack) -> None:
    costly = dict(hostile_pictures.costly())
    with stack.unharmed():
        job = stack.start([(f"{name}.png", data) for name, data in costly.items()])

        uploaded = {name: stack.upload(name, data, name[:40]) for name, data in costly.items()}
        # Whether the others are decoded in time is the machine's affair; that these never are is not.
        assert uploaded.pop("jpeg of 20,000 scans") == "image_timeout"
        assert set(uploaded.values()) <= {"ok", "image_timeout"}
        assert set(stack.over(job).failed_by_code) == {"image_timeout"}
        prove_working(stack, 1_005)


@pytest.mark.timeout(TEST_SECONDS)
def test_a_request_of_files_as_large_as_may_be_stays_within_memory(stack: HostileStack) -> None:
    files = [(f"{number}.jpg", bytes(31 * 1024 * 1024)) for number in range(8 if LONG else 2)]
    with stack.unharmed():
        assert _outcome(stack, stack.start(files)) == (0, {"image_unrecognised": len(files)}, None)
        assert stack.upload("large.jpg", bytes(40_000_000), "large") == "image_too_many_bytes"
        prove_working(stack, 1_006)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_what_is_served_says_nothing_of_the_place_and_runs_nowhere(stack: HostileStack, kind: str) -> None:
    data = _photograph(kind)
    assert SECRET in data
    form = {"item_id": f"place-{kind}"}
    accepted = stack.ask("POST", "/v1/images", data=form, files={"image": ("a.html", data, "text/html")}).json()
    path = f"/v1/images/{accepted['image_id']}"
    searcher = stack.ask("POST", "/v1/admin/keys", json={"name": f"look at {kind}", "scopes": ["search"]}).json()["key"]
    searching = {"Authorization": f"Bearer {searcher}"}

    thumbnail = stack.ask("GET", f"{path}/thumbnail", params={"size": 128}, headers=searching)
    content = stack.ask("GET", f"{path}/content", headers=searching)
    original = stack.ask("GET", f"{path}/content", params={"original": "true"})
    refused = stack.ask("GET", f"{path}/content", params={"original": "true"}, headers=searching)

    assert (thumbnail.headers["Content-Type"], content.headers["Content-Type"]) == ("image/webp", "image/jpeg")
    for shown in (thumbnail, content):
        picture = Pillow.open(io.BytesIO(shown.content))
        assert SECRET not in shown.content
        assert not picture.getexif() and not {"exif", "xmp", "icc_profile", "comment"} & set(picture.info)
    assert original.content == data
    assert original.headers["Content-Type"] == MEDIA_TYPES[kind]
    assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
    for response in (thumbnail, content, original):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"


SECRET = b"52.5163N-13.3777E"
MEDIA_TYPES = {kind: f"image/{kind.lower()}" for kind in FORMATS} | {"HEIF": "image/heic"}


def _photograph(kind: str) -> bytes:
    """A picture whose EXIF says where it was taken."""
    exif = Pillow.Exif()
    exif[ExifTags.Base.ImageDescription] = SECRET.decode()
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 30.0, 58.7)
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSProcessingMethod] = SECRET
    file = io.BytesIO()
    Pillow.new("RGB", (200, 100), (90, 120, 30)).save(file, kind, exif=exif.tobytes() if kind == "HEIF" else exif)
    return file.getvalue()


@pytest.mark.full
@pytest.mark.timeout(600)
def test_what_hangs_its_decoder_is_set_aside_after_some_attempts_and_can_be_replayed(tmp_path: Path) -> None:
    ordinary = [(f"{seed}.jpg", drawn("JPEG", seed)) for seed in range(30)]
    slow = hostile_pictures.scans(2_000, 6_000)
    poison = [(f"slow-{number}.jpg", slow + b"%d" % number) for number in range(3)]

    with started(tmp_path / "data", AKIN_DECODE_TIMEOUT="0.7", AKIN_MAX_ATTEMPTS="2") as stack, stack.unharmed():
        job_id = stack.start([*poison, *ordinary])
        job = stack.over(job_id)
        assert (job.indexed, job.failed_by_code) == (30, {"image_timeout": 3})
        assert stack.attempts("image_timeout") == [2, 2, 2]
        assert stack.upload("slow.jpg", slow, "slow") == "image_timeout"
        prove_working(stack, 1_007)

    with started(tmp_path / "data", AKIN_DECODE_TIMEOUT="120") as stack:
        stack.retry(job_id)
        job = stack.over(job_id)
        assert (job.state, job.indexed, job.failed) == ("finished", 33, 0)
        assert stack.search("slow.jpg", slow) == "ok"


def _batches(files: list[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    return (files[start : start + BATCH] for start in range(0, len(files), BATCH))
