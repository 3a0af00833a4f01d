"""The activations of many models side by side: in memory or, past a size, in files, with the sums made of them."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dissimilarity.comparison import activations as snapshot
from dissimilarity.comparison.activations import Acts
from dissimilarity.comparison.first_component import first_share
from dissimilarity.comparison.plan import Layout
from dissimilarity.moments.chunk import Chunk
from dissimilarity.moments.side import Side

SUMS = 2**29
"""Bytes that the sums over all pairs of sites of two blocks may take."""
AT_HAND = 3 * 2**29
"""Bytes of rows and sums of single models that stay from pair to pair; others are made anew for each."""
WIDE = 2**29
"""Bytes of rows side by side that stay while one model meets all others."""
WRITTEN = 2**26
"""Bytes of activations that go to one file."""

Chunks = list[tuple[Acts, range]]


class Spool:
    """Keeps the activations of models, those past `snapshot.IN_MEMORY` of all together in files that are mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.held, self.files = folder, 0, 0

    def kept(self, chunks: Iterable[tuple[Acts, range]]) -> Chunks:
        """The chunks of one model, which are read one by one."""
        found: Chunks = []
        waiting: Chunks = []
        for chunk in chunks:
            waiting.append(chunk)
            if _nbytes(waiting) >= WRITTEN:
                found += self._put(waiting)
                waiting = []
        return found + self._put(waiting)

    def _put(self, chunks: Chunks) -> Chunks:
        size = _nbytes(chunks)
        if self.held + size <= snapshot.IN_MEMORY:
            self.held += size
            return chunks
        self.files += 1
        path = self.folder / f"{self.files}.safetensors"
        snapshot.save_chunks(chunks, path)
        groups = {group for _, of in chunks for group in of}
        return snapshot.load([path], torch.device("cpu"), groups)


@dataclass(frozen=True)
class Kept:
    """One model's activations.

    Attributes:
        sites: those of representations, in depth order.
        chunks: of the whole probe set.
        device: where sums are taken.
    """

    sites: list[str]
    chunks: Chunks
    device: torch.device

    def blocks(self, groups: int) -> list[tuple[str, ...]]:
        """Its sites, so many at a time that the sums of two such blocks stay within `SUMS`."""
        most = math.isqrt(SUMS // (8 + 4 * groups))
        blocks: list[tuple[str, ...]] = []
        columns = 0
        for site in self.sites:
            width = self.width(site)
            if not blocks or columns + width > most:
                blocks.append(())
                columns = 0
            blocks[-1] = (*blocks[-1], site)
            columns += width
        return blocks

    def width(self, site: str) -> int:
        """Width of a site."""
        return self.chunks[0][0][site].shape[-1]


@dataclass(frozen=True)
class Part:
    """Some sites of a model: what measures need of it alone, and its chunks, again and again.

    Attributes:
        side: closed.
        shares: of each site's variance in its first principal component.
        chunks: the chunks, if there was room for them, else none.
        acts: what they are made of.
    """

    side: Side
    shares: dict[str, float]
    chunks: list[Chunk]
    acts: Chunks

    def __iter__(self) -> Iterator[Chunk]:
        yield from self.chunks or (self.side.chunk(acts, of) for acts, of in self.acts)


class Parts:
    """Parts of models by label and sites; made once as long as there is room."""

    def __init__(self, models: dict[str, Kept], layout: Layout) -> None:
        self.models, self.layout, self.room = models, layout, AT_HAND
        self._made: dict[tuple[str, tuple[str, ...]], Part] = {}

    def __call__(self, label: str, sites: tuple[str, ...]) -> Part:
        if (label, sites) in self._made:
            return self._made[label, sites]
        kept = self.models[label]
        size = sum(4 * acts[site].numel() for acts, _ in kept.chunks for site in sites)
        size += sum(kept.width(site) ** 2 * (8 + 4 * self.layout.groups) for site in sites)
        part = self._make(kept, sites, size <= self.room)
        if size <= self.room:
            self.room -= size
            self._made[label, sites] = part
        return part

    def _make(self, kept: Kept, sites: tuple[str, ...], with_chunks: bool) -> Part:
        side = self.layout.side(sites)
        # What a model puts out goes with its first sites, where it is not one of the sites itself.
        wanted = self.layout.captured(sites) if sites[0] == kept.sites[0] else sites
        acts: Chunks = [({site: of[site].to(kept.device) for site in wanted}, groups) for of, groups in kept.chunks]
        chunks = []
        for of, groups in acts:
            chunk = side.add(of, groups)
            if with_chunks:
                chunks.append(chunk)
        side.close()
        return Part(side, {site: first_share(side, site) for site in sites}, chunks, acts)


@dataclass(frozen=True)
class Held(Chunk):
    """A chunk that keeps the rows that it has put side by side, for it meets the chunks of many models."""

    beside: dict[tuple[str, ...], Tensor] = field(default_factory=dict)

    def rows_of(self, sites: Sequence[str]) -> Tensor:
        """Rows of some sites side by side, (groups, n, columns)."""
        key = tuple(sites)
        if key not in self.beside:
            self.beside[key] = super().rows_of(sites)
        return self.beside[key]


def held(chunk: Chunk, rolled: bool = False) -> Held:
    """The chunk, or the same deranged, as one that keeps its rows."""
    chunk = chunk.deranged() if rolled else chunk
    return Held(chunk.rows, chunk.norms, chunk.apart, chunk.groups, chunk.shift, chunk.rolled)


def _nbytes(chunks: Chunks) -> int:
    return sum(tensor.nbytes for acts, _ in chunks for tensor in acts.values())
