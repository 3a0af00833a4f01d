"""A classifier of texts: the body of any of our families, or of Hugging Face's, pooled, and one linear map to labels.

A family can be a body if its net has

    d_model: int                     width of its stream
    features(tokens, real)           tokens (batch, pos) and which positions are text (batch, pos) -> the stream
                                     (batch, pos, d_model) of which it makes logits, after its last norm

What it makes logits with, its `unembed`, is left out. A net that reads only leftwards may ignore `real`, since padding
stands on the right.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dissimilarity.probe.pooling import POOLINGS, pool, real_positions

HEAD_STD = 0.02
"""Spread of the head's starting weights, as of all other matrices."""


class Classifier(nn.Module):
    """tokens (batch, pos) -> logits (batch, n_labels).

    Called with tokens alone, so that all that reads models by their sites reads this one; sites are those of `net`.

    Args:
        net: the body; its `unembed` is taken from it.
        n_labels: number of labels, at least 2.
        pooling: what the head is given: the stream at the `last` or `first` real position, or the `mean` of all real.
        pad, end_is_pad: how padding is told from text (`real_positions`).
        head_seed: of the head's starting weights.

    Raises:
        ValueError: a net that cannot be a body, an unknown pooling, or `first` with a body that reads only leftwards.
    """

    def __init__(
        self, net: nn.Module, n_labels: int, pooling: str, pad: int, end_is_pad: bool, head_seed: int = 0
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"task.pooling={pooling}: expected one of {', '.join(POOLINGS)}")
        d_model = getattr(net, "d_model", None)
        if not callable(getattr(net, "features", None)) or not isinstance(d_model, int):
            raise ValueError(
                f"task=classify needs of {type(net).__name__} its width `d_model` and a method `features(tokens, real)`"
                " that gives the stream (batch, pos, d_model) of which it makes logits (see models/classifier.py); add "
                "them, or choose one of our families"
            )
        if hasattr(net, "unembed"):
            del net.unembed
        self.net: Any = net
        self.pooling, self.pad, self.end_is_pad = pooling, pad, end_is_pad
        if pooling == "first" and not sees_ahead(net):
            raise ValueError(
                "task.pooling=first: this model reads from left to right, so that its first position has seen one token"
                " of the text and nothing of the rest; type task.pooling=last or task.pooling=mean"
            )
        self.head = nn.Linear(d_model, n_labels)
        with torch.no_grad():
            draw = torch.randn(n_labels, d_model, generator=torch.Generator().manual_seed(head_seed))
            self.head.weight.copy_(HEAD_STD * draw)
            self.head.bias.zero_()

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch n_labels"]:
        """Logits of the labels."""
        real = self.real(tokens)
        return self.head(pool(self.net.features(tokens, real), real, self.pooling))

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the points at which the body can be read, where it lists them."""
        return tuple(getattr(self.net, "sites", ()))

    def real(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Which positions are text."""
        return real_positions(tokens, self.pad, self.end_is_pad)


def sees_ahead(net: Any) -> bool:
    """Whether what a body has at a sequence's first position depends on a later token: found by changing one."""
    device = next(net.parameters()).device
    tokens = torch.tensor([[0, 1], [0, 0]], device=device)
    training = net.training
    with torch.no_grad():
        first = net.eval().features(tokens, torch.ones_like(tokens, dtype=torch.bool))[:, 0]
    net.train(training)
    return not torch.equal(first[0], first[1])
