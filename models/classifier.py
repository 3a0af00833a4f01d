"""A classifier of texts: the body of a family or of a Hugging Face model, pooled, and one linear map to labels.

A family can be a body if its net has

    d_model: int                     width of its residual stream
    features(tokens, real)           tokens (batch, pos) and which positions are text (batch, pos) -> the stream
                                     (batch, pos, d_model) after its last norm, from which logits are computed

Its `unembed` is removed. A causal net may ignore `real`, since padding is on the right.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dissimilarity.probe.pooling import POOLINGS, pool, real_positions

HEAD_STD = 0.02
"""Standard deviation of the initial weights of the head, as of all other matrices."""


class Classifier(nn.Module):
    """A map from tokens (batch, pos) to logits (batch, n_labels).

    It is called with tokens alone, like any model that is read at its sites, which are those of `net`.

    Args:
        net: The body; its `unembed` is removed.
        n_labels: Number of labels, at least 2.
        pooling: What the head reads: the stream at the `last` or `first` real position, or the `mean` over all of them.
        pad: How padding is told from text; see `real_positions`.
        end_is_pad: See `real_positions`.
        head_seed: Seed of the initial weights of the head.

    Raises:
        ValueError: If the net cannot be a body, the pooling is unknown, or it is `first` with a causal body.
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
                f"task=classify: expected {type(net).__name__} to have its width `d_model` and a method "
                "`features(tokens, real)` that returns the stream (batch, pos, d_model) from which it computes logits "
                "(see models/classifier.py); add them, or choose a family of conf/model"
            )
        if hasattr(net, "unembed"):
            del net.unembed
        self.net: Any = net
        self.pooling, self.pad, self.end_is_pad = pooling, pad, end_is_pad
        if pooling == "first" and not sees_ahead(net):
            raise ValueError(
                "task.pooling=first: this model reads from left to right, so its first position has seen one token; "
                "type task.pooling=last or task.pooling=mean"
            )
        self.head = nn.Linear(d_model, n_labels)
        with torch.no_grad():
            draw = torch.randn(n_labels, d_model, generator=torch.Generator().manual_seed(head_seed))
            self.head.weight.copy_(HEAD_STD * draw)
            self.head.bias.zero_()

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch n_labels"]:
        """Return the logits of the labels."""
        real = self.real(tokens)
        return self.head(pool(self.net.features(tokens, real), real, self.pooling))

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of the body, if it lists them."""
        return tuple(getattr(self.net, "sites", ()))

    def real(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Return which positions are text."""
        return real_positions(tokens, self.pad, self.end_is_pad)


def sees_ahead(net: Any) -> bool:
    """Return whether a body's first position depends on later tokens, tested by changing one."""
    device = next(net.parameters()).device
    tokens = torch.tensor([[0, 1], [0, 0]], device=device)
    training = net.training
    with torch.no_grad():
        first = net.eval().features(tokens, torch.ones_like(tokens, dtype=torch.bool))[:, 0]
    net.train(training)
    return not torch.equal(first[0], first[1])
