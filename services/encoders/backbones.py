"""Networks of other libraries with the head cut off: `torchvision:NAME`, `timm:NAME`, `openclip:NAME`.

Built from their names and options alone, without a network or a download; `pretrained.adopt` brings the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from services.errors import EncoderError

if TYPE_CHECKING:
    from types import ModuleType


class Backbone(nn.Module):
    """A classifier whose last layer is cut off: (n, 3, s, s) to what that layer was given, (n, dimension).

    Args:
        body: the network, with its head already replaced.
        head: what the names of the head's tensors begin with in the library's weights.
    """

    def __init__(self, body: nn.Module, head: tuple[str, ...]) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode pictures to (n, dimension)."""
        features: Tensor = self.body(pictures)
        return features


class PooledBackbone(Backbone):
    """A backbone that pools a feature map by a layer of its own.

    Args:
        pooling: the name of that layer in the body.
    """

    def __init__(self, body: nn.Module, head: tuple[str, ...], pooling: str) -> None:
        super().__init__(body, head)
        self.pooling = pooling

    def cells(self, pictures: Tensor) -> Tensor:
        """What is pooled: (n, channels, h, w)."""
        seen: list[Tensor] = []
        layer = self.body.get_submodule(self.pooling)
        watching = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.body(pictures)
        finally:
            watching.remove()
        return seen[0]


def torchvision_backbone(model: str) -> Backbone:
    """A classifier of torchvision without its last linear layer.

    Raises:
        EncoderError: torchvision has no such classifier, or it does not end in a linear layer.
    """
    from torchvision import models

    if model not in models.list_models(module=models):
        raise EncoderError(f"torchvision has no classifier {model!r}: see torchvision.models.list_models()")
    body = models.get_model(model, weights=None)
    linear = [name for name, layer in body.named_modules() if isinstance(layer, nn.Linear)]
    # GoogLeNet and Inception normalise their input anew and have further heads; SqueezeNet ends in a convolution.
    if hasattr(body, "aux_logits") or not linear or getattr(body.get_submodule(linear[-1]), "out_features", 0) != 1000:
        raise EncoderError(f"torchvision's {model!r} does not end in one linear layer, which could be cut off")
    head = linear[-1]
    parent, _, name = head.rpartition(".")
    setattr(body.get_submodule(parent), name, nn.Identity())
    return _with_cells(body, (f"{head}.",))


def timm_backbone(model: str) -> Backbone:
    """A network of timm (PyTorch Image Models) without its classifier.

    Raises:
        EncoderError: timm is not installed, or has no such network.
    """
    timm = import_timm()
    if not timm.is_model(model):
        raise EncoderError(f"timm has no network {model!r}: see timm.list_models()")
    body = timm.create_model(model, pretrained=False, num_classes=0)
    classifier = body.pretrained_cfg.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return _with_cells(body, tuple(f"{name}." for name in names))


def _with_cells(body: nn.Module, head: tuple[str, ...]) -> Backbone:
    """The backbone of a body, which has cells where a layer pools a map of channels, rows and columns."""
    layers = dict(body.named_modules())
    pooling = next((name for name in ("avgpool", "global_pool", "head.global_pool") if name in layers), None)
    # Some of timm's transformers pool maps whose channels come last.
    if pooling is None or getattr(layers.get("head"), "input_fmt", "NCHW") != "NCHW":
        return Backbone(body, head)
    return PooledBackbone(body, head, pooling)


class ClipEncoder(nn.Module):
    """A CLIP network of OpenCLIP: pictures and, unless `text` is off, sentences into one space.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021).

    Args:
        model: name of an OpenCLIP configuration.
        quick_gelu: the activation of the weights that OpenAI trained.
        text: keep the half that embeds sentences.

    Raises:
        EncoderError: OpenCLIP is not installed, has no such network, or the network needs files of a hub.
    """

    def __init__(self, model: str, *, quick_gelu: bool = False, text: bool = True) -> None:
        super().__init__()
        open_clip = import_open_clip()
        if text and not has_own_tokenizer(model):
            raise EncoderError(f"OpenCLIP's {model!r} splits sentences by files of a hub: use it with text=false")
        with _without_warnings_of_missing_weights():
            body = open_clip.create_model(model, pretrained=None, force_quick_gelu=quick_gelu)
        self.body = body if text else nn.ModuleDict({"visual": body.visual})
        self._tokenize: Callable[[list[str]], Tensor] | None = open_clip.get_tokenizer(model) if text else None

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode pictures to (n, dimension)."""
        # Some image halves also give the tokens that a caption would be written from.
        visual = self.body.get_submodule("visual")(pictures)
        embedded: Tensor = visual[0] if isinstance(visual, tuple) else visual
        return embedded

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode sentences to (n, dimension); what is longer than the network reads is cut off."""
        if self._tokenize is None:
            raise EncoderError("this encoder was kept without the half that embeds sentences")
        tokens = self._tokenize(list(texts)).to(next(self.parameters()).device)
        embedded: Tensor = self.body.encode_text(tokens)  # type: ignore[operator]
        return embedded


def has_own_tokenizer(model: str) -> bool:
    """Whether sentences for an OpenCLIP network are split by a vocabulary that OpenCLIP brings along.

    Raises:
        EncoderError: OpenCLIP is not installed, has no such network, or can only build it with files of a hub.
    """
    open_clip = import_open_clip()
    config: dict[str, Any] | None = open_clip.get_model_config(model)
    if config is None:
        raise EncoderError(f"OpenCLIP has no network {model!r}: see open_clip.list_models()")
    text = config["text_cfg"]
    if "hf_model_name" in text:
        raise EncoderError(f"OpenCLIP's {model!r} is built from files of a hub, which an encoder may not depend on")
    return "hf_tokenizer_name" not in text


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "openclip": ClipEncoder,
    "timm": timm_backbone,
    "torchvision": torchvision_backbone,
}


def import_timm() -> ModuleType:
    """The library timm, which is optional.

    Raises:
        EncoderError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise EncoderError("this encoder needs timm: pip install 'akin[timm]'") from error
    return timm


def import_open_clip() -> ModuleType:
    """The library open_clip, which is optional.

    Raises:
        EncoderError: it is not installed.
    """
    try:
        import open_clip
    except ImportError as error:
        raise EncoderError("this encoder needs OpenCLIP: pip install 'akin[openclip]'") from error
    return open_clip  # type: ignore[no-any-return]


@contextmanager
def _without_warnings_of_missing_weights() -> Iterator[None]:
    """Weights are loaded after the network is built, which OpenCLIP takes for a mistake and tells the root logger."""

    def other(record: logging.LogRecord) -> bool:
        return "pretrained weights" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)
