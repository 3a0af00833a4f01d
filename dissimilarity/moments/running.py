"""Running sums over samples, by what they belong to: a site of one model, or a block of pairs of sites of two."""

import torch
import torch.distributed as dist
from torch import Tensor

from dissimilarity.moments.pair import Moments, accumulate


class Sums:
    """Running sums by site: exact totals in float64, and sums per group as they come, which serve the error bars.

    Args:
        groups: number of jackknife groups; of fewer than 2 there is no error bar, and nothing is kept per group.
    """

    def __init__(self, groups: int) -> None:
        self.count = groups if groups > 1 else 0
        self.totals: dict[str, Moments] = {}
        self.groups: dict[str, Moments] = {}

    def add(
        self,
        of: str,
        key: str,
        total: Tensor,
        by_group: Tensor,
        groups: range,
        whole: tuple[int, ...] | None = None,
        place: tuple[slice, ...] = (),
    ) -> None:
        """Adds the sum of one chunk, or of a part of what its sum runs over; what comes first is taken over.

        Args:
            of: the site or block.
            key: which sum, as in ``Moments``.
            total: over all rows of the chunk.
            by_group: for each of its groups, (groups, ...).
            groups: which groups.
            whole: shape of the whole sum; None where this is no part.
            place: where in the whole it belongs.
        """
        shape = total.shape if whole is None else whole
        sums, by_key = self.totals.setdefault(of, {}), self.groups.setdefault(of, {})
        if key not in sums and total.shape == shape:
            sums[key] = total.double()
        else:
            if key not in sums:
                sums[key] = total.new_zeros(shape, dtype=torch.float64)
            accumulate(sums[key][place], total)
        if not self.count:
            return
        if key not in by_key and by_group.shape == (self.count, *shape):
            by_key[key] = by_group
            return
        if key not in by_key:
            by_key[key] = by_group.new_zeros((self.count, *shape))
        by_key[key][groups.start : groups.stop, *place] += by_group

    def all_reduce(self) -> None:
        """Adds the sums of all processes."""
        for by_site in (self.totals, self.groups):
            for site in sorted(by_site):
                for value in by_site[site].values():
                    all_reduce(value)


def all_reduce(value: Tensor) -> None:
    """Sums a tensor over the processes in place, by way of the GPU where the backend knows no other."""
    if dist.get_backend() == "nccl" and value.device.type == "cpu":
        moved = value.cuda()
        dist.all_reduce(moved)
        value.copy_(moved)
    else:
        dist.all_reduce(value)
