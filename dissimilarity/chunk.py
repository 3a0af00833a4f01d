"""The activations of a few whole sequences, as the sums over samples take them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """Some whole sequences that make up consecutive jackknife groups in equal parts.

    Attributes:
        rows: site -> shifted rows (groups, n, p).
        norms: site -> their squared norms (groups, n).
        apart: site -> which of them are heavy (groups, n).
        groups: which groups.
        sequences: how many sequences there are of each group.
        rolled: whether each sequence stands in the place of the one before it in its group.
    """

    rows: dict[str, Tensor]
    norms: dict[str, Tensor]
    apart: dict[str, Tensor]
    groups: range
    sequences: int
    rolled: bool = False

    def rows_of(self, sites: Sequence[str]) -> Tensor:
        """Rows of some sites side by side (groups, n, columns); of one without a copy, unless rolled."""
        parts = [self.rows[site] for site in sites]
        if len(parts) == 1:
            return self._in_place(parts[0])
        # One site after the other: all rolled at once would be a second copy of the largest thing in a batch.
        widths = [part.shape[-1] for part in parts]
        whole = parts[0].new_empty((*parts[0].shape[:-1], sum(widths)))
        for part, columns in zip(parts, whole.split(widths, -1), strict=True):
            columns.copy_(self._in_place(part))
        return whole

    def norms_of(self, sites: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Squared norms at some sites (groups, n, sites), and which rows are heavy at any of them (groups, n)."""
        norms, apart = (torch.stack([of[site] for site in sites], -1) for of in (self.norms, self.apart))
        return self._in_place(norms), self._in_place(apart.any(-1))

    def _in_place(self, of: Tensor) -> Tensor:
        """What is known of each row (groups, n, ...), in the order in which its sequences are to be met."""
        return of.unflatten(1, (self.sequences, -1)).roll(-1, 1).flatten(1, 2) if self.rolled else of

    def deranged(self) -> "Chunk":
        """The same chunk with each sequence in the place of the one before it in its group: none meets itself.

        Of two sides the first is the one to derange, since its rows are copied anyway.
        """
        if self.sequences < 2:
            raise ValueError(
                "the null shifts sequences against each other and needs at least two in a group, found one; "
                "raise the number of sequences or lower the number of groups"
            )
        return replace(self, rolled=True)
