"""Nets with their initial weights."""

from torch import nn

from launch.cli.compose import compose
from launch.run.folder import without_missing
from models.build import build_net

D_VOCAB = 4096


def untrained(overrides: list[str], seed: int) -> nn.Module:
    """Return the net that `train.py` builds from such overrides, in eval mode and without gradients."""
    return build_net(without_missing(compose(overrides).model), D_VOCAB, seed).eval().requires_grad_(False)
