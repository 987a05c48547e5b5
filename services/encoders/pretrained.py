"""Adopt an encoder that somebody else trained: its weights become a checkpoint like any other."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from services.encoders.architectures import build, fill, load, output_width, pack
from services.encoders.backbones import Backbone, has_own_tokenizer, import_open_clip, import_timm
from services.encoders.checkpoint import Checkpoint, digest
from services.encoders.manifest import LONGEST_NAME, Manifest, Training, TrainingData, check_name
from services.errors import EncoderError, InvalidRequest
from services.images.preprocess import Preprocessing

REFERENCES = ("torchvision:NAME[/WEIGHTS]", "timm:NAME", "openclip:NAME/WEIGHTS")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# Where the checkpoints of training scripts keep the weights; running averages are preferred to the last step.
_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
_FITS: dict[str, Literal["stretch", "crop", "pad"]] = {
    **{"center": "crop", "squash": "stretch", "border": "pad"},  # timm
    **{"shortest": "crop", "longest": "pad"},  # OpenCLIP, beside squash
}
_OPENCLIP_FACTS = ("mean", "std", "interpolation", "resize_mode", "fill_color")

State: TypeAlias = dict[str, Tensor]
Fetched = TypeVar("Fetched")


class Adopted(NamedTuple):
    """A pretrained network, and what its library says of it."""

    network: nn.Module
    options: dict[str, Any]
    preprocessing: Preprocessing
    source: str
    licence: str


def adopt(reference: str, weights: Path | None = None, *, name: str | None = None, version: int = 1) -> Checkpoint:
    """Make a checkpoint of a pretrained network whose head is cut off.

    What it is given (size, crop, resampling, mean and standard deviation) is read from the library's facts on the
    weights. The manifest alone rebuilds the network: neither a hub nor the original file is needed again.

    Args:
        reference: `torchvision:NAME[/WEIGHTS]`, `timm:NAME` or `openclip:NAME/WEIGHTS`; the last needs no
            WEIGHTS where a file is named that is none of those published.
        weights: a .safetensors, .pth, .pt or .bin file with the library's names of tensors, instead of a download.
            Pickles are read for tensors alone: nothing in them is run.
        name: of the encoder; made from the reference unless given.

    Raises:
        InvalidRequest: the reference is none, the file not one of weights, or the name none for an encoder.
        EncoderError: the library is missing or does not know the network, or the weights cannot be had or do not fit.
    """
    if name is not None:
        check_name(name)
    family, _, wanted = reference.partition(":")
    model, _, tag = wanted.partition("/")
    if family not in _FAMILIES or not model:
        raise InvalidRequest(f"{reference!r} is no pretrained network; there are {', '.join(REFERENCES)}")
    if weights is not None and weights.suffix not in SUFFIXES:
        raise InvalidRequest(f"{weights} is not a file of weights: {', '.join(SUFFIXES)} are read")
    architecture = f"{family}:{model}"
    adopted = _FAMILIES[family](model, tag, weights)
    packed = pack(adopted.network)
    manifest = Manifest(
        name=slug(reference) if name is None else name,
        version=version,
        architecture=architecture,
        options=adopted.options,
        dimension=output_width(adopted.network.eval(), architecture, adopted.preprocessing.size),
        preprocessing=adopted.preprocessing,
        weights_sha256=digest(packed),
        training=Training(
            recipe=reference,
            data=TrainingData(description=adopted.source, trained_on=None, held_out=None, sha256=None),
            metrics={},
            seed=None,
            git_revision=None,
            created=datetime.now(UTC).replace(microsecond=0),
            licence=adopted.licence,
        ),
    )
    load(manifest, packed)  # what could not be loaded again is not adopted
    return Checkpoint(manifest, packed)


def slug(reference: str) -> str:
    """A name for the encoder of a reference: lower case, with hyphens for whatever names may not hold."""
    return re.sub(r"[^a-z0-9]+", "-", reference.lower())[:LONGEST_NAME].strip("-")


def _torchvision(model: str, tag: str, weights: Path | None) -> Adopted:
    network = build(f"torchvision:{model}", {})
    from torchvision import models

    known = models.get_model_weights(model)
    try:
        entry = known[tag] if tag else known.DEFAULT
    except KeyError:
        raise EncoderError(f"torchvision has no weights {tag!r} of {model}: {_listed(w.name for w in known)}") from None
    state = _read(weights) if weights else _fetched(lambda: dict(entry.get_state_dict(check_hash=True)), model)
    _fill(network, state, weights)
    given = entry.transforms()
    preprocessing = _preprocessing(
        given.crop_size,
        fit="crop",
        crop_share=given.crop_size[0] / given.resize_size[0],
        resample=given.interpolation.value,
        mean=given.mean,
        std=given.std,
    )
    return Adopted(network, {}, preprocessing, _source("torchvision", entry.name, weights), "not stated")


def _timm(model: str, tag: str, weights: Path | None) -> Adopted:
    if tag:
        raise InvalidRequest(f"timm names weights as in timm:resnet18.a1_in1k, not by /{tag}")
    network = build(f"timm:{model}", {})
    timm = import_timm()
    if weights:
        state = _read(weights)
    else:
        state = _fetched(lambda: timm.create_model(model, pretrained=True, num_classes=0).state_dict(), model)
    _fill(network, state, weights)
    facts = network.get_submodule("body").pretrained_cfg
    assert isinstance(facts, dict)
    given = timm.data.resolve_data_config(pretrained_cfg=facts)
    fit = _FITS[given["crop_mode"]]
    preprocessing = _preprocessing(
        given["input_size"][1:],
        fit=fit,
        crop_share=1.0 if fit == "pad" else given["crop_pct"],
        resample=given["interpolation"],
        mean=given["mean"],
        std=given["std"],
        background=tuple(round(255 * value) for value in given["mean"]),
    )
    source = _source("timm", facts.get("tag", ""), weights)
    return Adopted(network, {}, preprocessing, source, facts.get("license") or "not stated")


def _openclip(model: str, tag: str, weights: Path | None) -> Adopted:
    text = has_own_tokenizer(model)
    open_clip = import_open_clip()
    facts = open_clip.get_pretrained_cfg(model, tag)
    if not facts and (tag or not weights):
        tags = _listed(open_clip.list_pretrained_tags_by_model(model))
        raise EncoderError(f"OpenCLIP has no weights {tag!r} of {model}; name some, as in openclip:{model}/TAG: {tags}")
    options = {"quick_gelu": bool(facts.get("quick_gelu")), "text": text}
    network = build(f"openclip:{model}", options)
    # The library itself turns the formats of its many sources into its own.
    whole: nn.Module = _fetched(
        lambda: open_clip.create_model(
            model,
            pretrained=str(weights) if weights else tag,
            force_quick_gelu=options["quick_gelu"],
            weights_only=True,
        ),
        model,
        weights,
    )
    kept = network.state_dict().keys()
    network.load_state_dict({f"body.{k}": v for k, v in whole.state_dict().items() if f"body.{k}" in kept})
    stated = {key: facts[key] for key in _OPENCLIP_FACTS if key in facts}
    given = open_clip.transform.PreprocessCfg(**stated, size=whole.get_submodule("visual").image_size)
    preprocessing = _preprocessing(
        given.input_size[1:],
        fit=_FITS[given.resize_mode],
        resample=given.interpolation,
        mean=given.mean,
        std=given.std,
        background=(given.fill_color,) * 3,
    )
    return Adopted(network, options, preprocessing, _source("OpenCLIP", tag, weights), "not stated")


_FAMILIES: dict[str, Callable[[str, str, Path | None], Adopted]] = {
    "openclip": _openclip,
    "timm": _timm,
    "torchvision": _torchvision,
}


def _preprocessing(size: Sequence[int], **facts: Any) -> Preprocessing:
    height, width = (size[0], size[0]) if len(size) == 1 else size
    if height != width:
        raise EncoderError(f"this network takes pictures of {width} × {height}; only square ones are supported")
    try:
        return Preprocessing.model_validate({"size": height, **facts})
    except ValidationError as error:
        raise EncoderError(f"the preprocessing of these weights is not supported: {error}") from error


def _fetched(fetch: Callable[[], Fetched], model: str, weights: Path | None = None) -> Fetched:
    try:
        return fetch()
    except Exception as error:  # each library's client of its hub raises errors of its own
        if weights:
            raise EncoderError(f"{weights} does not hold the weights of {model}: {error}") from error
        raise EncoderError(
            f"the weights of {model} cannot be downloaded; fetch them by other means and name the file: {error}"
        ) from error


def _read(path: Path) -> State:
    """The tensors of a file of weights, named as in their library."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise EncoderError(f"{path} cannot be read as weights: {error}") from error
    nested = next((key for key in _NESTED if isinstance(found, dict) and isinstance(found.get(key), dict)), None)
    state = found[nested] if nested else found
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise EncoderError(f"{path} holds something else than the weights of a network")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _fill(network: nn.Module, state: State, weights: Path | None) -> None:
    """Load the library's tensors into a backbone, without those of the head."""
    assert isinstance(network, Backbone)
    kept = {f"body.{name}": value for name, value in state.items() if not name.startswith(network.head)}
    try:
        fill(network, kept)
    except EncoderError as error:
        raise EncoderError(f"{weights or 'what was downloaded'} is not for this network: {error}") from error


def _source(library: str, tag: str, weights: Path | None) -> str:
    read = f", read from {weights.name}" if weights else ""
    return f"pretrained: {library}, {tag or 'weights of unknown origin'}{read}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "it has none"
