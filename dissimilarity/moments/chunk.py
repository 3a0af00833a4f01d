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
        shift: rows of the longest sequence among them.
        rolled: whether the rows are shifted by that against those of other chunks: of sequences of one length each then
            stands in the place of the one before it in its group.
    """

    rows: dict[str, Tensor]
    norms: dict[str, Tensor]
    apart: dict[str, Tensor]
    groups: range
    shift: int
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
        return of.roll(-self.shift, 1) if self.rolled else of

    def deranged(self) -> "Chunk":
        """The same chunk with its rows shifted so far in their group that none meets a row of its own sequence.

        Of two sides the first is the one to derange, since its rows are copied anyway.
        """
        count = next((rows.shape[1] for rows in self.rows.values()), 0)
        if count < 2 * self.shift:
            raise ValueError(
                "the null shifts sequences against each other and needs at least two in a group, none with more than "
                f"half of its rows, found one with {self.shift} of {count}; raise the number of sequences or lower the "
                "number of groups"
            )
        return replace(self, rolled=True)
