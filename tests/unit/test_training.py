"""What `akin train` promises, on a few generated pictures."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from services.cli.train import train as train_command
from services.encoders.checkpoint import read
from services.encoders.torch_encoder import TorchEncoder
from services.errors import EncoderError, InvalidRequest, NotFound
from services.images.decode import Limits
from services.images.preprocess import preprocess
from services.training.autoencoder import Autoencoder
from services.training.data import Pictures, load_pictures, split
from services.training.loop import Epoch, Step, fit
from services.training.recipes import RECIPES, Recipe, find_recipe
from services.training.run import Outcome, Progress, train

LIMITS = Limits(max_bytes=1_000_000, max_pixels=1_000_000)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Batches this small gain nothing from a second thread and wait for it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def recipe() -> Recipe:
    return replace(find_recipe("conv-ae-64"), epochs=2, batch_size=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 pictures of two labels: gradients from a dark colour to a light one."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 36)[:, None, None]
    for number in range(40):
        path = tmp_path / "pictures" / ("warm" if number % 2 else "cold") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        light, dark = random.integers(170, 256, (1, 3)), random.integers(0, 86, (1, 3))
        pixels = np.broadcast_to(ramp * light + (1 - ramp) * dark, (36, 48, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "pictures"


def load(source: Path, recipe: Recipe, progress: Callable[[int, int], None] = lambda *_: None) -> Pictures:
    return load_pictures(source, recipe.preprocessing, LIMITS, progress)


def run(
    recipe: Recipe,
    source: Path,
    output: Path,
    on_epoch: Callable[[Epoch], Any] = lambda _: None,
    name: str = "tiny",
) -> Outcome:
    progress = Progress(lambda *_: None, lambda _: None, on_epoch)
    return train(
        recipe, source, output, LIMITS, progress, name=name, description="gradients", licence="CC0-1.0", device="cpu"
    )


class TestData:
    def test_a_folder_and_a_zip_file_of_it_are_the_same_pictures(self, folder: Path, recipe: Recipe) -> None:
        archive = folder.with_suffix(".zip")
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(folder.rglob("*.png"), reverse=True):
                file.write(path, path.relative_to(folder).as_posix())

        from_folder, from_zip = load(folder, recipe), load(archive, recipe)

        assert from_folder.pixels.shape == (40, 32, 32, 3)
        assert from_folder.pixels.dtype == np.uint8
        assert np.array_equal(from_folder.pixels, from_zip.pixels)
        assert from_folder.sha256 == from_zip.sha256

    def test_pictures_are_preprocessed_as_queries_are(self, folder: Path, recipe: Recipe) -> None:
        first = sorted(folder.rglob("*.png"))[0]

        pixels = load(folder, recipe).pixels

        assert np.array_equal(pixels[0], preprocess(first.read_bytes(), recipe.preprocessing, LIMITS))

    def test_unreadable_files_are_left_out_and_listed(self, folder: Path, recipe: Recipe) -> None:
        (folder / "cold" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
        (folder / "notes.txt").write_text("not a picture")

        pictures = load(folder, recipe)

        assert len(pictures.pixels) == 40
        assert [item.name for item in pictures.unreadable] == ["cold/broken.png", "notes.txt"]
        assert all(item.reason for item in pictures.unreadable)

    def test_damaged_and_huge_members_of_a_zip_file_are_listed(self, folder: Path, recipe: Recipe) -> None:
        good = sorted(folder.rglob("*.png"))
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as file:
            for path in good[:3]:
                file.write(path, path.name)
            file.writestr("huge.png", bytes(LIMITS.max_bytes + 1), zipfile.ZIP_DEFLATED)
        damaged = content.getvalue().replace(good[0].read_bytes(), bytes(good[0].stat().st_size))
        archive = folder.parent / "damaged.zip"
        archive.write_bytes(damaged)

        pictures = load(archive, recipe)

        assert len(pictures.pixels) == 2
        assert [item.name for item in pictures.unreadable] == [good[0].name, "huge.png"]

    def test_progress_covers_every_file(self, folder: Path, recipe: Recipe) -> None:
        seen: list[tuple[int, int]] = []

        load(folder, recipe, lambda done, total: seen.append((done, total)))

        assert seen == [(number, 40) for number in range(1, 41)]

    def test_refuses_what_has_no_pictures(self, tmp_path: Path, recipe: Recipe) -> None:
        (tmp_path / "a.txt").write_text("text")

        with pytest.raises(InvalidRequest, match=r"fewer than two readable pictures \(1 unreadable\)"):
            load(tmp_path, recipe)
        with pytest.raises(InvalidRequest, match="neither a folder nor a zip file"):
            load(tmp_path / "a.txt", recipe)

    def test_the_held_out_pictures_depend_on_the_seed_alone(self) -> None:
        trained_on, held_out = split(100, 0.1, seed=4)

        assert sorted([*trained_on, *held_out]) == list(range(100))
        assert len(held_out) == 10
        assert np.array_equal(held_out, split(100, 0.1, seed=4)[1])
        assert not np.array_equal(held_out, split(100, 0.1, seed=5)[1])

    def test_both_halves_of_a_split_have_a_picture(self) -> None:
        assert [len(half) for half in split(2, 0.01, seed=0)] == [1, 1]
        assert [len(half) for half in split(2, 0.99, seed=0)] == [1, 1]


class TestLoop:
    def test_two_epochs_lower_the_loss(self, folder: Path, recipe: Recipe) -> None:
        pixels = load(folder, recipe).pixels
        torch.manual_seed(0)
        steps: list[Step] = []

        first, second = fit(Autoencoder(64), recipe, pixels[:32], pixels[32:], device=CPU, on_step=steps.append)

        assert second.train_loss < first.train_loss
        assert second.validation_loss < first.validation_loss
        assert second.best
        assert [step.pictures_seen for step in steps] == [8, 16, 24, 32, 40, 48, 56, 64]
        assert {step.pictures_total for step in steps} == {64}

    def test_an_epoch_that_is_worse_is_not_the_best(self, recipe: Recipe) -> None:
        white, black = np.full((16, 32, 32, 3), 255, np.uint8), np.zeros((4, 32, 32, 3), np.uint8)
        torch.manual_seed(0)

        first, second = fit(Autoencoder(64), recipe, white, black, device=CPU, on_step=lambda _: None)

        assert second.validation_loss > first.validation_loss
        assert (first.best, second.best) == (True, False)


class TestTraining:
    def test_leaves_a_checkpoint_that_encodes(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        outcome = run(recipe, folder, tmp_path / "encoders")

        manifest, weights = read(tmp_path / "encoders" / "tiny@1")
        assert manifest == outcome.manifest
        assert manifest.dimension == 64
        assert (manifest.training.data.trained_on, manifest.training.data.held_out) == (36, 4)
        codes = TorchEncoder(manifest, weights, "cpu").encode(load(folder, recipe).pixels)
        np.testing.assert_allclose(np.linalg.norm(codes, axis=1), 1, atol=1e-5)

    def test_the_same_seed_gives_the_same_weights(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        first = run(recipe, folder, tmp_path / "a").manifest
        again = run(recipe, folder, tmp_path / "b").manifest
        other = run(replace(recipe, seed=1), folder, tmp_path / "c").manifest

        assert first.weights_sha256 == again.weights_sha256
        assert first.weights_sha256 != other.weights_sha256

    def test_keeps_the_epoch_of_lowest_validation_loss(self, recipe: Recipe, tmp_path: Path) -> None:
        source = tmp_path / "pictures"
        source.mkdir()
        _, held_out = split(20, recipe.held_out, recipe.seed)
        for number in range(20):
            # Learning white makes black worse, so the first epoch is the best.
            colour = "black" if number in held_out else "white"
            Image.new("RGB", (32, 32), colour).save(source / f"{number:02}.png")
        epochs: list[Epoch] = []

        manifest = run(recipe, source, tmp_path / "encoders", epochs.append).manifest
        alone = run(replace(recipe, epochs=1), source, tmp_path / "alone").manifest

        assert epochs[1].validation_loss > epochs[0].validation_loss
        assert manifest.training.metrics["epoch"] == 1
        assert manifest.training.metrics["mse"] == epochs[0].validation_loss
        assert manifest.weights_sha256 == alone.weights_sha256

    def test_reports_losses_reconstructions_and_unreadable_files(
        self, folder: Path, recipe: Recipe, tmp_path: Path
    ) -> None:
        (folder / "notes.txt").write_text("not a picture")
        epochs: list[Epoch] = []

        outcome = run(recipe, folder, tmp_path / "encoders", epochs.append)

        report = outcome.folder / "report"
        losses = json.loads((report / "losses.json").read_text())
        assert [row["validation_loss"] for row in losses] == [epoch.validation_loss for epoch in epochs]
        assert json.loads((report / "unreadable.json").read_text())[0]["name"] == "notes.txt"
        for number in (1, 2):
            with Image.open(report / f"epoch-{number:02}.png") as figure:
                assert figure.size == (4 * 34 + 2, 2 * 34 + 2)

    def test_never_reuses_a_version(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        once = replace(recipe, epochs=1)

        refs = [run(once, folder, tmp_path / "encoders").manifest.ref for _ in range(2)]

        assert refs == ["tiny@1", "tiny@2"]

    def test_refuses_to_keep_what_diverged(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        with pytest.raises(EncoderError, match="diverged"):
            run(replace(recipe, learning_rate=1e30), folder, tmp_path / "encoders")

    @pytest.mark.parametrize("name", ["Mine", "../mine", "a@1", ""])
    def test_refuses_a_bad_name_before_it_reads_anything(self, recipe: Recipe, tmp_path: Path, name: str) -> None:
        with pytest.raises(InvalidRequest, match="cannot name an encoder"):
            run(recipe, tmp_path / "not there", tmp_path / "encoders", name=name)

    @pytest.mark.parametrize("name", RECIPES)
    def test_every_recipe_is_found_by_its_own_name(self, name: str) -> None:
        assert find_recipe(name).name == name

    def test_an_unknown_recipe_is_refused_with_the_known(self) -> None:
        with pytest.raises(NotFound, match="conv-ae-200"):
            find_recipe("magic")


class TestCommand:
    def test_trains_and_says_where(self, folder: Path, tmp_path: Path) -> None:
        output = tmp_path / "encoders"
        arguments = ["--recipe", "conv-ae-64", "--data", folder, "--output", output, "--epochs", "1", "--name", "mine"]

        result = CliRunner().invoke(train_command, [str(argument) for argument in [*arguments, "--device", "cpu"]])

        assert result.exit_code == 0, result.output
        assert "epoch  1: loss" in result.output
        assert str(output / "mine@1") in result.output
        assert read(output / "mine@1").manifest.training.data.description == "pictures"

    def test_says_in_one_line_what_is_wrong_with_the_data(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(train_command, ["--recipe", "conv-ae-64", "--data", str(tmp_path)])

        assert result.exit_code == 1
        assert "Error:" in result.output
        assert "fewer than two readable pictures" in result.output

    def test_without_torch_says_what_to_install(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)

        result = CliRunner().invoke(train_command, ["--recipe", "conv-ae-64", "--data", str(folder)])

        assert result.exit_code == 1
        assert "install akin[worker]" in result.output
