"""What `akin evaluate` promises, on generated pictures and on the clothing set where it is there."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from services.cli.evaluate import evaluate as evaluate_command
from services.datasets import load as load_module
from services.datasets.source import Picture
from services.encoders.architectures import build, pack
from services.encoders.checkpoint import Checkpoint, digest, save
from services.encoders.manifest import Manifest, Training, TrainingData
from services.encoders.torch_encoder import TorchEncoder
from services.errors import ConfigurationError, ImageRejected, InvalidRequest
from services.evaluation import embed as embed_module
from services.evaluation.alterations import ALTERATIONS, altered
from services.evaluation.embed import call_on, embed
from services.evaluation.instances import draw
from services.evaluation.material import Split, open_material, split_of
from services.evaluation.metrics import label_metrics
from services.evaluation.run import evaluate
from services.evaluation.searches import choose_queries, searches_of_arrays
from services.evaluation.speed import measure_speed
from services.evaluation.subjects import Subject, baselines, of_encoder, of_flattened
from services.evaluation.tables import _COST_COLUMNS
from services.images.decode import Limits
from services.images.pool import DecodePool
from services.images.preprocess import Pixels, Preprocessing, preprocess
from services.images.thumbnails import thumbnail
from tests.torch_threads import torch_threads

CLOTHING = (Path(__file__).parents[2] / "../shared/data/clothing.zip").resolve()
LIMITS = Limits(max_bytes=1_000_000, max_pixels=1_000_000)
HALF = (0.5, 0.5, 0.5)
SMALL = Preprocessing(size=32, fit="stretch", resample="bilinear", mean=HALF, std=HALF)
HUES = {"blue": (40, 60, 200), "green": (30, 170, 60), "red": (210, 40, 40)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Batches this small gain nothing from a second thread and wait for it on a busy machine."""
    with torch_threads(1):
        yield


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool(1, timeout=20, memory=2 * 1024**3, limits=LIMITS) as pool:
        yield pool


def draw_picture(colour: tuple[int, int, int], seed: int) -> bytes:
    """A few rectangles in shades of a colour, as PNG."""
    random = np.random.default_rng(seed)
    pixels = np.full((72, 96, 3), 255, np.uint8)
    for _ in range(5):
        top, left = random.integers(0, 48), random.integers(0, 64)
        shade = np.clip(np.array(colour) + random.integers(-30, 30, 3), 0, 255)
        pixels[top : top + random.integers(10, 40), left : left + random.integers(10, 50)] = shade
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of three colours, which are the labels: 8 each under train, 4 each under validation."""
    for part, count in (("train", 8), ("validation", 4)):
        for label, (name, colour) in enumerate(HUES.items()):
            for number in range(count):
                path = tmp_path / "set" / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(draw_picture(colour, 100 * label + number + (50 if part == "train" else 0)))
    return tmp_path / "set"


def checkpoint_of(architecture: str, options: dict[str, object], size: int, dimension: int) -> Checkpoint:
    """An untrained encoder."""
    torch.manual_seed(0)
    weights = pack(build(architecture, options))
    data = TrainingData(description="nothing", trained_on=1, held_out=1, sha256="0" * 64)
    training = Training(
        recipe="none",
        data=data,
        metrics={},
        seed=0,
        git_revision=None,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        licence="CC0-1.0",
    )
    manifest = Manifest(
        name="untrained",
        version=1,
        architecture=architecture,
        options=options,
        dimension=dimension,
        preprocessing=SMALL.model_copy(update={"size": size}),
        weights_sha256=digest(weights),
        training=training,
    )
    return Checkpoint(manifest, weights)


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    """An encoder's folder whose network pools 256 × 2 × 2 numbers to 256."""
    save(tmp_path / "untrained", checkpoint_of("folder-ae", {"pool": "avg"}, 64, 256))
    return tmp_path / "untrained"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(evaluate_command, [str(argument) for argument in arguments])


