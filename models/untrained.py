"""A model before its training, with other initial weights than its own: the second baseline beside the null.

Two untrained models read the same text, so what they have in common is what the architecture, the tokens and their
positions give; the null has other text on one side.
"""

from typing import TYPE_CHECKING, Any

from torch import nn

from models.build import build_net
from models.initial_model import initial_model

if TYPE_CHECKING:
    from models.references import Reference

PREFIX = "untrained:"
SEED = 987_654_321
"""Seed of the initial weights, which no run has by chance."""


def other_seed(init_seed: int) -> int:
    """Return a seed of initial weights that differs from a given one, always the same."""
    return SEED if init_seed != SEED else SEED + 1


def untrained_net(reference: "Reference") -> tuple[nn.Module, dict[str, Any]]:
    """Return the net of a reference with other initial weights, in eval mode, and its settings.

    Raises:
        ValueError: If its architecture has settings from which no net can be built here.
    """
    has_head = reference.labels is None and hasattr(reference.model, "get_output_embeddings")
    settings = initial_model(reference, head=has_head and _has_logits(reference.model)).settings
    config = {key: value for key, value in settings.items() if key != "d_vocab"}
    net = build_net(config, settings["d_vocab"], SEED).eval().requires_grad_(False)
    return net, settings


def _has_logits(model: Any) -> bool:
    """Return whether a model of transformers has a head for the next token."""
    return model.get_output_embeddings() is not None
