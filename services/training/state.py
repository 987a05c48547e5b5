"""What a training needs to go on after an interruption: safetensors with a JSON header, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from services.errors import Conflict, EncoderError

# Bookkeeping of torch.optim that is a plain number, such as Adam's count of steps on the CPU, stays a tensor:
# safetensors keeps tensors of no dimension.
_NETWORK, _OPTIMISER = "network.", "optimiser."


@dataclass
class State:
    """How far a training is. `step` counts the batches done of `epoch`, `loss_sum` sums over their pictures."""

    epoch: int = 1
    step: int = 0
    pictures: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    epochs: list[dict[str, Any]] = field(default_factory=list)


def fingerprint(*parts: object) -> str:
    """SHA-256 that tells one training from another: equal parts, equal fingerprint."""
    return hashlib.sha256(json.dumps([repr(part) for part in parts]).encode()).hexdigest()


def write_state(path: Path, identity: str, state: State, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write the state, replacing the former one whole."""
    tensors = {_NETWORK + name: value for name, value in _distinct(network).items()}
    for number, values in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}{number}.{name}": value for name, value in values.items() if value is not None}
    partial = path.with_name(path.name + ".partial")
    safetensors.torch.save_file(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
        partial,
        {"identity": identity, "state": json.dumps(asdict(state))},
    )
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def read_state(path: Path, identity: str, network: nn.Module, optimiser: torch.optim.Optimizer) -> State | None:
    """Load a state into network and optimiser; None if there is no file.

    Raises:
        Conflict: it is the state of another training.
        EncoderError: it cannot be read.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts.get("identity") != identity:
            raise Conflict(
                f"{path.parent} holds another training (other recipe, options or pictures): "
                "give the same ones to go on with it, or another --output"
            )
        _load_network(network, _below(_NETWORK, tensors))
        _load_optimiser(optimiser, _below(_OPTIMISER, tensors))
        return State(**json.loads(facts["state"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise EncoderError(f"{path} cannot be read: {error}; delete it to start again") from error


def identity_of(path: Path) -> str | None:
    """The training whose state this is; None where there is no readable state."""
    return _facts(path).get("identity")


def past_epochs(path: Path) -> list[dict[str, Any]]:
    """The epochs that a state has behind it."""
    facts = _facts(path)
    return State(**json.loads(facts["state"])).epochs if "state" in facts else []


def _facts(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def _distinct(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those that a network holds under several names once."""
    seen: dict[int, str] = {}
    state = network.state_dict()
    return {name: value for name, value in state.items() if seen.setdefault(value.data_ptr(), name) == name}


@torch.no_grad()
def _load_network(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, value in _distinct(network).items():
        value.copy_(tensors[name])


def _load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split(".", 1)
        like = parameters[int(number)]
        # In the order in memory of its parameter, as it was: sums in another order round differently.
        laid = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
        state.setdefault(int(number), {})[key] = laid
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
