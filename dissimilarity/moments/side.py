"""The sums of one model: what measures need of it alone, from activations of a few sequences at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dissimilarity.moments.agreement import together
from dissimilarity.moments.finite import count_not_finite
from dissimilarity.moments.pair import in_range, side_moments
from dissimilarity.moments.products import as_samples, choose_offset, find_outlier_rows, remove_offset, squared_norms
from dissimilarity.moments.running import RunningSums, all_reduce
from dissimilarity.probe.padding import SampledSubset, SequenceLengths


@dataclass(frozen=True)
class Chunk:
    """Samples of a few whole sequences, which form consecutive units of equal size.

    Attributes:
        samples: site -> samples without their offset (units, n, p).
        norms: site -> their squared norms (units, n).
        outlier_rows: site -> which of them are outliers (units, n).
        units: which units.
        roll: samples of the longest sequence of these units, by which the null rolls them.
        rolled: whether samples are rolled by that against those of other chunks. With sequences of equal length, each
            then takes the place of the one before it in its unit.
    """

    samples: dict[str, Tensor]
    norms: dict[str, Tensor]
    outlier_rows: dict[str, Tensor]
    units: range
    roll: int
    rolled: bool = False

    def side_by_side(self, sites: Sequence[str]) -> Tensor:
        """Return the samples of some sites side by side (units, n, columns); for one site without a copy."""
        parts = [self.samples[site] for site in sites]
        if len(parts) == 1:
            return self._in_order(parts[0])
        # One site after the other: rolling all at once would be a second copy of the largest tensor of a batch.
        widths = [part.shape[-1] for part in parts]
        joined = parts[0].new_empty((*parts[0].shape[:-1], sum(widths)))
        for part, columns in zip(parts, joined.split(widths, -1), strict=True):
            columns.copy_(self._in_order(part))
        return joined

    def norms_of(self, sites: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return squared norms at some sites (units, n, sites), and which samples are outliers at any (units, n)."""
        norms = torch.stack([self.norms[site] for site in sites], -1)
        outlier_rows = torch.stack([self.outlier_rows[site] for site in sites], -1).any(-1)
        return self._in_order(norms), self._in_order(outlier_rows)

    def _in_order(self, values: Tensor) -> Tensor:
        """Return values per sample (units, n, ...) in the order in which they meet the other model's."""
        return values.roll(-self.roll, 1) if self.rolled else values

    def deranged(self) -> "Chunk":
        """Return the chunk, rolled within each unit until no sample meets one of the same sequence.

        Derange the first of two sides: its samples are copied anyway.
        """
        count = next((samples.shape[1] for samples in self.samples.values()), 0)
        if count < 2 * self.roll:
            raise ValueError(
                "the null rolls sequences against each other and needs at least two per unit, none with more than half "
                f"of its samples, found one with {self.roll} of {count}; pass more sequences or a smaller n_units"
            )
        return replace(self, rolled=True)


