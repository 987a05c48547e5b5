"""Objectives of training, each against its paper's formula in plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations, permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from services.errors import InvalidRequest
from services.training.contrastive import ContrastiveObjective
from services.training.metric import MetricObjective, balanced_batches
from tests.torch_threads import torch_threads

TEMPERATURE = 0.2
METHODS = ("simclr", "vicreg", "byol", "fastsiam", "dino")
LOSSES = ("proxy-anchor", "triplet", "multi-similarity", "normalised-softmax")
WIDTH = 8


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> Iterator[None]:
    torch.manual_seed(0)
    with torch_threads(1):
        yield


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, WIDTH, 3, stride=2), nn.BatchNorm2d(WIDTH), nn.ReLU())

    def features(self, pictures: Tensor) -> Tensor:
        return self.body(pictures).mean((2, 3))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.features(pictures)


def some_views(count: int, pictures: int = 6) -> list[Tensor]:
    return [torch.randn(pictures, 3, 10, 10) for _ in range(count)]


def mean(terms: list[Tensor]) -> Tensor:
    return sum(terms, torch.zeros(())) / len(terms)


def simclr(objective: ContrastiveObjective, views: list[Tensor]) -> Tensor:
    def nt_xent(first: Tensor, second: Tensor) -> Tensor:
        every = [*first, *second]
        count, terms = len(first), []
        for i, anchor in enumerate(every):
            scores = {
                k: cosine_similarity(anchor, other, dim=0) / TEMPERATURE for k, other in enumerate(every) if k != i
            }
            positive = scores[(i + count) % (2 * count)]
            terms.append(-torch.log(positive.exp() / sum(score.exp() for score in scores.values())))
        return mean(terms)

    projected = [objective.method.student(view) for view in views]
    return mean([nt_xent(a, b) for a, b in combinations(projected, 2)])


def vicreg(objective: ContrastiveObjective, views: list[Tensor]) -> Tensor:
    def term(first: Tensor, second: Tensor) -> Tensor:
        count, width = first.shape
        invariance = mean([(a - b).square().mean() for a, b in zip(first, second, strict=True)])
        variance = covariance = torch.zeros(())
        for numbers in (first, second):
            centred = numbers - numbers.mean(0)
            matrix = sum(torch.outer(row, row) for row in centred) / (count - 1)
            spread = (matrix.diagonal() + 1e-4).sqrt()
            variance = variance + torch.relu(1 - spread).sum() / width / 2
            covariance = covariance + (matrix.square().sum() - matrix.diagonal().square().sum()) / width
        return 25 * invariance + 25 * variance + covariance

    projected = [objective.method.student(view) for view in views]
    return mean([term(a, b) for a, b in combinations(projected, 2)])


def byol(objective: ContrastiveObjective, views: list[Tensor]) -> Tensor:
    terms = []
    for one, other in permutations(views, 2):
        predicted = objective.method.predictor(objective.method.student(one))
        wanted = objective.method.teacher(other).detach()
        terms += [-cosine_similarity(p, w, dim=0) for p, w in zip(predicted, wanted, strict=True)]
    return mean(terms)


def fastsiam(objective: ContrastiveObjective, views: list[Tensor]) -> Tensor:
    projected = [objective.method.student(view) for view in views]
    terms = []
    for number, projection in enumerate(projected):
        others = [other.detach() for place, other in enumerate(projected) if place != number]
        predicted = objective.method.predictor(projection)
        for row, prediction in enumerate(predicted):
            terms.append(-cosine_similarity(prediction, mean([other[row] for other in others]), dim=0))
    return mean(terms)


def dino(objective: ContrastiveObjective, views: list[Tensor]) -> Tensor:
    centre = objective.state_dict()["method._criterion.center"].flatten().clone()
    wanted = [objective.method.teacher(view).detach() for view in views[:2]]
    given = [objective.method.student(view) for view in views]
    terms = []
    for (t, teacher), (s, student) in product(enumerate(wanted), enumerate(given)):
        if t != s:
            for right, guess in zip(teacher, student, strict=True):
                share = ((right - centre) / 0.04).softmax(0)
                terms.append(-(share * (guess / 0.1).log_softmax(0)).sum())
    return mean(terms)


REFERENCES: dict[str, Callable[[ContrastiveObjective, list[Tensor]], Tensor]] = {
    "simclr": simclr,
    "vicreg": vicreg,
    "byol": byol,
    "fastsiam": fastsiam,
    "dino": dino,
}


def gradients(loss: Tensor, module: nn.Module) -> dict[str, Tensor]:
    module.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}


class TestContrastive:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("count", [2, 4])
    def test_loss_and_gradients_are_those_of_the_paper(self, method: str, count: int) -> None:
        objective = ContrastiveObjective(method, Encoder(), WIDTH, views=count, temperature=TEMPERATURE)
        objective.loss(some_views(count)).backward()
        objective.after_step(0.5)
        views = some_views(count)

        expected = REFERENCES[method](objective, views)
        expected_gradients = gradients(expected, objective)
        found = objective.loss(views)
        found_gradients = gradients(found, objective)

        torch.testing.assert_close(found, expected)
        assert found_gradients.keys() == expected_gradients.keys()
        for name, gradient in found_gradients.items():
            torch.testing.assert_close(gradient, expected_gradients[name], atol=2e-5, rtol=1e-3)

    @pytest.mark.parametrize("method", METHODS)
    def test_the_given_encoder_learns(self, method: str) -> None:
        encoder = Encoder()
        objective = ContrastiveObjective(method, encoder, WIDTH, views=2)
        before = encoder.body[0].weight.detach().clone()
        optimiser = torch.optim.Adam([value for value in objective.parameters() if value.requires_grad], 1e-3)
        pictures = torch.randn(16, 3, 10, 10)
        losses = []

        for step in range(12):
            loss = objective.loss([pictures + 0.1 * torch.randn_like(pictures) for _ in range(2)])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            objective.after_step(step / 12)
            losses.append(loss.item())

        assert losses[-1] < losses[0]
        assert not torch.equal(encoder.body[0].weight, before)

    @pytest.mark.parametrize("method", ["byol", "dino"])
    def test_the_teacher_follows_by_a_moving_average_alone(self, method: str) -> None:
        objective = ContrastiveObjective(method, Encoder(), WIDTH, views=2)
        student, teacher = objective.method.student, objective.method.teacher
        with torch.no_grad():
            for value in student.parameters():
                value.add_(torch.randn_like(value))
        for progress, momentum in ((0.0, 0.996), (0.5, 0.998), (1.0, 1.0)):
            former = [value.clone() for value in teacher.parameters()]

            objective.after_step(progress)

            for old, new, followed in zip(former, teacher.parameters(), student.parameters(), strict=True):
                torch.testing.assert_close(new, momentum * old + (1 - momentum) * followed)
        objective.loss(some_views(2)).backward()
        assert all(value.grad is None and not value.requires_grad for value in teacher.parameters())

    @pytest.mark.parametrize("method", ["byol", "dino"])
    def test_the_teacher_starts_as_the_student(self, method: str) -> None:
        objective = ContrastiveObjective(method, Encoder(), WIDTH, views=2)
        (view,) = some_views(1)

        torch.testing.assert_close(objective.method.teacher(view), objective.method.student(view))

    def test_the_centre_of_dino_follows_training_only(self) -> None:
        objective = ContrastiveObjective("dino", Encoder(), WIDTH, views=2)
        views = some_views(2)
        objective.eval()
        with torch.inference_mode():
            objective.loss(views)
        assert objective.state_dict()["method._criterion.center"].abs().max() == 0

        objective.train()
        objective.loss(views).backward()

        answers = torch.cat([objective.method.teacher(view) for view in views])
        torch.testing.assert_close(objective.state_dict()["method._criterion.center"].flatten(), 0.1 * answers.mean(0))

    def test_a_dino_student_sees_small_views_too(self) -> None:
        objective = ContrastiveObjective("dino", Encoder(), WIDTH, views=4)
        views = [*some_views(2), *(torch.randn(6, 3, 5, 5) for _ in range(2))]

        expected = dino(objective, views)

        torch.testing.assert_close(objective.loss(views), expected)

    @pytest.mark.parametrize("method", METHODS)
    def test_a_method_of_the_encoder_serves_as_its_features(self, method: str) -> None:
        encoder = Encoder()
        torch.manual_seed(1)
        of_module = ContrastiveObjective(method, encoder, WIDTH, views=2)
        torch.manual_seed(1)
        of_method = ContrastiveObjective(method, encoder.features, WIDTH, views=2)
        views = some_views(2)

        torch.testing.assert_close(of_method.loss(views), of_module.loss(views))
        assert of_method.state_dict().keys() == of_module.state_dict().keys()

    @pytest.mark.parametrize("method", METHODS)
    def test_its_state_continues_elsewhere(self, method: str) -> None:
        first = ContrastiveObjective(method, Encoder(), WIDTH, views=2)
        first.loss(some_views(2)).backward()
        first.after_step(0)
        second = ContrastiveObjective(method, Encoder(), WIDTH, views=2)
        second.load_state_dict(first.state_dict())
        views = some_views(2)

        assert torch.equal(first.loss(views), second.loss(views))
        assert first.state_dict().keys() == second.state_dict().keys()
        for name, value in first.state_dict().items():
            assert torch.equal(value, second.state_dict()[name])

    @pytest.mark.parametrize("method", METHODS)
    def test_half_precision_ends_before_the_loss(self, method: str) -> None:
        objective = ContrastiveObjective(method, Encoder(), WIDTH, views=2)
        views = some_views(2)

        exact = objective.loss(views)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = objective.loss(views)

        assert mixed.dtype == torch.float32
        torch.testing.assert_close(mixed, exact, atol=0.02, rtol=0.02)

    def test_wrong_use_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match=r"unknown contrastive method 'moco': there are simclr, .*dino"):
            ContrastiveObjective("moco", Encoder(), WIDTH, views=2)
        with pytest.raises(InvalidRequest, match="at least 2, not 1"):
            ContrastiveObjective("byol", Encoder(), WIDTH, views=1)
        with pytest.raises(ValueError, match="expected 3 views, got 2"):
            ContrastiveObjective("byol", Encoder(), WIDTH, views=3).loss(some_views(2))


def proxy_anchor(embeddings: Tensor, labels: Tensor, parameters: list[Tensor]) -> Tensor:
    (proxies,) = parameters
    positive, negative = [], []
    for label, proxy in enumerate(proxies):
        scores = [cosine_similarity(proxy, embedding, dim=0) for embedding in embeddings]
        own = [torch.exp(-32 * (s - 0.1)) for s, other in zip(scores, labels, strict=True) if other == label]
        others = [torch.exp(32 * (s + 0.1)) for s, other in zip(scores, labels, strict=True) if other != label]
        if own:
            positive.append(torch.log(1 + sum(own)))
        negative.append(torch.log(1 + sum(others)))
    return mean(positive) + mean(negative)


def triplet(embeddings: Tensor, labels: Tensor, parameters: list[Tensor]) -> Tensor:
    unit, terms = normalize(embeddings), []
    for anchor, positive, negative in product(range(len(unit)), repeat=3):
        if anchor != positive and labels[anchor] == labels[positive] != labels[negative]:
            near = (unit[anchor] - unit[positive]).square().sum()
            far = (unit[anchor] - unit[negative]).square().sum()
            if near < far < near + 0.2:
                terms.append(near - far + 0.2)
    return mean(terms)


def multi_similarity(embeddings: Tensor, labels: Tensor, parameters: list[Tensor]) -> Tensor:
    terms = []
    for place, anchor in enumerate(embeddings):
        scores = {i: cosine_similarity(anchor, other, dim=0) for i, other in enumerate(embeddings) if i != place}
        own = [score for i, score in scores.items() if labels[i] == labels[place]]
        others = [score for i, score in scores.items() if labels[i] != labels[place]]
        hard_own = [score for score in own if score - 0.1 < max(others)]
        hard_others = [score for score in others if score + 0.1 > min(own, default=math.inf)]
        pull = torch.log(1 + sum((torch.exp(-2 * (s - 0.5)) for s in hard_own), torch.zeros(()))) / 2
        push = torch.log(1 + sum((torch.exp(50 * (s - 0.5)) for s in hard_others), torch.zeros(()))) / 50
        terms.append(pull + push)
    return mean(terms)


def normalised_softmax(embeddings: Tensor, labels: Tensor, parameters: list[Tensor]) -> Tensor:
    (weights,) = parameters
    terms = []
    for embedding, label in zip(embeddings, labels, strict=True):
        scores = torch.stack([cosine_similarity(embedding, weight, dim=0) / 0.05 for weight in weights.T])
        terms.append(-torch.log(scores[label].exp() / scores.exp().sum()))
    return mean(terms)


METRIC_REFERENCES: dict[str, Callable[[Tensor, Tensor, list[Tensor]], Tensor]] = {
    "proxy-anchor": proxy_anchor,
    "triplet": triplet,
    "multi-similarity": multi_similarity,
    "normalised-softmax": normalised_softmax,
}


class TestMetric:
    LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 3, 3, 3, 3])

    def gap(self, embeddings: Tensor) -> float:
        """How much more alike embeddings of one label are than those of two, by cosine."""
        unit = normalize(embeddings.detach())
        scores, same = unit @ unit.T, self.LABELS[:, None] == self.LABELS
        other = ~torch.eye(len(unit), dtype=torch.bool)
        return (scores[same & other].mean() - scores[~same].mean()).item()

    @pytest.mark.parametrize("name", LOSSES)
    def test_loss_and_gradients_are_those_of_the_paper(self, name: str) -> None:
        objective = MetricObjective(name, WIDTH, classes=5)
        embeddings = torch.randn(10, WIDTH, requires_grad=True)
        inputs = [embeddings, *objective.parameters()]

        found = objective.loss(embeddings, self.LABELS)
        expected = METRIC_REFERENCES[name](embeddings, self.LABELS, list(objective.parameters()))

        assert found.item() > 0
        torch.testing.assert_close(found, expected)
        for gradient, wanted in zip(
            torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True
        ):
            torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-3)

    @pytest.mark.parametrize("name", LOSSES)
    def test_only_directions_matter(self, name: str) -> None:
        objective = MetricObjective(name, WIDTH, classes=5)
        embeddings = torch.randn(10, WIDTH)
        lengths = torch.rand(10, 1) + 0.5

        torch.testing.assert_close(
            objective.loss(embeddings * lengths, self.LABELS), objective.loss(embeddings, self.LABELS)
        )

    @pytest.mark.parametrize("name", LOSSES)
    def test_it_separates_labels(self, name: str) -> None:
        objective = MetricObjective(name, WIDTH, classes=5)
        embeddings = torch.randn(10, WIDTH, requires_grad=True)
        optimiser = torch.optim.Adam([embeddings, *objective.parameters()], 0.05)
        before = self.gap(embeddings)

        for _ in range(300):
            optimiser.zero_grad()
            objective.loss(embeddings, self.LABELS).backward()
            optimiser.step()

        assert self.gap(embeddings) > before + 0.4

    @pytest.mark.parametrize("name", LOSSES)
    def test_a_batch_of_one_label_or_of_strangers_can_be_learnt_from(self, name: str) -> None:
        objective = MetricObjective(name, WIDTH, classes=5)
        embeddings = torch.randn(4, WIDTH, requires_grad=True)

        for labels in (torch.tensor([2, 2, 2, 2]), torch.tensor([0, 1, 2, 3])):
            loss = objective.loss(embeddings, labels)
            loss.backward()
            assert loss.isfinite()

    @pytest.mark.parametrize("name", LOSSES)
    def test_half_precision_ends_before_the_loss(self, name: str) -> None:
        objective = MetricObjective(name, WIDTH, classes=5)
        embeddings = torch.randn(10, WIDTH).bfloat16()

        with torch.autocast("cpu", torch.bfloat16):
            mixed = objective.loss(embeddings, self.LABELS)

        assert mixed.dtype == torch.float32
        torch.testing.assert_close(mixed, objective.loss(embeddings.float(), self.LABELS))

    def test_wrong_use_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match=r"unknown metric loss 'arcface': there are proxy-anchor"):
            MetricObjective("arcface", WIDTH, classes=5)
        with pytest.raises(InvalidRequest, match="at least two labels, found 1"):
            MetricObjective("triplet", WIDTH, classes=1)


class TestBalancedBatches:
    LABELS = np.repeat(np.arange(6), [40, 40, 40, 40, 37, 3])

    def batches(self, labels: np.ndarray = LABELS, size: int = 16, each: int = 4, **more: Any) -> list[np.ndarray]:
        return list(balanced_batches(labels, size, each, **{"seed": 0, "epoch": 1, **more}))

    def test_every_class_of_a_batch_has_its_number_of_pictures(self) -> None:
        batches = self.batches()

        assert len(batches) == math.ceil(200 / 16)
        for batch in batches:
            assert len(batch) == 16
            counts = np.bincount(self.LABELS[batch])
            assert set(counts % 4) == {0}
            assert counts.max() <= 16

    def test_an_epoch_takes_nearly_every_picture_once(self) -> None:
        taken = np.bincount(np.concatenate(self.batches()), minlength=200)

        # 200 pictures make 51 groups of four, of which the last batch begins the round again.
        assert (taken >= 1).mean() > 0.97
        assert (taken[:160] <= 2).all()
        assert taken.sum() == 13 * 16

    def test_a_class_that_is_too_small_lends_its_pictures_twice(self) -> None:
        labels = np.array([0, 0, 1, 1, 1, 1, 1])

        (batch,) = self.batches(labels, 8, 4)

        assert sorted(np.bincount(labels[batch])) == [4, 4]

    def test_a_group_has_no_picture_twice_where_there_are_others(self) -> None:
        labels = np.repeat([0, 1], [5, 6])

        for epoch in range(20):
            for batch in self.batches(labels, 8, 4, epoch=epoch):
                for group in batch.reshape(-1, 4):
                    assert len(set(group)) == 4

    def test_seed_and_epoch_decide(self) -> None:
        first = np.concatenate(self.batches())

        assert np.array_equal(np.concatenate(self.batches()), first)
        assert not np.array_equal(np.concatenate(self.batches(epoch=2)), first)
        assert not np.array_equal(np.concatenate(self.batches(seed=1)), first)

    def test_pictures_without_a_label_are_left_out(self) -> None:
        labels = np.array([-1, 0, 0, 1, 1, -1])

        assert set(np.concatenate(self.batches(labels, 4, 2))) == {1, 2, 3, 4}

    def test_what_cannot_be_balanced_is_refused(self) -> None:
        for size, each in ((7, 4), (4, 1), (4, 0)):
            with pytest.raises(InvalidRequest, match=f"a batch of {size} has no room"):
                self.batches(self.LABELS, size, each)
        with pytest.raises(InvalidRequest, match="at least two labels, found 1"):
            self.batches(np.zeros(9, np.int64))
