"""One model's side of a comparison: what measures need of it alone, from activations of some sequences at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor

from dissimilarity.moments.agreement import together
from dissimilarity.moments.chunk import Chunk
from dissimilarity.moments.finite import count_not_finite
from dissimilarity.moments.pair import as_rows, heavy, in_range, shifted, side_moments, squared_norms, worthwhile_shift
from dissimilarity.moments.running import Sums, all_reduce
from dissimilarity.probe.padding import Uneven, seeded_rows
from dissimilarity.probe.sampling import sampled_positions, sampled_rows


@dataclass(frozen=True)
class Seen:
    """Rows that one sample measure sees.

    Attributes:
        rows: their places among those that are held.
        sequence: of which sequence each is.
        shift: how far they are shifted for the null, so that none meets a row of its own sequence.
    """

    rows: Int[Tensor, " n"]
    sequence: Int[Tensor, " n"]
    shift: int


class Side:
    """What the measures need of one model on the probe set.

    Args:
        groups: number of jackknife groups.
        samples: most rows, over all processes, that the sample measures see; 0 for none.
        of: number of sequences over all processes, out of which those are.
        sync: whether the processes of ``torch.distributed`` each hold a part of the probe set.
        moments: whether any measure reads sums.
        only_sampled: sites of which the sample measures alone see rows, and ``add`` gets no others.
        uneven: how many rows each sequence has, where they have unequally many; then chunks are of one group each, and
            hold (1, rows, d) of a site that has positions.
    """

    def __init__(
        self,
        groups: int,
        samples: int = 0,
        of: int = 0,
        sync: bool = False,
        moments: bool = True,
        only_sampled: frozenset[str] = frozenset(),
        uneven: Uneven | None = None,
    ) -> None:
        self.wanted, self.of, self.sync, self.moments = samples, of, sync, moments
        self.only_sampled, self.uneven = only_sampled, uneven
        self.sums = Sums(groups)
        self.n_groups = torch.zeros(groups, dtype=torch.float64)
        self.samples: dict[str, Tensor] = {}
        self.sequence_groups = torch.zeros(0, dtype=torch.int64)
        self.sequences = 0
        self.prepared: dict[tuple[str, str], Any] = {}
        self.shift: dict[str, Tensor] = {}
        self._not_finite: dict[str, int] = {}
        self._sampled: dict[str, list[Tensor]] = {}
        self._sequence_groups: list[Tensor] = []
        self._uneven: set[str] = set()

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.n_groups.sum())

    def seen(self, site: str, samples: int, seed: int) -> Seen:
        """Which of the rows that are held for all sample measures one of them sees at a site."""
        if self.uneven is not None and site in self._uneven:
            rows = seeded_rows(len(self.samples[site]), samples, seed)
            sequence = self.uneven.sequence[rows]
            return Seen(rows, sequence, int(sequence.bincount().max()))
        length = len(self.samples[site]) // max(self.sequences, 1)
        chosen = sampled_rows(self.sequences, length, samples, seed)
        return Seen(chosen.flatten(), chosen.flatten() // length, chosen.shape[1])

    def add(self, acts: Mapping[str, Tensor], groups: range) -> Chunk:
        """Adds the activations of some whole sequences.

        Args:
            acts: site -> (sequences, ..., d); everything between counts as positions.
            groups: the jackknife groups that these sequences make up, in equal parts.

        Returns:
            the chunk, for ``Cross.add``.
        """
        chunk = self.chunk(acts, groups)
        per_group, before = 0, int(self.n_groups[groups.start])
        for site, rows in chunk.rows.items():
            per_group = rows.shape[1]
            self._not_finite[site] = self._not_finite.get(site, 0) + count_not_finite(rows)
            if self.moments:
                totals, by_group = side_moments(rows, chunk.norms[site], chunk.apart[site])
                for key, total in totals.items():
                    self.sums.add(site, key, total, by_group[key], groups)
        if self.wanted:
            for site, activation in acts.items():
                self._sampled.setdefault(site, []).append(self._sample(site, activation, groups.start, before))
        if self.uneven is None:
            sequences = len(next(iter(acts.values())))
            self._sequence_groups.append(torch.tensor(groups).repeat_interleave(sequences // len(groups)))
            self.sequences += sequences
        self.n_groups[groups.start : groups.stop] += per_group
        return chunk

    def _sample(self, site: str, activation: Tensor, group: int, before: int) -> Tensor:
        """The rows of a chunk that the sample measures see; of sequences of one length the same positions of each.

        Args:
            site: the site.
            activation: of the chunk.
            group: its first group.
            before: rows of that group in chunks before this one.
        """
        if self.uneven is not None and activation.ndim > 2:
            self._uneven.add(site)
            rows = as_rows(activation)
            if site in self.only_sampled:
                return rows
            first = self.uneven.before_group(group) + before
            return rows[self.uneven.sampled_among(first, len(rows)).to(rows.device)]
        by_sequence = as_rows(activation).unflatten(0, (len(activation), -1))
        if site not in self.only_sampled and by_sequence.shape[1] > 1:
            positions = sampled_positions(self.of, by_sequence.shape[1], self.wanted)
            by_sequence = by_sequence[:, positions.to(by_sequence.device)]
        return by_sequence.flatten(0, 1)

    def chunk(self, acts: Mapping[str, Tensor], groups: range) -> Chunk:
        """The activations of some whole sequences as shifted rows."""
        rows: dict[str, Tensor] = {}
        norms: dict[str, Tensor] = {}
        apart: dict[str, Tensor] = {}
        shift = 0
        for site, activation in acts.items():
            if site in self.only_sampled:
                continue
            x = as_rows(activation)
            shift = len(x) // len(activation)
            if self.uneven is not None and activation.ndim > 2:
                shift = self.uneven.longest(groups.start)
            by_group = x.unflatten(0, (len(groups), -1))
            rows[site] = shifted(by_group, self._shift(site, by_group[0])) if self.moments else by_group
            if self.moments:
                norms[site] = squared_norms(rows[site])
                apart[site] = heavy(norms[site]).to(x.device)
        counts = {site: part.shape[1] for site, part in rows.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"expected as many samples at every site, found (by site, in a group) {counts}; "
                "pool the positions (pool=mean), or compare such sites in calls of their own"
            )
        return Chunk(rows, norms, apart, groups, shift)

    def settle(self, acts: Mapping[str, Tensor]) -> None:
        """Settles with the other processes what samples are taken about, so that each can then go on alone."""
        with together(self.sync):
            rows = {site: as_rows(x) for site, x in acts.items() if self.moments and site not in self.only_sampled}
            shifts = {site: worthwhile_shift(x).to(x) for site, x in rows.items()}
        for shift in shifts.values():
            dist.broadcast(shift, src=0)
        self.shift |= shifts

    def _shift(self, site: str, x: Tensor) -> Tensor:
        """What all rows are taken about: by the first group of the first chunk, whatever comes in one batch with it.

        With several processes, that of the first process, which has the same first group as one process alone.
        """
        if site not in self.shift:
            shift = worthwhile_shift(x).to(x)
            if self.sync:
                dist.broadcast(shift, src=0)
            self.shift[site] = shift
        return self.shift[site]

    def close(self) -> "Side":
        """Ends the accumulation: adds up the processes' sums and collects their sampled rows in order."""
        with together(self.sync):
            self.samples = {site: torch.cat(parts) for site, parts in self._sampled.items()}
            self.sequence_groups = torch.cat(self._sequence_groups) if self._sequence_groups else self.sequence_groups
        if self.uneven is not None:
            self.sequence_groups, self.sequences = self.uneven.groups, len(self.uneven.groups)
        self._sampled.clear()
        self._sequence_groups.clear()
        if self.sync:
            self.sums.all_reduce()
            all_reduce(self.n_groups)
            mine = (
                {site: rows.cpu() for site, rows in self.samples.items()},
                self.sequence_groups,
                self._not_finite,
                self.sequences,
            )
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, mine)
            for site, rows in self.samples.items():
                self.samples[site] = torch.cat([part[0][site] for part in parts]).to(rows.device)
            if self.uneven is None:
                self.sequence_groups = torch.cat([part[1] for part in parts])
                self.sequences = sum(part[3] for part in parts)
            self._not_finite = {site: sum(part[2][site] for part in parts) for site in self._not_finite}
        return self

    def problem(self, site: str) -> str:
        """What keeps a site from being compared; empty if nothing."""
        if self._not_finite[site]:
            return f"{self._not_finite[site]} values at {site} are NaN or infinite"
        if not self.moments:
            rows = self.samples[site]
            return f"zero variance at {site}" if bool((rows == rows[:1]).all()) else ""
        sums = self.sums.totals[site]
        if not in_range(sums):
            return f"values at {site} are too large or too small for float32 sums"
        # Relative to the second moment about the first chunk's mean, which float64 rows may miss by a rounding.
        if bool(sums["a"] - sums["x"] @ sums["x"] / self.n <= 1e-12 * sums["a"]):
            return f"zero variance at {site}"
        return ""