class Side:
    """What the measures need of one model on the probe set.

    Args:
        lengths: units and lengths of the sequences of the whole probe set, and the sample budget. Where lengths vary,
            chunks hold one unit each, as (1, n, d) at sites that have positions.
        sync: whether the processes of ``torch.distributed`` each hold a part of the probe set.
        moments: whether any measure reads sums.
        only_sampled: sites that only sample measures read; ``add`` gets no other samples there.

    Attributes:
        sums: the sums of each site.
        samples: site -> the samples that sample measures read, once closed.
        samples_per_unit: number of samples of each unit.
        prepared: what measures computed from this side alone, by measure and site.
    """

    def __init__(
        self,
        lengths: SequenceLengths,
        sync: bool = False,
        moments: bool = True,
        only_sampled: frozenset[str] = frozenset(),
    ) -> None:
        self.lengths, self.sync, self.moments, self.only_sampled = lengths, sync, moments, only_sampled
        self.sums = RunningSums(lengths.n_units)
        self.samples_per_unit = torch.zeros(lengths.n_units, dtype=torch.float64)
        self.samples: dict[str, Tensor] = {}
        self.prepared: dict[tuple[str, str], Any] = {}
        self.offset: dict[str, Tensor] = {}
        self.closed = False
        self._not_finite: dict[str, int] = {}
        self._sampled: dict[str, list[Tensor]] = {}
        self._varying: set[str] = set()

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.samples_per_unit.sum())

    def subset(self, site: str, max_samples: int, seed: int) -> SampledSubset:
        """Return which of the samples kept for all sample measures one of them reads at a site."""
        return self.lengths.subset(len(self.samples[site]), site in self._varying, max_samples, seed)

    def add(self, acts: Mapping[str, Tensor], units: range) -> Chunk:
        """Add the activations of a few whole sequences.

        Args:
            acts: site -> (sequences, ..., d); all dimensions between are positions.
            units: the units that these sequences form, in equal parts.

        Returns:
            the chunk, for ``Cross.add``.
        """
        chunk = self.chunk(acts, units)
        per_unit, before = 0, int(self.samples_per_unit[units.start])
        for site, samples in chunk.samples.items():
            per_unit = samples.shape[1]
            self._not_finite[site] = self._not_finite.get(site, 0) + count_not_finite(samples)
            if self.moments:
                totals, unit_sums = side_moments(samples, chunk.norms[site], chunk.outlier_rows[site])
                for key, total in totals.items():
                    self.sums.add(site, key, total, unit_sums[key], units)
        if self.lengths.max_samples:
            for site, activation in acts.items():
                self._keep_sampled(site, activation, units.start, before)
        self.samples_per_unit[units.start : units.stop] += per_unit
        return chunk

    def _keep_sampled(self, site: str, activation: Tensor, unit: int, before: int) -> None:
        """Keep the samples of a chunk that the sample measures read.

        Args:
            site: the site.
            activation: activation of the chunk.
            unit: its first unit.
            before: samples of that unit in earlier chunks.
        """
        if self.lengths.vary_in(activation):
            self._varying.add(site)
        samples = as_samples(activation)
        if site not in self.only_sampled:
            index = self.lengths.sampled_in_chunk(activation, unit, before)
            samples = samples if index is None else samples[index.to(samples.device)]
        self._sampled.setdefault(site, []).append(samples)

    def chunk(self, acts: Mapping[str, Tensor], units: range) -> Chunk:
        """Return the activations of a few whole sequences as samples without their offset."""
        samples: dict[str, Tensor] = {}
        norms: dict[str, Tensor] = {}
        outlier_rows: dict[str, Tensor] = {}
        roll = 0
        for site, activation in acts.items():
            if site in self.only_sampled:
                continue
            roll = self.lengths.roll(activation, units.start)
            samples[site] = as_samples(activation).unflatten(0, (len(units), -1))
            if self.moments:
                samples[site] = remove_offset(samples[site], self._offset(site, samples[site][0]))
                norms[site] = squared_norms(samples[site])
                outlier_rows[site] = find_outlier_rows(norms[site]).to(activation.device)
        counts = {site: part.shape[1] for site, part in samples.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"expected as many samples at every site, found (by site, per unit) {counts}; pool the positions "
                "(pool='mean'), or compare such sites in separate calls"
            )
        return Chunk(samples, norms, outlier_rows, units, roll)

    def agree_on_offsets(self, acts: Mapping[str, Tensor], units: range) -> None:
        """Share the offsets of the first process, from its first chunk, so that each can continue alone."""
        with together(self.sync):
            sites = [site for site in acts if self.moments and site not in self.only_sampled]
            first = {site: as_samples(acts[site]).unflatten(0, (len(units), -1))[0] for site in sites}
            offsets = {site: choose_offset(samples).to(samples) for site, samples in first.items()}
        for offset in offsets.values():
            dist.broadcast(offset, src=0)
        self.offset |= offsets

    def _offset(self, site: str, x: Tensor) -> Tensor:
        """Return the offset of a site: from the first unit of the first chunk, whatever else is in that batch.

        With several processes it is that of the first process, whose first unit is the first unit of one process alone.
        """
        if site not in self.offset:
            offset = choose_offset(x).to(x)
            if self.sync:
                dist.broadcast(offset, src=0)
            self.offset[site] = offset
        return self.offset[site]

    def close(self) -> "Side":
        """End the accumulation: add up the sums of all processes and collect their sampled samples in order."""
        with together(self.sync):
            self.samples = {site: torch.cat(parts) for site, parts in self._sampled.items()}
        self._sampled.clear()
        self.closed = True
        if self.sync:
            self.sums.all_reduce()
            all_reduce(self.samples_per_unit)
            on_cpu = {site: samples.cpu() for site, samples in self.samples.items()}
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, (on_cpu, self._not_finite))
            for site, samples in self.samples.items():
                self.samples[site] = torch.cat([part[0][site] for part in parts]).to(samples.device)
            self._not_finite = {site: sum(part[1][site] for part in parts) for site in self._not_finite}
        return self

    def problem(self, site: str) -> str:
        """Return what prevents a site from being compared; empty if nothing does."""
        if self._not_finite[site]:
            return f"{self._not_finite[site]} values at {site} are NaN or infinite"
        if not self.moments:
            samples = self.samples[site]
            return f"zero variance at {site}" if bool((samples == samples[:1]).all()) else ""
        sums = self.sums.totals[site]
        if not in_range(sums):
            return f"values at {site} are too large or too small for float32 sums"
        # Relative to the second moment about the first chunk's mean, which float64 samples may miss by a rounding.
        if bool(sums["a"] - sums["x"] @ sums["x"] / self.n <= 1e-12 * sums["a"]):
            return f"zero variance at {site}"
        return ""
