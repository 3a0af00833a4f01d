"""Derivatives of values with respect to sums, as many samples are multiplied with them."""

from typing import NamedTuple

from dissimilarity.moments.bilinear import Matrices
from dissimilarity.moments.pair import Moments

PRODUCTS = {"xx", "yy", "xy"}
"""Sums that are matrices, also with powers of the lengths of sequences."""


class Slopes(NamedTuple):
    """Derivatives with respect to the sums of ``moments.pair`` and ``moments.sequences``, (pairs, ...).

    Attributes:
        matrices: those with respect to products of both sides or of one.
        others: those with respect to vectors and numbers.
    """

    matrices: dict[str, Matrices]
    others: Moments

    @classmethod
    def of(cls, slopes: Moments) -> "Slopes":
        """Return slopes by kind."""
        matrices = {key: Matrices(slope) for key, slope in slopes.items() if key[:2] in PRODUCTS}
        return cls(matrices, {key: slope for key, slope in slopes.items() if key not in matrices})
