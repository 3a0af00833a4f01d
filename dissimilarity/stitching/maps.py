"""The kinds of map that a stitch can be, from a front model's activation (..., p) to a back model's (..., q).

| kind | map | parameters | widths |
| --- | --- | --- | --- |
| `identity` | x | 0 | equal |
| `scale_shift` | s * x + b, dimension by dimension | 2 q | equal |
| `orthogonal` | x W + b, W'W = I (p >= q) or W W' = I (p <= q) | W on its manifold, b | any |
| `low_rank` | x A B + b, A (p, r), B (r, q) | r (p + q) + q | any |
| `affine` | x W + b | p q + q | any |
| `affine_ln` | LayerNorm(x W + b) | p q + 3 q | any |

`affine_ln` is the map of arXiv 2310.14993, appendix C.1 ("affine transformation along with an additional LayerNorm").
The paper states neither the order nor whether the LayerNorm has a scale and a shift. Here it comes last and has both.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dissimilarity.moments.products import full_float32

Kind = Literal["identity", "scale_shift", "orthogonal", "low_rank", "affine", "affine_ln"]


@dataclass(frozen=True)
class Fitted:
    """A map and how it was fitted.

    Attributes:
        map: the module, (..., p) -> (..., q).
        ridge: ridge of the closed form, or of the closed form that training started from, as a share of the mean
            eigenvalue; None if there was none.
        steps: gradient steps up to this map; 0 for closed forms.
        converged: whether the fit converged; always true for closed forms.
        note: a remark on the fit, or empty.
    """

    map: nn.Module
    ridge: float | None = None
    steps: int = 0
    converged: bool = True
    note: str = ""


def check_kind(kind: str, p: int, q: int, rank: int | None) -> None:
    """Raise ValueError for an unknown kind, widths that it cannot connect, or a rank that is missing or unused."""
    if kind not in get_args(Kind):
        raise ValueError(f"expected one of the kinds {', '.join(get_args(Kind))}, found {kind!r}")
    if kind in ("identity", "scale_shift") and p != q:
        raise ValueError(
            f"a stitch of kind {kind} needs equal widths, found {p} in front and {q} in the back; "
            "use orthogonal, low_rank or affine"
        )
    if kind == "low_rank" and (rank is None or not 1 <= rank <= min(p, q)):
        raise ValueError(f"a stitch of kind low_rank needs rank= from 1 to {min(p, q)}, found {rank}")
    if kind != "low_rank" and rank is not None:
        raise ValueError(f"only a stitch of kind low_rank has a rank, found rank={rank} for {kind}")


class Identity(nn.Module):
    """x."""

    def forward(self, x: Float[Tensor, "*n p"]) -> Float[Tensor, "*n p"]:
        """Return x."""
        return x


class ScaleShift(nn.Module):
    """s * x + b."""

    def __init__(self, scale: Float[Tensor, " q"], shift: Float[Tensor, " q"]) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(scale), nn.Parameter(shift)

    def forward(self, x: Float[Tensor, "*n q"]) -> Float[Tensor, "*n q"]:
        """Map x in the precision of the parameters."""
        return x.to(self.scale) * self.scale + self.shift


class Affine(nn.Module):
    """x W + b."""

    def __init__(self, weight: Float[Tensor, "p q"], bias: Float[Tensor, " q"]) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Float[Tensor, "*n p"]) -> Float[Tensor, "*n q"]:
        """Map x in the precision of the parameters, also under autocast."""
        with full_float32(x.device):
            return x.to(self.weight) @ self.weight + self.bias


class LowRank(nn.Module):
    """x A B + b."""

    def __init__(self, into: Float[Tensor, "p r"], out: Float[Tensor, "r q"], bias: Float[Tensor, " q"]) -> None:
        super().__init__()
        self.into, self.out, self.bias = nn.Parameter(into), nn.Parameter(out), nn.Parameter(bias)

    def forward(self, x: Float[Tensor, "*n p"]) -> Float[Tensor, "*n q"]:
        """Map x in the precision of the parameters, also under autocast."""
        with full_float32(x.device):
            return x.to(self.into) @ self.into @ self.out + self.bias


class Orthogonal(nn.Module):
    """x W + b, W = exp(S - S') W0 or W0 exp(S - S') on the larger side. W stays orthogonal while S is learned."""

    start: Tensor

    def __init__(self, start: Float[Tensor, "p q"], bias: Float[Tensor, " q"]) -> None:
        super().__init__()
        self.register_buffer("start", start)
        self.skew, self.bias = nn.Parameter(start.new_zeros(2 * (max(start.shape),))), nn.Parameter(bias)

    @property
    def weight(self) -> Float[Tensor, "p q"]:
        """The orthogonal matrix W."""
        with full_float32(self.skew.device):
            if not torch.is_grad_enabled() and not bool(self.skew.any()):
                return self.start
            turn = torch.linalg.matrix_exp(self.skew - self.skew.T)
            return turn @ self.start if self.start.shape[0] >= self.start.shape[1] else self.start @ turn

    def forward(self, x: Float[Tensor, "*n p"]) -> Float[Tensor, "*n q"]:
        """Map x in the precision of the parameters, also under autocast."""
        with full_float32(x.device):
            return x.to(self.start) @ self.weight + self.bias


class AffineLN(nn.Module):
    """LayerNorm(x W + b) with a scale and a shift."""

    def __init__(
        self,
        weight: Float[Tensor, "p q"],
        bias: Float[Tensor, " q"],
        scale: Float[Tensor, " q"],
        shift: Float[Tensor, " q"],
    ) -> None:
        super().__init__()
        self.affine = Affine(weight, bias)
        self.scale, self.shift = nn.Parameter(scale), nn.Parameter(shift)

    def forward(self, x: Float[Tensor, "*n p"]) -> Float[Tensor, "*n q"]:
        """Map x in the precision of the parameters, also under autocast."""
        return nn.functional.layer_norm(self.affine(x), self.shift.shape, self.scale, self.shift)


def cold_map(
    kind: Kind, p: int, q: int, rank: int | None, start: Literal["identity", "random"], seed: int
) -> nn.Module:
    """Return a map before any fit, float32 on the CPU.

    Args:
        kind: kind of map.
        p: width in front.
        q: width in the back.
        rank: rank of `low_rank`.
        start: `identity`: the map returns x itself, for kinds that can (`affine_ln`: normalized x). `random`: weights
            uniform within 1 / sqrt(p) of zero, as torch initializes linear layers, a random rotation, or a scale of 1.
        seed: seed of the random weights.

    Raises:
        ValueError: widths that the kind cannot connect, or a kind that cannot be the identity.
    """
    check_kind(kind, p, q, rank)
    generator = torch.Generator().manual_seed(seed)
    zeros, ones = torch.zeros(q), torch.ones(q)
    if start == "identity" and (p != q or (kind == "low_rank" and rank != q)):
        of_rank = "" if rank is None else f" of rank {rank}"
        raise ValueError(
            f"a stitch of kind {kind} from width {p} to {q}{of_rank} cannot start at the identity; "
            "use start='direct' or 'random'"
        )
    if kind == "identity":
        return Identity()
    if kind == "scale_shift":
        return ScaleShift(ones, zeros)

    def random(rows: int, columns: int) -> Tensor:
        return (2 * torch.rand(rows, columns, generator=generator) - 1) * rows**-0.5

    if kind == "orthogonal":
        square = torch.randn(max(p, q), max(p, q), generator=generator)
        turn = torch.eye(q) if start == "identity" else torch.linalg.qr(square).Q[:p, :q].contiguous()
        return Orthogonal(turn, zeros)
    if kind == "low_rank":
        assert rank is not None
        eye = start == "identity"
        return LowRank(torch.eye(q) if eye else random(p, rank), torch.eye(q) if eye else random(rank, q), zeros)
    weight = torch.eye(q) if start == "identity" else random(p, q)
    return Affine(weight, zeros) if kind == "affine" else AffineLN(weight, zeros, ones, zeros.clone())
