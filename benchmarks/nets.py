"""Nets with the weights that training would start from."""

from torch import nn

from launch.cli.compose import compose
from launch.run.folder import without_missing
from models.build import build_net

D_VOCAB = 4096


def untrained(overrides: list[str], seed: int) -> nn.Module:
    """The net that `train.py` would build from such overrides, in eval mode and without gradients."""
    return build_net(without_missing(compose(overrides).model), D_VOCAB, seed).eval().requires_grad_(False)
