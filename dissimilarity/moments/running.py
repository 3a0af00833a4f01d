"""Running sums over samples, by what they belong to: a site of one model, or a block of site pairs of two."""

import torch
import torch.distributed as dist
from torch import Tensor

from dissimilarity.moments.pair import Moments
from dissimilarity.moments.products import add_in_place


class RunningSums:
    """Running sums by site: totals in float64, and sums per unit as they come, which serve the error bars.

    Args:
        n_units: number of units; with fewer than 2 there is no error bar, and nothing is kept per unit.

    Attributes:
        totals: site or block -> sums over all samples.
        units: site or block -> the same sums per unit.
    """

    def __init__(self, n_units: int) -> None:
        self.n_units = n_units if n_units > 1 else 0
        self.totals: dict[str, Moments] = {}
        self.units: dict[str, Moments] = {}

    def add(
        self,
        name: str,
        key: str,
        total: Tensor,
        per_unit: Tensor,
        units: range,
        whole: tuple[int, ...] | None = None,
        place: tuple[slice, ...] = (),
    ) -> None:
        """Add the sum of one chunk, or a part of it; the first tensor of a sum is taken over without a copy.

        Args:
            name: the site or block.
            key: which sum, as in ``Moments``.
            total: the sum over all samples of the chunk.
            per_unit: the sums of its units, (units, ...).
            units: which units.
            whole: shape of the whole sum; None unless this is a part of it.
            place: where in the whole this part belongs.
        """
        shape = total.shape if whole is None else whole
        totals, units_sums = self.totals.setdefault(name, {}), self.units.setdefault(name, {})
        if key not in totals and total.shape == shape:
            totals[key] = total.double()
        else:
            if key not in totals:
                totals[key] = total.new_zeros(shape, dtype=torch.float64)
            add_in_place(totals[key][place], total)
        if not self.n_units:
            return
        if key not in units_sums and per_unit.shape == (self.n_units, *shape):
            units_sums[key] = per_unit
            return
        if key not in units_sums:
            units_sums[key] = per_unit.new_zeros((self.n_units, *shape))
        units_sums[key][units.start : units.stop, *place] += per_unit

    def all_reduce(self) -> None:
        """Add the sums of all processes."""
        for sums in (self.totals, self.units):
            for name in sorted(sums):
                for value in sums[name].values():
                    all_reduce(value)


def all_reduce(value: Tensor) -> None:
    """Sum a tensor over the processes in place, through the GPU where the backend needs that."""
    if dist.get_backend() == "nccl" and value.device.type == "cpu":
        on_gpu = value.cuda()
        dist.all_reduce(on_gpu)
        value.copy_(on_gpu)
    else:
        dist.all_reduce(value)
