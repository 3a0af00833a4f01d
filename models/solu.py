"""SoLU, the softmax linear unit (Elhage et al. 2022, "Softmax Linear Units", Transformer Circuits Thread)."""

from jaxtyping import Float
from torch import Tensor, nn


def solu(x: Float[Tensor, "*batch d_mlp"]) -> Float[Tensor, "*batch d_mlp"]:
    """Return x * softmax(x), with the softmax over the last axis (all neurons of one layer at one position).

    Examples:
        >>> import torch
        >>> solu(torch.tensor([1.0, 1.0]))
        tensor([0.5000, 0.5000])
    """
    return x * x.softmax(dim=-1)


class SoLU(nn.Module):
    """The function `solu` as a module; the last axis of its input holds the neurons of a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `solu(x)`."""
        return solu(x)
