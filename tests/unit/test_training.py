"""What `akin train` promises, on a few generated pictures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from services.cli.recipes import recipes as recipes_command
from services.cli.train import train as train_command
from services.datasets.load import Dataset, load
from services.datasets.split import split
from services.encoders.checkpoint import Checkpoint, read, save
from services.encoders.pooling import Projection
from services.encoders.torch_encoder import LARGEST_PIXELS, TorchEncoder
from services.errors import Conflict, EncoderError, InvalidRequest, NotFound
from services.evaluation.metrics import label_metrics
from services.images.decode import Limits
from services.images.pool import DecodePool
from services.training import learner as learner_module
from services.training import run as run_module
from services.training.augmentation import Augmentation
from services.training.learner import Learner, encode, learner_for
from services.training.loop import Epoch, Step, fit
from services.training.partition import partition
from services.training.projection import Sample, whitened
from services.training.recipe import Contrastive, Metric, Optimiser, Recipe, Whitening
from services.training.recipes import RECIPES, find_recipe
from services.training.run import Outcome, Progress, Source, train
from services.training.state import identity_of
from tests.torch_threads import torch_threads

LIMITS = Limits(max_bytes=1_000_000, max_pixels=1_000_000)
CPU = torch.device("cpu")
SMALL = {"stem": 4, "stem_stride": 2, "widths": [8, 16], "blocks": [1, 1], "pool": "gem", "pooled_stages": 2}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Batches this small gain nothing from a second thread and wait for it on a busy machine."""
    with torch_threads(1):
        yield


@pytest.fixture
def recipe() -> Recipe:
    return replace(find_recipe("conv-ae-64"), epochs=2, batch_size=8)


def metric() -> Recipe:
    return replace(
        find_recipe("metric-photo"),
        options=SMALL,
        preprocessing=find_recipe("conv-ae-64").preprocessing,
        objective=Metric("normalised-softmax", Augmentation(), view_sizes=((0.5, 24), (1.0, 32)), per_class=None),
        epochs=2,
        batch_size=8,
        whitening=Whitening(4, Augmentation()),
    )


def contrastive(method: str) -> Recipe:
    return replace(
        find_recipe("contrastive-cifar"),
        options=SMALL,
        objective=Contrastive(method, Augmentation(jitter=0.8, hue=0.1), view_size=32),  # type: ignore[arg-type]
        optimiser=Optimiser("adamw", 1e-3),
        epochs=2,
        batch_size=8,
    )


EVERY_KIND = [
    replace(find_recipe("conv-ae-64"), epochs=2, batch_size=8),
    replace(find_recipe("fashion-ae-2d"), epochs=2, batch_size=8),
    metric(),
    replace(metric(), objective=replace(metric().objective, loss="triplet", per_class=4)),
    *(contrastive(method) for method in ("simclr", "vicreg", "byol", "fastsiam", "dino")),
]


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


def decoder() -> DecodePool:
    return DecodePool(1, 20, 2 * 1024**3, LIMITS)


def pictures_of(source: Path, recipe: Recipe) -> Dataset:
    with decoder() as pool:
        return load([str(source)], recipe.preprocessing, pool, progress=lambda *_: None)


def halves(source: Path, recipe: Recipe) -> tuple[Dataset, Dataset]:
    pictures = pictures_of(source, recipe)
    return pictures.take(np.arange(8, 40)), pictures.take(np.arange(8))


def seeded(recipe: Recipe) -> Learner:
    torch.manual_seed(recipe.seed)
    return learner_for(recipe, classes=2)


def fitted(
    learner: Learner,
    recipe: Recipe,
    data: tuple[Dataset, Dataset],
    state: Path,
    on_step: Callable[[Step], None] = lambda _: None,
    **more: Any,
) -> list[Epoch]:
    train_set, held_out = data
    epochs = fit(
        learner, recipe, train_set, held_out, device=CPU, state_path=state, identity="this", on_step=on_step, **more
    )
    return list(epochs)