class TestCommand:
    def test_it_measures_encoders_beside_the_baselines(self, folder: Path, untrained: Path, tmp_path: Path) -> None:
        figures, report = tmp_path / "out" / "figures.json", tmp_path / "out" / "report.html"

        result = run(untrained, f"{untrained}:flattened", "--data", folder, "--json", figures, "--report", report)

        assert result.exit_code == 0, result.output
        names = ["untrained@1", "untrained@1:flattened", "pixels", "histogram"]
        assert all(name in result.stdout for name in [*names, "k-NN@20", "P@10", "mAP", "mirrored", "images/s"])
        read = json.loads(figures.read_text())
        assert (read["gallery_pictures"], read["query_pictures"], read["classes"]) == (24, 12, list(HUES))
        by_name = {encoder["name"]: encoder for encoder in read["encoders"]}
        assert list(by_name) == names
        assert [by_name[name]["dimension"] for name in names] == [256, 1024, 3072, 192]
        assert by_name["untrained@1"]["bytes_per_vector"] == 1024
        assert by_name["histogram"]["labels"]["knn_1"] == 1.0  # the labels are colours
        for encoder in by_name.values():
            assert [item["alteration"] for item in encoder["instances"]] == [item.name for item in ALTERATIONS]
            assert all(0 < item["recall_1"] <= item["mean_reciprocal_rank"] <= 1 for item in encoder["instances"][:2])
            assert encoder["speed"]["latency_median_ms"] <= encoder["speed"]["latency_p95_ms"]
        page = report.read_text()
        assert "untrained@1:flattened" in page
        assert page.count('<section class="search">') == 12
        assert page.count('class="same"') > 12
        assert "http" not in page

    def test_markdown_is_all_that_is_printed(self, folder: Path) -> None:
        result = run("--data", folder, "--markdown", "--copies", "2")

        lines = result.stdout.splitlines()
        assert lines[0].startswith("12 queries of set#validation to 24 pictures of set#train; altered copies of 2 ")
        assert "| encoder | k-NN@1 | k-NN@20 | P@10 | R@5 | R@10 | mAP |" in lines
        assert any(line.startswith("| `histogram` | **100.0 %** |") for line in lines)

    def test_a_shipped_encoder_is_found_by_its_name(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AKIN_DATA_DIR", str(tmp_path / "data"))

        result = run("conv-ae-64", "--data", folder, "--limit", "6", "--copies", "2", "--device", "cpu")

        assert result.exit_code == 0, result.output
        assert "conv-ae-64@1" in result.stdout
        assert "6 queries of set#validation to 6 pictures" in result.stdout

    def test_two_encoders_of_one_name_are_both_measured_and_the_same_one_once(
        self, folder: Path, untrained: Path, tmp_path: Path
    ) -> None:
        """Two trainings of one recipe, in two folders, are both `name@1`."""
        other, figures = tmp_path / "other", tmp_path / "figures.json"
        save(other, checkpoint_of("folder-ae", {"pool": "gem"}, 64, 256))

        result = run(untrained, other, untrained, "--data", folder, "--copies", "2", "--json", figures)

        assert result.exit_code == 0, result.output
        names = [encoder["name"] for encoder in json.loads(figures.read_text())["encoders"]]
        assert names == ["untrained@1", str(other), "pixels", "histogram"]

    def test_what_cannot_be_read_is_left_out_and_listed(self, folder: Path) -> None:
        (folder / "train" / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")

        result = run("--data", folder, "--copies", "2")

        assert "12 queries of set#validation to 24 pictures" in result.stdout
        assert "1 unreadable files left out" in result.stdout
        assert "red/broken.png: " in result.stdout

    def test_pictures_without_labels_are_measured_by_their_copies_alone(self, folder: Path, tmp_path: Path) -> None:
        figures = tmp_path / "figures.json"

        result = run("--gallery", f"{folder}#train/red", "--json", figures)

        assert result.exit_code == 0, result.output
        assert "only altered copies are measured" in " ".join(result.stdout.split())
        assert "k-NN" not in result.stdout
        read = json.loads(figures.read_text())
        assert all(encoder["labels"] is None and encoder["instances"] for encoder in read["encoders"])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--data", "nowhere"], "nowhere does not exist"),
            ([], "either --data SET, or --gallery SET"),
            (["--queries", "nowhere"], "either --data SET, or --gallery SET"),
            (["--data", "nowhere", "--device", "toaster"], "'--device': 'toaster' is none of auto, cpu, cuda"),
        ],
    )
    def test_wrong_arguments_are_explained(self, arguments: list[str], message: str) -> None:
        result = run(*arguments)

        assert result.exit_code != 0
        assert message in result.output

    def test_an_unknown_encoder_is_named(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AKIN_DATA_DIR", str(tmp_path / "data"))

        result = run("nobody", "--data", folder)

        assert result.exit_code == 1
        assert "there is no encoder 'nobody'" in result.output

    def test_an_encoder_that_pools_nothing_has_no_flattened_code(self, folder: Path, tmp_path: Path) -> None:
        save(tmp_path / "plain", checkpoint_of("conv-ae", {"bottleneck": 8}, 32, 8))

        result = run(f"{tmp_path / 'plain'}:flattened", "--data", folder)

        assert result.exit_code == 1
        assert "pools nothing" in result.output


class TestMaterial:
    def test_parts_of_a_zip_file_are_gallery_and_queries(self, folder: Path) -> None:
        archive = folder.with_suffix(".zip")
        with zipfile.ZipFile(archive, "w") as file:
            for path in folder.rglob("*.png"):
                file.write(path, path.relative_to(folder.parent))

        assert split_of(f"{archive}#set") == Split(f"{archive}#set/train", f"{archive}#set/validation")
        with open_material(split_of(f"{archive}#set"), None, seed=0) as material:
            assert (len(material.gallery), len(material.queries)) == (24, 12)

    def test_a_set_without_parts_answers_itself(self, folder: Path) -> None:
        assert split_of(f"{folder}#train") == Split(f"{folder}#train", None)

    def test_torchvisions_sets_have_their_own_parts(self) -> None:
        assert split_of("cifar10:somewhere") == Split("cifar10:somewhere#train", "cifar10:somewhere#test")

    def test_the_seed_draws_the_sample(self, folder: Path) -> None:
        def names(seed: int) -> list[str]:
            with open_material(Split(f"{folder}#train", None), 10, seed) as material:
                return [picture.name for picture in material.gallery]

        assert len(names(0)) == 10
        assert names(0) == names(0) == sorted(names(0))
        assert names(0) != names(1)

    def test_one_picture_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "one.png").write_bytes(draw_picture(HUES["red"], 0))

        with pytest.raises(InvalidRequest, match="nothing to find"), open_material(Split(str(tmp_path), None), None, 0):
            pass

    def test_a_set_of_unreadable_files_is_refused(self, tmp_path: Path, pool: DecodePool) -> None:
        for number in range(3):
            (tmp_path / f"{number}.txt").write_text("no picture")

        with (
            open_material(Split(str(tmp_path), None), None, 0) as material,
            pytest.raises(InvalidRequest, match="too few readable pictures"),
        ):
            evaluate(baselines(), material, pool, copied=1, seed=0, device="none", progress=lambda *_: None)


