"""The training loop: epochs of steps, with a state to go on from after an interruption."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from services.datasets.load import Dataset
from services.errors import EncoderError
from services.training.learner import Learner, batch_of
from services.training.recipe import Optimiser, Recipe
from services.training.state import State, read_state, write_state


@dataclass(frozen=True)
class Step:
    """How far the training is, after one batch; `loss` is the mean over the epoch so far.

    An epoch counts as many pictures as there are, also where its batches take some twice and others not.
    """

    epoch: int
    pictures_seen: int
    pictures_total: int
    loss: float


@dataclass(frozen=True)
class Epoch:
    """One epoch. Lower losses are better; `best` says that the validation's is the lowest so far."""

    number: int
    train_loss: float
    validation_loss: float
    metrics: dict[str, float]
    images_per_second: float
    best: bool


def fit(
    learner: Learner,
    recipe: Recipe,
    train: Dataset,
    held_out: Dataset,
    *,
    device: torch.device,
    state_path: Path,
    identity: str,
    on_step: Callable[[Step], None],
    max_steps: int | None = None,
    checkpoint_seconds: float = 120.0,
    report_seconds: float = 0.25,
) -> Iterator[Epoch]:
    """Train a learner in place; it holds the weights of the epoch that was yielded last.

    The state is written at the start, every `checkpoint_seconds`, and at the end of each epoch, once the caller has
    seen it. Where `state_path` holds the state of this training, it goes on from there, and ends with the same
    weights as one that was never interrupted: whatever is random is drawn anew for each step from the seed and the
    step's number. (So on the CPU, with one release of torch and one number of threads; CUDA adds in any order.)

    Args:
        identity: tells this training from others; see `state.fingerprint`.
        max_steps: end after so many batches, in the middle of an epoch if need be.

    Yields:
        Each epoch, without those that a resumed training has behind it.

    Raises:
        Conflict: the state is of another training.
        EncoderError: the loss is no longer a number.
    """
    learner.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = _optimiser(learner, recipe.optimiser)
    generator = torch.Generator(device)
    per_epoch = learner.steps(train)
    total = min(recipe.epochs * per_epoch, max_steps or recipe.epochs * per_epoch)
    pictures_total = round(total * len(train) / per_epoch)
    state = read_state(state_path, identity, learner, optimiser)
    if state is None:
        state = State()
        write_state(state_path, identity, state, learner, optimiser)
    history = [Epoch(**epoch) for epoch in state.epochs]

    saved = time.monotonic()
    while (before := (state.epoch - 1) * per_epoch) < total and not _out_of_patience(history, recipe.patience):
        learner.train()
        started = time.perf_counter() - state.seconds
        shown = 0.0
        loss_sum = torch.tensor(state.loss_sum, device=device)
        batches = list(learner.batches(train, state.epoch))[: total - before]
        for positions in batches[state.step :]:
            progress = (before + state.step) / total
            _seed_step(generator, recipe.seed, before + state.step)
            _set_rate(optimiser, recipe.optimiser, progress)
            with _reduced_precision(device, recipe.mixed_precision):
                loss = learner.loss(batch_of(train, positions, device), progress, generator)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            learner.after_step(progress)

            state.step += 1
            state.pictures += len(positions)
            # Summed where it is: reading the number makes the next step wait for this one.
            loss_sum += loss.detach() * len(positions)
            if time.perf_counter() - shown > report_seconds or state.step == len(batches):
                shown = time.perf_counter()
                mean = _finite(loss_sum.item() / state.pictures, state.epoch)
                seen = round((before + state.step) * len(train) / per_epoch)
                on_step(Step(state.epoch, seen, pictures_total, mean))
            if time.monotonic() - saved > checkpoint_seconds:
                state.loss_sum, state.seconds = loss_sum.item(), time.perf_counter() - started
                write_state(state_path, identity, state, learner, optimiser)
                saved = time.monotonic()

        seconds = time.perf_counter() - started
        learner.eval()
        validation = learner.validate(held_out, device)
        epoch = Epoch(
            number=state.epoch,
            train_loss=loss_sum.item() / state.pictures,
            validation_loss=_finite(validation.loss, state.epoch),
            metrics=validation.metrics,
            images_per_second=state.pictures / seconds,
            best=all(validation.loss < former.validation_loss for former in history),
        )
        history.append(epoch)
        yield epoch
        state = State(epoch=state.epoch + 1, epochs=[asdict(epoch) for epoch in history])
        write_state(state_path, identity, state, learner, optimiser)
        saved = time.monotonic()


def _optimiser(learner: Learner, spec: Optimiser) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    match spec.name:
        case "adam":
            return torch.optim.Adam(parameters, spec.learning_rate, weight_decay=spec.weight_decay)
        case "adamw":
            return torch.optim.AdamW(parameters, spec.learning_rate, weight_decay=spec.weight_decay)
        case "sgd":
            return torch.optim.SGD(
                parameters, spec.learning_rate, momentum=0.9, nesterov=True, weight_decay=spec.weight_decay
            )


def _set_rate(optimiser: torch.optim.Optimizer, spec: Optimiser, progress: float) -> None:
    rate = spec.learning_rate
    if spec.schedule == "cosine":
        rising = min(1.0, (progress + 1e-3) / spec.warm_up) if spec.warm_up else 1.0
        rate *= rising * (1 + math.cos(math.pi * progress)) / 2
    for group in optimiser.param_groups:
        group["lr"] = rate


def _seed_step(generator: torch.Generator, seed: int, step: int) -> None:
    """Seed what a step draws, so that it does not depend on the steps before it."""
    mixed = int.from_bytes(hashlib.blake2b(f"{seed} {step}".encode(), digest_size=7).digest(), "big")
    torch.manual_seed(mixed)
    generator.manual_seed(mixed)


def _reduced_precision(device: torch.device, wanted: bool) -> AbstractContextManager[object]:
    """Autocast to bfloat16 on CUDA, where float32 sums need no scaling of the loss.

    Elsewhere nothing: on CPUs without matrix instructions for it bfloat16 takes twice the time of float32
    (measured), and MPS offers float16 only, which would need scaling.
    """
    if wanted and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def _out_of_patience(history: list[Epoch], patience: int | None) -> bool:
    """Whether the last `patience` epochs brought nothing better."""
    return patience is not None and len(history) > patience and not any(epoch.best for epoch in history[-patience:])


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise EncoderError(f"the training diverged in epoch {epoch}: its loss is {loss}")
    return loss