def run(
    recipe: Recipe,
    source: Path,
    output: Path,
    on_epoch: Callable[[Epoch], Any] = lambda _: None,
    on_step: Callable[[Step], Any] = lambda _: None,
    on_resume: Callable[[Path, int], Any] = lambda *_: None,
    on_unfinished: Callable[[Path], Any] = lambda _: None,
    name: str = "tiny",
    taken: Sequence[int] = (),
) -> Outcome:
    progress = Progress(lambda *_: None, on_step, on_epoch, lambda *_: None, on_resume, on_unfinished)
    described = Source([str(source)], "gradients", "CC0-1.0")
    return train(recipe, described, output, decoder(), progress, name=name, device="cpu", taken=taken)


class Interrupted(Exception):
    """What stands in for the end of a process."""


def interrupt_after(count: int) -> Callable[[Step], None]:
    left = [count]

    def on_step(_: Step) -> None:
        left[0] -= 1
        if not left[0]:
            raise Interrupted

    return on_step


class TestLoop:
    def test_two_epochs_lower_the_loss(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        steps: list[Step] = []

        first, second = fitted(seeded(recipe), recipe, halves(folder, recipe), tmp_path / "state", steps.append)

        assert second.train_loss < first.train_loss
        assert second.validation_loss < first.validation_loss
        assert second.best
        assert [step.pictures_seen for step in steps][-1] == 64
        assert {step.pictures_total for step in steps} == {64}

    def test_an_epoch_that_is_worse_is_not_the_best(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        train_set, held_out = halves(folder, recipe)
        train_set.pixels[:], held_out.pixels[:] = 255, 0

        first, second = fitted(seeded(recipe), recipe, (train_set, held_out), tmp_path / "state")

        assert second.validation_loss > first.validation_loss
        assert (first.best, second.best) == (True, False)

    def test_patience_ends_a_training_that_gets_no_better(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        train_set, held_out = halves(folder, recipe)
        train_set.pixels[:], held_out.pixels[:] = 255, 0
        patient = replace(recipe, epochs=10, patience=2)

        epochs = fitted(seeded(recipe), patient, (train_set, held_out), tmp_path / "state")

        assert [epoch.best for epoch in epochs] == [True, False, False]

    def test_steps_may_end_in_the_middle_of_an_epoch(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        steps: list[Step] = []

        epochs = fitted(seeded(recipe), recipe, halves(folder, recipe), tmp_path / "state", steps.append, max_steps=5)

        assert [epoch.number for epoch in epochs] == [1, 2]
        assert (steps[-1].pictures_seen, steps[-1].pictures_total) == (40, 40)

    @pytest.mark.parametrize(
        "kind",
        EVERY_KIND,
        ids=lambda kind: f"{kind.name}-{getattr(kind.objective, 'method', getattr(kind.objective, 'loss', ''))}",
    )
    @pytest.mark.parametrize("steps", [3, 4], ids=["within an epoch", "between two"])
    def test_goes_on_after_an_interruption_with_the_same_result(
        self, folder: Path, kind: Recipe, steps: int, tmp_path: Path
    ) -> None:
        data = halves(folder, kind)
        whole = seeded(kind)
        expected = fitted(whole, kind, data, tmp_path / "whole")

        interrupted = seeded(kind)
        with pytest.raises(Interrupted):
            # The state is written after each step, and the next is told of before its own is.
            fitted(
                interrupted,
                kind,
                data,
                tmp_path / "cut",
                interrupt_after(steps + 1),
                checkpoint_seconds=-1,
                report_seconds=-1,
            )
        torch.manual_seed(9)
        resumed = learner_for(kind, classes=2)
        epochs = fitted(resumed, kind, data, tmp_path / "cut")

        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), name
        assert epochs[-1].validation_loss == expected[-1].validation_loss
        assert epochs[-1].train_loss == pytest.approx(expected[-1].train_loss, rel=1e-6)

    def test_does_not_go_on_with_another_training(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        data = halves(folder, recipe)
        fitted(seeded(recipe), recipe, data, tmp_path / "state")

        train_set, held_out = data
        with pytest.raises(Conflict, match="another training"):
            list(
                fit(
                    seeded(recipe),
                    recipe,
                    train_set,
                    held_out,
                    device=CPU,
                    state_path=tmp_path / "state",
                    identity="other",
                    on_step=lambda _: None,
                )
            )

    def test_a_damaged_state_is_named(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        (tmp_path / "state").write_bytes(b"not a state")

        with pytest.raises(EncoderError, match="state cannot be read"):
            fitted(seeded(recipe), recipe, halves(folder, recipe), tmp_path / "state")

    def test_only_networks_with_features_learn_otherwise_than_by_reconstruction(self) -> None:
        recipe = replace(metric(), architecture="conv-ae", options={"bottleneck": 8})

        with pytest.raises(EncoderError, match="by reconstruction only"):
            learner_for(recipe, classes=2)


def sample_of(count: int, inputs: int, noise: float = 0.1) -> Sample:
    """Vectors of unequal variance about two labels, and views that differ in the first direction most."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 2
    vectors = random.normal(size=(count, inputs)) * np.linspace(3, 1, inputs) + 5
    vectors[:, -1] += 2 * labels
    apart = random.normal(size=(count, inputs)) * noise
    apart[:, 0] *= 20
    return Sample(torch.from_numpy(vectors), torch.from_numpy(labels), torch.from_numpy(vectors + apart))


def share_of_first(projection: Projection, sample: Sample) -> float:
    """Part that the first direction of the inputs has in how the projected vectors vary."""
    total = torch.cov(projection(sample.vectors).T).trace()
    without = sample.vectors.clone()
    without[:, 0] = without[:, 0].mean()
    return 1 - float(torch.cov(projection(without).T).trace() / total)


class TestWhitening:
    def test_centres_and_gives_the_asked_number_of_uncorrelated_directions(self) -> None:
        sample = sample_of(500, 6)

        projected = whitened(sample, Whitening(4, Augmentation(), labels=0))(sample.vectors)

        covariance = torch.cov(projected.T)
        assert projected.shape == (500, 4)
        assert torch.allclose(projected.mean(0), torch.zeros(4), atol=1e-3)
        assert (covariance - covariance.diag().diag()).abs().max() < 1e-3 * covariance.max()
        assert torch.equal(covariance.diag(), covariance.diag().sort(descending=True).values)

    def test_without_labels_it_makes_disturbances_equal_in_all_directions(self) -> None:
        sample = sample_of(2_000, 5)
        apart = sample.vectors - sample.views
        # The same sum of what disturbs, from its definition.
        between, total = apart.T @ apart, torch.from_numpy(np.cov(sample.vectors.numpy().T))
        disturbing = between / between.trace() + 0.5 * total / total.trace()

        matrix = whitened(sample, Whitening(5, Augmentation(), labels=0)).matrix.double()

        assert torch.allclose(matrix @ disturbing @ matrix.T, torch.eye(5, dtype=torch.double), atol=1e-4)

    def test_plays_down_what_differs_between_views_of_a_picture(self) -> None:
        sample = sample_of(500, 6)
        untouched = share_of_first(Projection(6, 6), sample)

        assert share_of_first(whitened(sample, Whitening(6, Augmentation(), labels=0)), sample) < untouched / 5

    def test_plays_up_what_tells_labels_apart(self) -> None:
        sample = sample_of(500, 6)

        def apart(spec: Whitening) -> float:
            projected = whitened(sample, spec)(sample.vectors)
            means = [projected[sample.labels == label].mean(0) for label in (0, 1)]
            return float((means[0] - means[1]).norm() ** 2 / torch.cov(projected.T).trace())

        assert apart(Whitening(6, Augmentation(), labels=10)) > 2 * apart(Whitening(6, Augmentation(), labels=0))

    def test_unlabelled_pictures_tell_no_labels_apart(self) -> None:
        sample = sample_of(500, 6)
        unlabelled = sample._replace(labels=torch.full_like(sample.labels, -1))

        without = whitened(unlabelled, Whitening(6, Augmentation(), labels=10)).matrix

        assert torch.equal(without, whitened(unlabelled, Whitening(6, Augmentation(), labels=0)).matrix)

    def test_refuses_more_numbers_than_the_pictures_vary_in(self) -> None:
        with pytest.raises(EncoderError, match="vary in 4 directions of 16"):
            whitened(sample_of(5, 16), Whitening(8, Augmentation()))


def dataset_of(labels: list[int]) -> Dataset:
    """Pictures of one colour each, with these labels; -1 for none."""
    numbers = np.arange(len(labels))
    return Dataset(
        pixels=np.broadcast_to(numbers[:, None, None, None], (len(labels), 32, 32, 3)).astype(np.uint8),
        labels=np.array(labels),
        classes=tuple(f"label-{label}" for label in range(max(labels) + 1)),
        names=tuple(f"{number:03}.png" for number in numbers),
        unreadable=[],
        sha256="0" * 64,
    )


class TestValidation:
    @pytest.mark.parametrize("kind", [metric(), contrastive("simclr")], ids=["metric", "contrastive"])
    def test_compares_pictures_of_all_labels(self, kind: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sets are sorted by label: the first pictures of many are of the first labels."""
        seen: list[int] = []
        monkeypatch.setattr(learner_module, "COMPARED", 20)
        monkeypatch.setattr(
            learner_module,
            "label_metrics",
            lambda *arguments, **named: seen.extend(arguments[1]) or label_metrics(*arguments, **named),
        )
        held_out = dataset_of([number // 10 for number in range(100)])
        learner = learner_for(kind, classes=10).eval()

        learner.validate(held_out, CPU)

        assert len(seen) == 20
        assert set(seen) == set(range(10))

    def test_large_pictures_are_encoded_few_at_a_time(self) -> None:
        counts: list[int] = []
        preprocessing = find_recipe("vgg-ae-448").preprocessing
        pixels = np.zeros((50, 448, 448, 3), np.uint8)

        encode(lambda pictures: counts.append(len(pictures)) or pictures.mean((2, 3)), pixels, preprocessing, CPU)  # type: ignore[func-returns-value]

        assert sum(counts) == 50
        assert max(counts) * 448**2 <= LARGEST_PIXELS


class TestPartition:
    @pytest.mark.parametrize("labels", [[-1] * 20, [0] * 20, [-1] * 10 + [0] * 10, list(range(20))])
    def test_learning_from_labels_needs_two_with_several_pictures(self, labels: list[int]) -> None:
        with pytest.raises(InvalidRequest, match="one folder a class or item, several into at least two"):
            partition(dataset_of(labels), metric())

    def test_pictures_without_a_label_are_left_out_where_labels_teach(self) -> None:
        train_set, held_out = partition(dataset_of([0, 1] * 30 + [-1] * 5), metric())

        assert len(train_set) + len(held_out) == 60
        assert [item.name for item in held_out.unreadable] == [f"{number:03}.png" for number in range(60, 65)]

    def test_items_with_few_pictures_are_held_out_whole(self) -> None:
        pictures = dataset_of([number // 3 for number in range(90)])

        train_set, held_out = partition(pictures, metric())

        assert set(train_set.labels).isdisjoint(held_out.labels)
        assert len(held_out) == 9
        assert (np.bincount(held_out.labels)[np.unique(held_out.labels)] == 3).all()

    def test_large_classes_are_on_both_sides(self) -> None:
        train_set, held_out = partition(dataset_of([0, 1] * 40), metric())

        assert set(train_set.labels) == set(held_out.labels) == {0, 1}

    @pytest.mark.parametrize("count", [2, 3, 4, 8, 10, 30])
    @pytest.mark.parametrize("labels", [2, 3, 4])
    def test_of_few_labels_two_pictures_of_one_are_held_out(self, labels: int, count: int) -> None:
        """Otherwise no picture would have another to be looked for, and no epoch would be better than another."""
        pictures = dataset_of(sorted(list(range(labels)) * count))
        for seed in range(5):
            kind = replace(metric(), seed=seed)
            try:
                _, held_out = partition(pictures, kind)
            except InvalidRequest as error:
                assert f"at least {2 * (labels + 1)} pictures, found {len(pictures)}" in str(error)
            else:
                assert np.bincount(held_out.labels).max() > 1
        assert len(pictures) < 2 * (labels + 1) or partition(pictures, metric())

    def test_contrasts_have_two_pictures_on_either_side(self) -> None:
        train_set, held_out = partition(dataset_of([0] * 5), contrastive("simclr"))

        assert (len(train_set), len(held_out)) == (3, 2)
        with pytest.raises(InvalidRequest, match="at least 4 pictures, found 3"):
            partition(dataset_of([0] * 3), contrastive("simclr"))


class TestRevision:
    @pytest.fixture
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A module in a repository, as if it were the one that asks."""
        path = tmp_path / "repository" / "services" / "training" / "run.py"
        path.parent.mkdir(parents=True)
        path.touch()
        self.git(path, "init", "--quiet")
        monkeypatch.setattr(run_module, "__file__", str(path))
        return path

    def git(self, module: Path, *arguments: str) -> None:
        author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        subprocess.run(["git", *author, *arguments], cwd=module.parents[2], check=True)

    def test_is_the_commit_and_says_whether_any_of_the_code_has_changes(self, module: Path) -> None:
        self.git(module, "add", ".")
        self.git(module, "commit", "--quiet", "--message", "all")

        clean = run_module._git_revision()
        (module.parents[1] / "decode.py").touch()
        changed = run_module._git_revision()

        assert clean is not None and re.fullmatch(r"[0-9a-f]{40}", clean)
        assert changed == f"{clean}-dirty"

    def test_of_code_that_is_installed_in_the_repository_of_others_is_none(self, module: Path) -> None:
        self.git(module, "commit", "--quiet", "--allow-empty", "--message", "theirs")

        assert run_module._git_revision() is None


class TestTraining:
    def test_too_few_pictures_for_the_embedding_are_told_before_the_training(
        self, folder: Path, tmp_path: Path
    ) -> None:
        wide = replace(metric(), whitening=Whitening(40, Augmentation()))
        epochs: list[Epoch] = []

        with pytest.raises(InvalidRequest, match="embeddings of 40 numbers, which needs more pictures than that"):
            run(wide, folder, tmp_path / "encoders", epochs.append)
        assert epochs == []

    def test_progress_is_never_beyond_the_end(self, folder: Path, tmp_path: Path) -> None:
        """Batches of several pictures of each label take some pictures twice."""
        balanced = replace(metric(), objective=replace(metric().objective, loss="triplet", per_class=8), batch_size=16)
        steps: list[Step] = []

        run(balanced, folder, tmp_path / "encoders", on_step=steps.append)

        seen = [step.pictures_seen for step in steps]
        assert seen == sorted(seen)
        assert seen[-1] == steps[-1].pictures_total

    def test_a_set_of_single_pictures_can_be_learned_from_without_labels(self, tmp_path: Path) -> None:
        random = np.random.default_rng(0)
        for number in range(12):
            path = tmp_path / "shop" / f"item-{number}" / "front.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)

        outcome = run(replace(contrastive("vicreg"), batch_size=4), tmp_path / "shop", tmp_path / "encoders")

        assert "precision@10" not in outcome.manifest.training.metrics

    def test_equal_pictures_do_not_end_it(self, recipe: Recipe, tmp_path: Path) -> None:
        (tmp_path / "white").mkdir()
        for number in range(14):
            Image.new("RGB", (32, 32), "white").save(tmp_path / "white" / f"{number}.png")

        assert run(recipe, tmp_path / "white", tmp_path / "encoders").report.exists()

    def test_a_latent_plane_is_drawn_while_it_is_trained(self, folder: Path, tmp_path: Path) -> None:
        recipe = replace(find_recipe("fashion-ae-2d"), epochs=2, batch_size=8)

        report = run(recipe, folder, tmp_path / "encoders").report

        assert {path.name for path in report.parent.glob("*.png")} == {
            "latent.png", "plane.png", "reconstructions-001.png", "reconstructions-002.png", "scatter-001.png",
            "scatter-002.png",
        }  # fmt: skip
        assert "While it was trained" in report.read_text()

    def test_two_processes_are_not_at_the_same_training(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        def train_too(step: Step) -> None:
            with pytest.raises(Conflict, match="another process is training tiny@1"):
                run(recipe, folder, tmp_path / "encoders")
            raise Interrupted

        with pytest.raises(Interrupted):
            run(recipe, folder, tmp_path / "encoders", on_step=train_too)

    def test_a_training_that_cannot_begin_leaves_no_version(self, tmp_path: Path, folder: Path) -> None:
        with pytest.raises(EncoderError):
            run(replace(metric(), architecture="conv-ae", options={"bottleneck": 8}), folder, tmp_path / "encoders")

        assert not (tmp_path / "encoders").exists()

    def test_versions_that_are_registered_are_not_given_again(
        self, folder: Path, recipe: Recipe, tmp_path: Path
    ) -> None:
        once = replace(recipe, epochs=1)

        assert run(once, folder, tmp_path / "encoders", taken=[1, 4]).manifest.version == 5

    def test_leaves_a_checkpoint_that_encodes(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        outcome = run(recipe, folder, tmp_path / "encoders")

        manifest, weights = read(tmp_path / "encoders" / "tiny@1")
        assert manifest == outcome.manifest
        assert manifest.dimension == 64
        assert (manifest.training.data.trained_on, manifest.training.data.held_out) == (36, 4)
        codes = TorchEncoder(manifest, weights, "cpu").encode(pictures_of(folder, recipe).pixels)
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
        assert manifest.training.metrics["loss"] == epochs[0].validation_loss
        assert manifest.weights_sha256 == alone.weights_sha256

    def test_reports_epochs_reconstructions_and_unreadable_files(
        self, folder: Path, recipe: Recipe, tmp_path: Path
    ) -> None:
        (folder / "notes.txt").write_text("not a picture")
        epochs: list[Epoch] = []

        outcome = run(recipe, folder, tmp_path / "encoders", epochs.append)

        facts = json.loads((outcome.report.parent / "report.json").read_text())
        assert [row["validation_loss"] for row in facts["epochs"]] == [epoch.validation_loss for epoch in epochs]
        assert facts["unreadable"][0]["name"] == "notes.txt"
        page = outcome.report.read_text()
        assert page.count("data:image/png;base64,") == 3  # reconstructions of two epochs, the latent space
        assert page.count("data:image/webp;base64,") > 12  # queries and what they find
        assert not re.search(r"(src|href|url)[=(]\W?http", page)  # nothing is fetched from anywhere
        assert "notes.txt" in page

    @pytest.mark.parametrize("kind", [metric(), contrastive("simclr")], ids=["whitened", "not whitened"])
    def test_leaves_encoders_of_the_declared_dimension(self, folder: Path, kind: Recipe, tmp_path: Path) -> None:
        outcome = run(kind, folder, tmp_path / "encoders")

        manifest, weights = read(outcome.folder)
        assert manifest.dimension == (4 if kind.whitening else 24)
        codes = TorchEncoder(manifest, weights, "cpu").encode(pictures_of(folder, kind).pixels)
        assert codes.shape == (40, manifest.dimension)
        np.testing.assert_allclose(np.linalg.norm(codes, axis=1), 1, atol=1e-5)
        assert "precision@10" in manifest.training.metrics

    def test_goes_on_with_an_interrupted_training_of_the_same_recipe_and_pictures(
        self, folder: Path, recipe: Recipe, tmp_path: Path
    ) -> None:
        output, resumed, passed_over = tmp_path / "encoders", [], []
        whole = run(recipe, folder, tmp_path / "whole").manifest

        def stop_in_the_second_epoch(step: Step) -> None:
            if step.epoch == 2:
                raise Interrupted

        with pytest.raises(Interrupted):
            run(recipe, folder, output, on_step=stop_in_the_second_epoch)
        other = run(replace(recipe, epochs=1), folder, output, on_unfinished=passed_over.append).manifest
        reworded = replace(recipe, summary="the same in other words")
        manifest = run(reworded, folder, output, on_resume=lambda *told: resumed.append(told)).manifest

        assert passed_over == [output / "tiny@1"]
        assert resumed == [(output / "tiny@1", 1)]
        assert (manifest.ref, other.ref) == ("tiny@1", "tiny@2")
        assert manifest.weights_sha256 == whole.weights_sha256
        assert identity_of(output / "tiny@1" / "state.safetensors") is None

    def test_a_crash_in_the_last_write_does_not_cost_the_training(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, output = run(metric(), folder, tmp_path / "whole").manifest, tmp_path / "encoders"
        epochs: list[Epoch] = []

        def half_of_the_last(target: Path, checkpoint: Checkpoint) -> None:
            save(target, checkpoint)
            if "dimension" in checkpoint.manifest.options:
                (target / "manifest.json").write_text("{}")
                raise Interrupted

        with monkeypatch.context() as crashing:
            crashing.setattr(run_module, "save", half_of_the_last)
            with pytest.raises(Interrupted):
                run(metric(), folder, output)
        manifest = run(metric(), folder, output, epochs.append).manifest

        assert epochs == []  # nothing is trained again
        assert manifest.weights_sha256 == whole.weights_sha256
        assert read(output / "tiny@1").manifest == manifest
        assert {path.name for path in (output / "tiny@1").iterdir()} == {
            "manifest.json", "weights.safetensors", "report",
        }  # fmt: skip

    def test_never_reuses_a_version(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        once = replace(recipe, epochs=1)

        refs = [run(once, folder, tmp_path / "encoders").manifest.ref for _ in range(2)]

        assert refs == ["tiny@1", "tiny@2"]

    def test_refuses_to_keep_what_diverged(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        with pytest.raises(EncoderError, match="diverged"):
            run(replace(recipe, optimiser=Optimiser("adam", 1e30)), folder, tmp_path / "encoders")

    @pytest.mark.parametrize("name", ["Mine", "../mine", "a@1", "", "a" * 65])
    def test_refuses_a_bad_name_before_it_reads_anything(self, recipe: Recipe, tmp_path: Path, name: str) -> None:
        with pytest.raises(InvalidRequest, match="cannot name an encoder"):
            run(recipe, tmp_path / "not there", tmp_path / "encoders", name=name)

    @pytest.mark.parametrize("name", RECIPES)
    def test_every_recipe_trains(self, folder: Path, name: str, tmp_path: Path) -> None:
        whole = find_recipe(name)
        # The networks as they are, on fewer and smaller pictures than they are meant for.
        recipe = replace(
            whole,
            preprocessing=whole.preprocessing.model_copy(update={"size": 32}),
            batch_size=8,
            epochs=1,
            whitening=whole.whitening and replace(whole.whitening, dimension=8),
        )

        outcome = run(recipe, folder, tmp_path / "encoders")

        codes = TorchEncoder(*read(outcome.folder), "cpu").encode(pictures_of(folder, recipe).pixels)
        assert codes.shape == (40, outcome.manifest.dimension)
        assert outcome.manifest.training.recipe == name

    def test_an_unknown_recipe_is_refused_with_the_known(self) -> None:
        with pytest.raises(NotFound, match="conv-ae-200"):
            find_recipe("magic")


class TestCommand:
    @pytest.fixture(autouse=True)
    def own_data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AKIN_DATA_DIR", str(tmp_path / "data"))

    def test_trains_and_says_where(self, folder: Path, tmp_path: Path) -> None:
        output = tmp_path / "encoders"
        arguments = ["--recipe", "conv-ae-64", "--data", folder, "--output", output, "--epochs", "1", "--name", "mine"]

        result = CliRunner().invoke(train_command, [str(argument) for argument in [*arguments, "--device", "cpu"]])

        assert result.exit_code == 0, result.output
        assert "epoch  1: loss" in result.output
        assert str(output / "mine@1") in result.output
        assert read(output / "mine@1").manifest.training.data.description == "pictures"

    def test_lists_every_recipe(self) -> None:
        result = CliRunner().invoke(recipes_command, [])

        assert result.exit_code == 0
        assert all(name in result.output for name in RECIPES)

    def test_says_in_one_line_what_is_wrong_with_the_data(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()

        result = CliRunner().invoke(train_command, ["--recipe", "conv-ae-64", "--data", str(tmp_path / "empty")])

        assert result.exit_code == 1
        assert "Error:" in result.output
        assert "has no files" in result.output

    def test_without_torch_says_what_to_install(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)

        result = CliRunner().invoke(train_command, ["--recipe", "conv-ae-64", "--data", str(folder)])

        assert result.exit_code == 1
        assert "pip install 'akin[worker,train]'" in result.output