class TestEmbedding:
    def test_vectors_are_those_of_the_pictures_as_queries(self, folder: Path, pool: DecodePool) -> None:
        encoder = TorchEncoder(*checkpoint_of("folder-ae", {"pool": "avg"}, 64, 256), "cpu")
        subjects = [of_encoder(encoder), of_flattened(encoder), *baselines()]
        with open_material(Split(f"{folder}#validation", None), None, 0) as material:
            embedded = embed(material.gallery, subjects, pool, lambda *_: None)
            contents = [picture.content() for picture in material.gallery]

        assert embedded.kept == list(range(12))
        for subject, vectors in zip(subjects, embedded.vectors, strict=True):
            one_by_one = [
                subject.encode(preprocess(content, subject.preprocessing, LIMITS)[None])[0] for content in contents
            ]
            np.testing.assert_allclose(vectors, one_by_one, atol=1e-5)
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    def test_long_codes_lie_in_a_file(self, folder: Path, pool: DecodePool, monkeypatch: pytest.MonkeyPatch) -> None:
        with open_material(Split(f"{folder}#validation", None), None, 0) as material:
            in_memory = embed(material.gallery, baselines(), pool, lambda *_: None).vectors[0]
            monkeypatch.setattr(embed_module, "_IN_MEMORY_BYTES", 0)
            in_file = embed(material.gallery, baselines(), pool, lambda *_: None).vectors[0]

        assert isinstance(in_file, np.memmap)
        assert in_file.dtype == np.float16
        np.testing.assert_allclose(in_file, in_memory, atol=1e-4)

    def test_few_files_are_in_memory_together(
        self, tmp_path: Path, pool: DecodePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(load_module, "_PIECE_BYTES", 1_000_000)
        noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
        file = tmp_path / "noise.png"
        Image.fromarray(noise).save(file)
        size = file.stat().st_size
        pictures = [Picture(f"{number}", None, size, file.read_bytes) for number in range(20)]
        pictures[7] = Picture("missing", None, size, (tmp_path / "missing").read_bytes)
        pool.warm_up()

        tracemalloc.start()
        try:
            thumbnails = call_on(list(enumerate(pictures, start=100)), pool, thumbnail, 128)
            peak_of_calls = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            embedded = embed(pictures, baselines(), pool, lambda *_: None)
            peak_of_embedding = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert size > 700_000
        assert peak_of_calls < 5 * size
        assert peak_of_embedding < 5 * size
        assert [number for number, _ in thumbnails] == list(range(100, 120))
        assert [number for number, content in thumbnails if isinstance(content, ImageRejected)] == [107]
        assert embedded.kept == [number for number in range(20) if number != 7]

    def test_a_disk_without_room_is_named(self) -> None:
        with pytest.raises(ConfigurationError, match="set TMPDIR"):
            embed_module.room(10**9, 10**9)


class TestAlterations:
    def sizes(self, picture: Image.Image) -> dict[str, tuple[int, int]]:
        return {item.name: item.apply(picture, np.random.default_rng(0)).size for item in ALTERATIONS}

    def test_they_change_the_size_as_they_say(self) -> None:
        assert self.sizes(Image.new("RGB", (100, 50))) == {
            "jpeg-30": (100, 50),
            "half": (50, 25),
            "crop-area": (77, 39),
            "crop-sides": (60, 30),
            "mirror": (100, 50),
            "colour": (100, 50),
            "rotate": (100, 50),
        }

    def test_the_smallest_picture_can_be_altered(self) -> None:
        assert set(self.sizes(Image.new("RGB", (1, 1))).values()) == {(1, 1)}

    def test_crops_are_parts_of_the_picture_at_many_places(self) -> None:
        ramp = np.arange(100 * 50, dtype=np.uint32).reshape(50, 100)
        picture = Image.fromarray(np.stack([ramp % 256, ramp // 256, ramp * 0], axis=-1).astype(np.uint8))
        crop = next(item for item in ALTERATIONS if item.name == "crop-sides")
        corners = set()
        for seed in range(20):
            part = np.asarray(crop.apply(picture, np.random.default_rng(seed))).astype(int)
            top, left = divmod(part[0, 0, 0] + 256 * part[0, 0, 1], 100)
            assert np.array_equal(part, np.asarray(picture)[top : top + 30, left : left + 60])
            corners.add((top, left))
        assert len(corners) > 15

    def test_equal_seeds_give_equal_copies(self) -> None:
        data = draw_picture(HUES["red"], 0)

        def copies(seed: int) -> list[Pixels]:
            return [pixels for (pixels,) in altered(data, seed, [SMALL], LIMITS)]

        first, again, other = copies(0), copies(0), copies(1)
        assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
        by_chance = {"crop-area", "crop-sides", "colour", "rotate"}
        for item, one, two in zip(ALTERATIONS, first, other, strict=True):
            assert np.array_equal(one, two) == (item.name not in by_chance), item.name

    def test_each_copy_differs_from_the_original(self) -> None:
        data = draw_picture(HUES["green"], 3)
        original = preprocess(data, SMALL, LIMITS)

        for item, (copy,) in zip(ALTERATIONS, altered(data, 0, [SMALL], LIMITS), strict=True):
            assert not np.array_equal(copy, original), item.name

    def test_a_broken_picture_is_rejected(self) -> None:
        with pytest.raises(ImageRejected):
            altered(b"\x89PNG\r\n\x1a\nnothing more", 0, [SMALL], LIMITS)

    def test_copies_are_drawn_of_queries_and_are_among_the_originals(self) -> None:
        originals, copied = draw(total=100, copyable=30, copied=10, originals=40, seed=0)

        assert (len(originals), len(copied)) == (40, 10)
        assert copied.max() < 30
        assert set(copied) <= set(originals)
        assert len(set(originals)) == 40

    def test_all_pictures_are_originals_where_they_are_few(self) -> None:
        originals, copied = draw(total=20, copyable=5, copied=10, originals=40, seed=0)

        assert originals.tolist() == list(range(20))
        assert copied.tolist() == list(range(5))


class TestSearches:
    def test_queries_are_spread_over_the_labels(self) -> None:
        labels = np.repeat([0, 1, 2], [100, 5, 2])

        chosen = choose_queries(labels, 6, seed=0)

        assert labels[chosen].tolist() == [0, 0, 1, 1, 2, 2]
        assert len(choose_queries(labels, 12, seed=0)) == 12
        assert len(choose_queries(labels[:4], 12, seed=0)) == 4

    def test_arrays_are_searched_best_first(self) -> None:
        vectors = np.eye(4, dtype=np.float32)
        pixels = np.zeros((4, 8, 8, 3), np.uint8)
        labels = np.array([0, 1, 0, -1])

        searches = searches_of_arrays("mine", (vectors, pixels, labels), (vectors, pixels, labels), ["a", "b"])

        assert sorted(search.label or "" for search in searches) == ["", "a", "a", "b"]
        for search in searches:
            first = search.found["mine"][0]
            assert (first.label, first.similarity) == (search.label, 1.0)
            assert first.same is (None if search.label is None else True)
            assert first.picture.startswith("data:image/webp;base64,")


def test_a_slow_encoder_is_timed_with_fewer_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def encode(batch: Pixels) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        seen.append(len(batch))
        return np.ones((len(batch), 1), np.float32)

    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr("services.evaluation.speed.time.perf_counter", lambda: next(clock))

    speed = measure_speed(Subject("slow", "two seconds a call", SMALL, 1, encode))

    assert (speed.latency_median_ms, speed.batch, speed.images_per_second) == (2000, 5, 2.5)
    assert set(seen) == {1, 5}


@pytest.mark.full
@pytest.mark.skipif(not CLOTHING.exists(), reason=f"{CLOTHING.name} is not there")
def test_the_baselines_are_as_good_on_clothing_as_they_are_known_to_be(pool: DecodePool) -> None:
    with open_material(split_of(str(CLOTHING)), None, seed=0) as material:
        pictures = [*material.queries, *material.gallery]
        asked = len(material.queries)
        embedded = embed(pictures, baselines(), pool, lambda *_: None)
    labels = np.unique([str(picture.label) for picture in pictures], return_inverse=True)[1]

    pixels, histogram = (
        label_metrics(vectors[asked:], labels[asked:], vectors[:asked], labels[:asked]) for vectors in embedded.vectors
    )

    assert (len(embedded.kept), asked) == (3409, 341)
    for found, known in ((pixels, (0.516, 0.398, 0.191)), (histogram, (0.337, 0.243, 0.158))):
        figures = (found.knn_1, found.precision_10, found.mean_average_precision)
        assert figures == pytest.approx(known, abs=0.002)


class TestMessages:
    def test_a_folder_without_an_encoder_is_told_before_the_set_is_listed(self, tmp_path: Path) -> None:
        result = run(tmp_path, "--data", "nowhere")

        assert result.exit_code == 1
        assert f"{tmp_path} is not an encoder checkpoint" in result.output

    @pytest.mark.parametrize("device", ["gpu", "meta", "cuda:", ""])
    def test_other_devices_are_refused_by_the_options_name(self, device: str) -> None:
        result = run("--data", "nowhere", "--device", device)

        assert result.exit_code == 2
        assert "'--device'" in result.output
        assert "AKIN_DEVICE" not in result.output

    def test_brackets_in_paths_are_printed_as_they_are(self, folder: Path) -> None:
        odd = folder.rename(folder.with_name("set [bold] :smile:"))

        result = run("--gallery", f"{odd}#train/red", "--copies", "1")

        assert result.exit_code == 0, result.output
        assert "set [bold] :smile:" in " ".join(result.stdout.split())

    def test_speed_does_not_promise_batches_of_64(self) -> None:
        (speed,) = [column for column in _COST_COLUMNS if column.title == "images/s"]

        assert "batches of up to 64" in speed.description

    def test_a_residual_network_has_a_flattened_code(self) -> None:
        options: dict[str, object] = {"stem": 8, "stem_stride": 1, "widths": [8, 16], "blocks": [1, 1]}

        subject = of_flattened(TorchEncoder(*checkpoint_of("resnet", options, 32, 16), device="cpu"))

        assert subject.dimension == 16 * 16 * 16
