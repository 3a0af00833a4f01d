"""The sizes and choices of one of our transformers, the common ground of the configs of other libraries."""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from models.build import build_net
from models.solu import SoLU
from models.transformer import Block, Transformer

ACTIVATIONS = {
    "gelu": {"_target_": "torch.nn.GELU", "_partial_": True},
    "gelu_new": {"_target_": "torch.nn.GELU", "approximate": "tanh", "_partial_": True},
    "relu": {"_target_": "torch.nn.ReLU", "_partial_": True},
    "solu": {"_target_": "models.solu.SoLU", "_partial_": True},
}
"""Settings of the activations of other libraries, by their names there."""
LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Shape:
    """Sizes and choices of a transformer.

    Attributes:
        d_model: As for `Transformer`, like all others not named here.
        activation: Name of the activation in `ACTIVATIONS`; None for a model without MLPs.
        d_mlp: Neurons per MLP; None without MLPs.
        d_rotary: Entries of a head that rotary positions rotate; None for learned positions.
    """

    d_model: int
    n_layers: int
    d_head: int
    n_ctx: int
    d_vocab: int
    activation: str | None
    d_mlp: int | None
    mlp_norm: bool = False
    parallel: bool = False
    d_rotary: int | None = None
    unembed_bias: bool = False

    @property
    def n_heads(self) -> int:
        """Heads per block."""
        return self.d_model // self.d_head

    @property
    def family(self) -> str:
        """The file of conf/model that is nearest."""
        if self.activation is None:
            return "attn_only"
        if self.parallel and self.d_rotary is not None:
            return "pythia"
        if self.activation == "solu":
            return "solu" if self.mlp_norm else "solu_no_ln"
        return "relu" if self.activation == "relu" else "gelu"

    def settings(self) -> dict[str, Any]:
        """Return the settings in the form of a file of conf/model, with `d_vocab`."""
        return {
            "family": self.family,
            "_target_": "models.transformer.Transformer",
            "d_model": self.d_model,
            "n_layers": self.n_layers,
            "d_head": self.d_head,
            "n_ctx": self.n_ctx,
            "d_vocab": self.d_vocab,
            "activation": None if self.activation is None else dict(ACTIVATIONS[self.activation]),
            "d_mlp": self.d_mlp,
            "mlp_norm": self.mlp_norm,
            "parallel": self.parallel,
            "rotary_share": None if self.d_rotary is None else _share(self.d_rotary, self.d_head),
            "unembed_bias": self.unembed_bias,
        }


def build(shape: Shape) -> Transformer:
    """Build a net of this shape, whose weights are to be overwritten."""
    settings = shape.settings()
    net = build_net({key: value for key, value in settings.items() if key != "d_vocab"}, shape.d_vocab, 0)
    assert isinstance(net, Transformer)
    return net


def shape_of(net: nn.Module) -> Shape:
    """Return the shape of a net.

    Raises:
        ValueError: If it is not a `Transformer`, or has an activation that no other library has.
    """
    if not isinstance(net, Transformer):
        raise ValueError(
            "expected a models.transformer.Transformer (solu, solu_no_ln, gelu, relu, attn_only, pythia), which is "
            f"what can be converted, found {type(net).__name__}; study.to=safetensors keeps any family"
        )
    block = net.blocks[0]
    assert isinstance(block, Block)
    rotary, mlp = block.attn.rotary, block.mlp
    return Shape(
        d_model=net.d_model,
        n_layers=net.n_layers,
        d_head=net.d_head,
        n_ctx=net.n_ctx,
        d_vocab=net.d_vocab,
        activation=None if mlp is None else _activation(mlp.act),
        d_mlp=None if mlp is None else mlp.W_in.out_features,
        mlp_norm=mlp is not None and mlp.ln is not None,
        parallel=block.parallel,
        d_rotary=None if rotary is None else rotary.d_rotary,
        unembed_bias=net.unembed.bias is not None,
    )


def _activation(module: nn.Module) -> str:
    if isinstance(module, nn.GELU):
        return "gelu_new" if module.approximate == "tanh" else "gelu"
    if isinstance(module, nn.ReLU):
        return "relu"
    if isinstance(module, SoLU):
        return "solu"
    raise ValueError(f"no other library has the activation {type(module).__name__}; expected GELU, ReLU or SoLU")


def _share(d_rotary: int, d_head: int) -> float:
    """Return the share of a head whose integer part is `d_rotary`."""
    share = d_rotary / d_head
    return share if int(d_head * share) == d_rotary else math.nextafter(share, 1)
