"""Leverage of whole sequences on a whitening, for the error bars of measures that whiten both sides.

A whitening is fitted to the samples whose influence is asked for, so a sequence with much variance of its own in some
direction is made to look usual there. In whitened coordinates, with Q_s the samples of a sequence and H_s = Q_s Q_s',

    Xc'Xc without the sequence  =  I - Q_s'Q_s,  and its inverse follows from (I - H_s)^-1.

As in regression, where residuals are too small by (1 - h)^1/2, the derivative of a value is too small by that factor,
and leaving a sequence out is too large by it (HC0 and HC3 of MacKinnon & White 1985). HC2, between them, is unbiased.
A value is quadratic in the samples, so each of these enters its influence as (I - H_s)^-1/4 X_s.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.numerics.whitening import Whitening
from dissimilarity.moments.pair import Moments
from dissimilarity.moments.paired_samples import Part
from dissimilarity.moments.products import sum_device
from dissimilarity.moments.second_pass import SecondPass

LEAST = 1e-3
"""Smallest share of a direction's variance that counts as left without a sequence."""

ROUNDING = 10.0
"""Rounding of eigenvalues, in units of that of a sum over the samples of a sequence."""


@dataclass(frozen=True)
class Leverage:
    """Leverage of the sequences of one side, part by part.

    Attributes:
        mean: mean of the samples.
        directions: orthonormal directions among the samples of each sequence, (sequences, length, k).
        gains: by how much (I - H_s)^-1/4 stretches each of them, (sequences, k).
    """

    mean: Float[Tensor, " p"]
    directions: list[Tensor]
    gains: list[Tensor]

    def spread(self, x: Float[Tensor, "n p"], part: Part) -> Float[Tensor, "n p"]:
        """Return the samples of a part with each sequence stretched by its leverage, about the mean."""
        mean, directions = self.mean.to(x), self.directions[part.number]
        rows = part.members.rows((x - mean)[None])
        stretch = directions @ (self.gains[part.number][..., None] * (directions.mT @ rows))
        return x + part.members.samples(stretch, 1)[0]


def leverage(white: Whitening, mean: Float[Tensor, " p"]) -> SecondPass[Leverage]:
    """Return the leverage of each sequence.

    Args:
        white: whitening of the side, as the only one of a batch.
        mean: mean of the samples.
    """
    result = Leverage(mean, [], [])

    def add(part: Part) -> Moments:
        (x,) = part.x.samples
        fast = replace(
            white,
            scale=white.scale.to(x),
            lower=None if white.lower is None else white.lower.to(x),
            basis=None if white.basis is None else white.basis.to(x),
        )
        rows = part.members.rows(fast((x - mean.to(x)).mT[None])[0].mT[None])
        wide = rows.shape[1] <= rows.shape[2]
        grams = (rows @ rows.mT if wide else rows.mT @ rows).to(sum_device(x.device)).double()
        values, vectors = torch.linalg.eigh(grams)
        if not wide:
            # Directions that a sequence of lower rank lacks have eigenvalues of rounding, of either sign.
            least = ROUNDING * torch.finfo(x.dtype).eps * rows.shape[1] * values.amax(1, keepdim=True)
            sizes = torch.where(values > least, values, torch.inf)
            vectors = rows.double() @ (vectors * sizes.rsqrt()[:, None])
        result.directions.append(vectors.to(x))
        result.gains.append(((1 - values).clamp(min=LEAST) ** -0.25 - 1).to(x))
        return {}

    return SecondPass(add, lambda sums: result)
