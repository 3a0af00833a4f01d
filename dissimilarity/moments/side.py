"""The sums of one model: what measures need of it alone, from activations of a few sequences at a time."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dissimilarity.moments.agreement import together
from dissimilarity.moments.chunk import Chunk, squares_of, with_sequences
from dissimilarity.moments.finite import not_finite_by
from dissimilarity.moments.halves import as_first_half, in_first_half
from dissimilarity.moments.pair import Moments, in_range, side_moments
from dissimilarity.moments.products import as_samples, choose_offset, find_outlier_rows, remove_offset, squared_norms
from dissimilarity.moments.running import RunningSums, all_reduce
from dissimilarity.moments.sequences import Sequences
from dissimilarity.probe.padding import SampledSubset, SequenceLengths


class Side:
    """What the measures need of one model on the probe set.

    Args:
        lengths: units and lengths of the sequences of the whole probe set, and the sample budget. Where lengths vary,
            chunks hold one unit each, as (1, n, d) at sites that have positions.
        sync: whether the processes of ``torch.distributed`` each hold a part of the probe set.
        moments: whether any measure reads sums.
        only_sampled: sites that only sample measures read; ``add`` gets no other samples there.
        by_sequence: whether any measure reads sums over sequences.
        halves: whether any measure reads sums over halves of the units.
        stored: whether the samples can be read again, so that no sums per unit are needed.

    Attributes:
        sums: the sums of each site.
        samples: site -> the samples that sample measures read, once closed.
        varying: sites whose samples are those of sequences of given, perhaps unequal lengths.
        sequence_sums: the sum of each sequence, by site.
        samples_per_unit: number of samples of each unit.
        prepared: what measures computed from this side alone, by measure, site and, for p, the samples that are shared.
        prepared_again: the same with what each sequence adds, from samples that were read again; or why there is none.
        ranks: ranks of whitened sites, by measure and site.
        collinear: whether the features of a site are nearly collinear, as far as this was asked.
    """

    def __init__(
        self,
        lengths: SequenceLengths,
        sync: bool = False,
        moments: bool = True,
        only_sampled: frozenset[str] = frozenset(),
        by_sequence: bool = True,
        halves: bool = True,
        stored: bool = False,
    ) -> None:
        self.lengths, self.sync, self.moments, self.only_sampled = lengths, sync, moments, only_sampled
        self.by_sequence, self.stored = moments and by_sequence, stored
        self.sums = RunningSums(0 if stored else lengths.n_units, halves)
        self.sequence_sums = RunningSums(0)
        self.samples_per_unit = torch.zeros(lengths.n_units, dtype=torch.float64)
        self.samples: dict[str, Tensor] = {}
        self.varying: set[str] = set()
        self.prepared: dict[tuple[str, ...], Any] = {}
        self.prepared_again: dict[tuple[str, str], Any] = {}
        self.ranks: dict[tuple[str, str], int | None] = {}
        self.collinear: dict[str, bool] = {}
        self.offset: dict[str, Tensor] = {}
        self.closed = False
        self._not_finite: dict[str, Counter[int]] = {}
        self._sampled: dict[str, list[Tensor]] = {}

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.samples_per_unit.sum())

    @property
    def units(self) -> Tensor:
        """The unit of each sequence for error bars: a sequence where samples are stored, else a group of them."""
        return self.lengths.error_units if self._has_own_units else self.lengths.units

    @property
    def n_units(self) -> int:
        """Number of units of error bars."""
        return self.lengths.n_error_units if self._has_own_units else self.lengths.n_units

    @property
    def _has_own_units(self) -> bool:
        return self.stored and self.lengths.n_units > 1

    def counts(self) -> tuple[Moments, Moments]:
        """Return ``n`` and, with sums over sequences, ``lengths``: over all samples, and per unit."""
        n = self.samples_per_unit
        totals, units = {"n": n.sum()}, {"n": n}
        if self.sums.halves:
            totals |= as_first_half({"n": n[in_first_half(torch.arange(len(n)))].sum()})
        if self.sequence_sums.totals:
            lengths, is_member = self.lengths.relative, self.lengths.units == torch.arange(len(n))[:, None]
            totals, units = {**totals, "lengths": lengths}, {**units, "lengths": lengths * is_member}
        device = next((sums["a"].device for sums in self.sums.totals.values()), n.device)
        totals, units = ({key: value.to(device) for key, value in counts.items()} for counts in (totals, units))
        return totals, units

    def totals(self, site: str) -> Moments:
        """Return the sums of a site over all samples, and over those of the first half."""
        first_half = as_first_half(self.sums.first_half.get(site, {}))
        return {**self.sums.totals[site], **first_half, **self.sequence_sums.totals.get(site, {})}

    def is_float32(self, site: str) -> bool:
        """Return whether the sums of a site are those of float32 products."""
        return bool(self.sums.totals[site]["eps_x"] > 1e-10 * self.n)

    def subset(self, site: str, max_samples: int, seed: int) -> SampledSubset:
        """Return which of the samples kept for all sample measures one of them reads at a site."""
        return self.lengths.subset(len(self.samples[site]), site in self.varying, max_samples, seed)

    def add(self, acts: Mapping[str, Tensor], units: range) -> Chunk:
        """Add the activations of a few whole sequences.

        Args:
            acts: site -> (sequences, ..., d); all dimensions between are positions.
            units: the units that these sequences form, in equal parts.

        Returns:
            the chunk, for ``Cross.add``.
        """
        before = int(self.samples_per_unit[units.start])
        chunk = self.chunk(acts, units, before)
        for site, samples in chunk.samples.items():
            self._not_finite.setdefault(site, Counter()).update(not_finite_by(chunk.labels[0], samples))
        if self.lengths.max_samples:
            for site, activation in acts.items():
                self._keep_sampled(site, activation, units.start, before)
        self.add_chunk(chunk)
        return chunk

    def add_chunk(self, chunk: Chunk) -> None:
        """Add the samples of a chunk to the sums."""
        for site in chunk.samples if self.moments else ():
            self._add_sums(chunk, site)
        self.samples_per_unit[chunk.units.start : chunk.units.stop] += chunk.count

    def of_chunk(self, chunk: Chunk) -> "Side":
        """Return the sums of a chunk of all sequences alone, in the place of these."""
        side = Side(self.lengths, by_sequence=self.by_sequence, halves=False, stored=True)
        side.add_chunk(chunk)
        side.closed = True
        return side

    def _add_sums(self, chunk: Chunk, site: str) -> None:
        """Add the samples of a chunk at a site to its sums."""
        sequences = chunk.sequences
        parts = [chunk.samples[site], chunk.norms[site], chunk.outlier_rows[site]]
        if sequences is not None:
            parts.append(sequences.with_powers(chunk.weights_of([site])))
        if self.stored:
            parts = [values.flatten(0, 1)[None] for values in parts]
        samples, _, outlier_rows = parts[:3]
        totals, unit_sums = side_moments(*parts)
        sums = [(key, total, unit_sums[key]) for key, total in totals.items()]
        if sequences is not None:
            squares = squares_of(chunk, [site], chunk, [site])[:, 0, 0]
            sums += sequences.squares("gg", squares, len(chunk.units))
            sums += sequences.products("xx", samples, samples, outlier_rows)
            u = chunk.sums[site]
            self.sequence_sums.add(site, "u", u, u, chunk.units, (sequences.count, u.shape[1]), (sequences.places,))
            if self.stored:
                self.sequence_sums.add(
                    site, "gg_s", squares, squares, chunk.units, (sequences.count,), (sequences.places,)
                )
        for key, total, per_unit in sums:
            self.sums.add(site, key, total, per_unit, chunk.units)

    def _keep_sampled(self, site: str, activation: Tensor, unit: int, before: int) -> None:
        """Keep the samples of a chunk that the sample measures read.

        Args:
            site: the site.
            activation: activation of the chunk.
            unit: its first unit.
            before: samples of that unit in earlier chunks.
        """
        if self.lengths.vary_in(activation):
            self.varying.add(site)
        samples = as_samples(activation)
        if site not in self.only_sampled:
            index = self.lengths.sampled_in_chunk(activation, unit, before)
            samples = samples if index is None else samples[index.to(samples.device)]
        self._sampled.setdefault(site, []).append(samples)

    def chunk(self, acts: Mapping[str, Tensor], units: range, before: int) -> Chunk:
        """Return the activations of a few whole sequences as samples without their offset.

        Args:
            acts: as for ``add``.
            units: as for ``add``.
            before: samples of the first unit in earlier chunks.
        """
        samples: dict[str, Tensor] = {}
        norms: dict[str, Tensor] = {}
        outlier_rows: dict[str, Tensor] = {}
        labels = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        for site, activation in acts.items():
            if site in self.only_sampled:
                continue
            labels = self.lengths.labels(activation, units, before)
            samples[site] = self._without_offset(site, activation, units)
            if self.moments:
                norms[site] = squared_norms(samples[site])
                outlier_rows[site] = find_outlier_rows(norms[site]).to(activation.device)
        counts = {site: part.shape[1] for site, part in samples.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"expected as many samples at every site, found (by site, per unit) {counts}; pool the positions "
                "(pool='mean'), or compare such sites in separate calls"
            )
        activation = next((acts[site] for site in samples), next(iter(acts.values())))
        members = Sequences.of_chunk(self.lengths, activation, units, before)
        chunk = Chunk(samples, norms, outlier_rows, units, labels, members)
        return with_sequences(chunk, None if not self.by_sequence or members.single else members)

    def chunk_again(self, chunk: Chunk, acts: Mapping[str, Tensor]) -> Chunk:
        """Return a chunk with its samples, of which only what follows from them was kept.

        Args:
            chunk: the chunk without samples.
            acts: its activations at some sites, as for ``add``.
        """
        sites = [site for site in acts if site not in self.only_sampled]
        samples = {site: self._without_offset(site, acts[site], chunk.units) for site in sites}
        return replace(chunk, samples=samples, grams={})

    def _without_offset(self, site: str, activation: Tensor, units: range) -> Tensor:
        """Return the samples of an activation (units, n, d), without their offset where measures read sums."""
        samples = as_samples(activation).unflatten(0, (len(units), -1))
        return remove_offset(samples, self._offset(site, samples[0])) if self.moments else samples

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
            self.sequence_sums.all_reduce()
            all_reduce(self.samples_per_unit)
            on_cpu = {site: samples.cpu() for site, samples in self.samples.items()}
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, (on_cpu, self._not_finite))
            for site, samples in self.samples.items():
                self.samples[site] = torch.cat([part[0][site] for part in parts]).to(samples.device)
            self._not_finite = {site: sum((part[1][site] for part in parts), Counter()) for site in self._not_finite}
        return self

    def _place_of(self, faulty: list[int]) -> str:
        """Return which sequences are faulty, and what to do; empty if they are half of all or more."""
        sequences = len(self.lengths.units)
        if 2 * len(faulty) >= sequences:
            return ""
        one = len(faulty) == 1
        place = f"sequence{'' if one else 's'} {' and '.join(map(str, faulty))} of {sequences}"
        if len(faulty) > 2:
            place = f"{len(faulty)} of {sequences} sequences, such as {faulty[0]}"
        return f", in {place}: leave {'it' if one else 'them'} out, or look for overflow in the model"

    def problem(self, site: str) -> str:
        """Return what prevents a site from being compared; empty if nothing does."""
        if counts := +self._not_finite[site]:
            values = "1 value" if counts.total() == 1 else f"{counts.total()} values"
            are = "is" if counts.total() == 1 else "are"
            return f"{values} at {site} {are} NaN or infinite{self._place_of(sorted(counts))}"
        if not self.moments:
            samples = self.samples[site]
            return f"zero variance at {site}" if bool((samples == samples[:1]).all()) else ""
        sums = self.sums.totals[site]
        if not in_range(sums):
            return f"values at {site} are too large or too small for their products: scale them to about 1"
        # Relative to the second moment about the first chunk's mean, which float64 samples may miss by a rounding.
        if bool(sums["a"] - sums["x"] @ sums["x"] / self.n <= 1e-12 * sums["a"]):
            return f"zero variance at {site}"
        return ""
