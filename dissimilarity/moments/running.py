"""Running sums over samples, by what they belong to: a site of one model, or a block of site pairs of two."""

import torch
import torch.distributed as dist
from torch import Tensor

from dissimilarity.moments.halves import SUMS_OF_HALVES, in_first_half
from dissimilarity.moments.pair import Moments
from dissimilarity.moments.products import add_in_place, sum_in_float64


class RunningSums:
    """Running sums by site: totals in float64, and sums per unit as they come, which serve the error bars.

    Args:
        n_units: number of units; with fewer than 2 there is no error bar, and nothing is kept per unit.
        halves: whether to keep sums over the first half of the units.

    Attributes:
        totals: site or block -> sums over all samples.
        units: site or block -> the same sums per unit.
        first_half: site or block -> sums over the samples of the first half of the units.
    """

    def __init__(self, n_units: int, halves: bool = False) -> None:
        self.n_units = n_units if n_units > 1 else 0
        self.halves = halves
        self.first_half: dict[str, Moments] = {}
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
        if self.halves and key in SUMS_OF_HALVES:
            self._add_to_half(name, key, per_unit, units, shape, place)
        if not self.n_units:
            return
        if key not in units_sums and per_unit.shape == (self.n_units, *shape):
            units_sums[key] = per_unit
            return
        if key not in units_sums:
            units_sums[key] = per_unit.new_zeros((self.n_units, *shape))
        units_sums[key][units.start : units.stop, *place] += per_unit

    def _add_to_half(
        self, name: str, key: str, per_unit: Tensor, units: range, whole: tuple[int, ...], place: tuple[slice, ...]
    ) -> None:
        """Add the sums of the units of a chunk that are in the first half."""
        sums = self.first_half.setdefault(name, {})
        if key not in sums:
            sums[key] = per_unit.new_zeros(whole, dtype=torch.float64)
        selected = per_unit[in_first_half(torch.tensor(units))]
        if len(selected):
            sums[key][place] += sum_in_float64(selected) if selected.ndim == 3 else selected.double().sum(0)

    def all_reduce(self) -> None:
        """Add the sums of all processes."""
        for sums in (self.totals, self.units, self.first_half):
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
