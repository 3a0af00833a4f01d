"""From a model's plain settings to its net."""

import pkgutil
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from settings import instantiate


def build_net(config: Mapping[str, Any], d_vocab: int, init_seed: int) -> nn.Module:
    """The net that a conf/model YAML describes, its starting weights a function of `init_seed` alone.

    torch's global generator is seeded for the constructor and put back, so a module that initializes itself in the
    usual way obeys `init_seed` without knowing of it.

    Raises:
        ValueError: `config` is not a plain, resolved dict, or a `_target_` in it is not an nn.Module class. Settings
            come out of checkpoints too, so nothing else may be called from them.
    """
    if type(config) is not dict or "_target_" not in config:
        raise ValueError(
            "expected the model's settings as a plain dict with a `_target_`"
            f" (OmegaConf.to_container(cfg.model, resolve=True)), got {type(config).__name__}: {config}"
        )
    _check_targets(config)
    arguments = {key: value for key, value in config.items() if key != "family"}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(init_seed)  # torch.manual_seed would reach the GPUs' generators as well
        return instantiate(arguments, d_vocab=d_vocab)


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
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"model settings: `_target_: {target}` cannot be imported ({error}); expected the dotted path of an"
            " nn.Module class, such as models.transformer.Transformer"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(
            f"model settings: `_target_: {target}` is not an nn.Module class, and from settings nothing else is called"
        )
