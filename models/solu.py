"""SoLU, the softmax linear unit (Elhage et al. 2022, "Softmax Linear Units", Transformer Circuits Thread)."""

from jaxtyping import Float
from torch import Tensor, nn


def solu(x: Float[Tensor, "*batch d_mlp"]) -> Float[Tensor, "*batch d_mlp"]:
    """x * softmax(x), the softmax over the last axis (all neurons of one layer at one position)."""
    return x * x.softmax(dim=-1)


class SoLU(nn.Module):
    """`solu` as a module. Any shape in, the same shape out; the last axis is the layer's neurons."""

    def forward(self, x: Tensor) -> Tensor:
        return solu(x)
