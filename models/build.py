"""Nets built from plain settings."""

import math
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.modules import activation

from dissimilarity.loading.config import LAYERS
from dissimilarity.loading.untrusted import shown
from settings import instantiate
from trusted import Place, check

MADE = 2**26
"""Largest number of elements of a tensor that the file of weights lacks, such as a table of angles."""


def _activations() -> dict[str, type]:
    """Return the activations of torch: modules without weights."""
    return {f"torch.nn.{name}": getattr(nn, name) for name in activation.__all__ if name != "MultiheadAttention"}


def _is_net(candidate: type) -> bool:
    return issubclass(candidate, nn.Module) and not issubclass(candidate, pl.LightningModule)


NET = Place("a net", "models", _is_net, inside=Place("a module", "models", _is_net, foreign=_activations))


def build_net(config: Mapping[str, Any], d_vocab: int, init_seed: int) -> nn.Module:
    """Build the net that a YAML file of conf/model describes, with initial weights that depend on `init_seed` alone.

    The global generator of torch is seeded for the constructor and restored afterwards, so a module that initializes
    itself in the usual way follows `init_seed`.

    Raises:
        ValueError: If `config` is not a plain, resolved dict, or a `_target_` in it is not an nn.Module class. Settings
            that were read from a file go through `check_net` first.
    """
    if type(config) is not dict or "_target_" not in config:
        raise ValueError(
            "expected the model's settings as a plain dict with a `_target_`"
            f" (OmegaConf.to_container(cfg.model, resolve=True)), got {type(config).__name__}: {config}"
        )
    _check_targets(config)
    arguments = {key: value for key, value in config.items() if key != "family"}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(init_seed)  # torch.manual_seed would also seed the generators of GPUs
        return instantiate(arguments, d_vocab=d_vocab)


def check_net(
    config: Any, d_vocab: Any, shapes: Mapping[str, tuple[int, ...]], file: str | Path, prefix: str = ""
) -> None:
    """Check that settings from a file build a net of this project whose size is that of the weights beside them.

    Args:
        config: The settings.
        d_vocab: Size of the vocabulary.
        shapes: Shapes of the weights; no memory is taken for a net that is larger.
        file: The file they were read from, for the message.
        prefix: What precedes the names of the net among those of the weights.

    Raises:
        ValueError: If a class is not of this project (see trusted.py), or sizes differ from those of the weights.
    """
    check(config, NET, file, "net")
    if type(d_vocab) is not int or d_vocab < 1:
        raise ValueError(f"expected d_vocab as a whole number, 1 or more, found {shown(d_vocab)}")
    limit = max(len(shapes), LAYERS)
    deep = [f"{key}={value}" for key, value in _layers(config) if value > limit]
    if deep:
        raise ValueError(f"its settings say {deep[0]}, and its weights are {len(shapes)} tensors")
    if not config["_target_"].startswith("models."):
        return  # a user's own class, named by the command, may not support the meta device
    with torch.device("meta"):
        net = build_net(config, d_vocab, 0)
    largest = max(MADE, sum(map(math.prod, shapes.values())))
    for name, tensor in (*net.state_dict().items(), *net.named_buffers()):
        stored = shapes.get(f"{prefix}{name}")
        if tuple(tensor.shape) != stored and (stored is not None or tensor.numel() > largest):
            stored_shape = "of which its weights hold none" if stored is None else f"and {stored} in its weights"
            raise ValueError(f"{name} is {tuple(tensor.shape)} by its settings, {stored_shape}")


def _layers(node: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Yield the whole numbers in settings that count layers."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _layers(value, str(name))
    elif isinstance(node, int) and "layer" in key:
        yield key, node


def _check_targets(node: Any) -> None:
    if isinstance(node, dict):
        if "_target_" in node:
            _check_target(node["_target_"])
        for value in node.values():
            _check_targets(value)
    elif isinstance(node, list):
        for value in node:
            _check_targets(value)
    elif isinstance(node, str) and "${" in node:
        # An interpolation could make a `_target_` after this check.
        raise ValueError(f"model settings must be resolved, found {node!r}: OmegaConf.to_container(..., resolve=True)")


def _check_target(target: Any) -> None:
    try:
        module_class = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"model settings: `_target_: {target}` cannot be imported ({error}); expected the dotted path of an"
            " nn.Module class, such as models.transformer.Transformer"
        ) from error
    if not (isinstance(module_class, type) and issubclass(module_class, nn.Module)):
        raise ValueError(
            f"model settings: `_target_: {target}` is not an nn.Module class, and settings may name nothing else"
        )
