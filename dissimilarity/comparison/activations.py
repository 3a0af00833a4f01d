"""The activations of one model on a probe set: streamed, in memory, on disk above a size limit, or saved earlier.

``ModelActivations`` is the one store: samples of whole sequences, chunk by chunk, and the sums over them.
"""

import copy
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from dissimilarity.comparison.first_component import first_share
from dissimilarity.comparison.intrinsic_sites import SideAgain, intrinsic_of_site
from dissimilarity.comparison.plan import Plan
from dissimilarity.comparison.saved import SavedActivations, array_reader
from dissimilarity.comparison.wide_sites import in_span
from dissimilarity.moments.agreement import gathered, together
from dissimilarity.moments.chunk import Chunk
from dissimilarity.moments.products import sum_device
from dissimilarity.moments.side import Side
from dissimilarity.probe.batches import (
    Inputs,
    Slice,
    batches,
    capture_chunks,
    of_units,
    sequences_per_batch,
    split_batch,
)
from dissimilarity.probe.sampling import sampled_positions
from dissimilarity.tables.seal import read_tensors, write_tensors

Acts = Mapping[str, Tensor]
Chunks = list[tuple[Acts, range]]
"""Samples by site, and the units that their sequences form."""

IN_MEMORY = 2**28
"""Bytes of activations that stay in memory; more go to files that are mapped back."""
FINGERPRINT = "fingerprint"
"""Name of the number of a probe set in files of activations; names of activations have colons."""
CHUNK_CACHE = 2**26
"""Bytes of a model's activations, or of what follows from them, that stay ready for the next pass."""
PAIR_SUMS = 2**29
"""Bytes that the sums over all pairs of sites of two blocks may take."""
BLOCK_CACHE = 3 * 2**29
"""Bytes of samples and sums of site blocks that are cached from pair to pair; others are recomputed for each pair."""
SIDE_BY_SIDE = 2**29
"""Bytes of samples side by side that stay in memory while one model is compared with all others."""
FILE_SIZE = 2**26
"""Bytes of activations per file."""
ALIGNMENT = 64
"""Bytes at multiples of which samples begin in a file, as in memory: where they begin, a product may round."""


class ModelActivations:
    """Samples of one model at some sites of a probe set, chunk by chunk, and the sums over them.

    The first pass over the chunks computes the sums of this model. Where chunks are streamed, it is the only pass.
    ``null_side`` has the sums over the sequences that samples of unequal sequences form in the null, once there is one.

    Args:
        plan: how the probe set is cut and read.
        sites: sites that are compared, in depth order.
        chunks: samples of the sequences of this process.
        sync: whether the processes of ``torch.distributed`` each hold a part of the probe set.
        device: where sums are computed, if not where the samples are.
    """

    def __init__(
        self,
        plan: Plan,
        sites: Sequence[str],
        chunks: Iterable[tuple[Acts, range]],
        sync: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.plan, self.sites, self.device = plan, list(sites), device
        self.chunks = chunks if sync else in_span(chunks, plan, sites)
        self.side = plan.side(sites, sync)
        self.null_side: Side | None = None
        self._cached: list[Chunk] = []
        # Not of saved activations, which are read where they are: memory must not grow with a file.
        self._derived: list[Chunk] | None = [] if isinstance(chunks, list) else None
        self._of_all: Chunks | None = None

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks without their offset; the first pass computes the sums."""
        if self.side.closed:
            yield from self.at()
            return
        yield from self._added()
        self.side.close()

    def at(self, sites: Sequence[str] | None = None) -> Iterator[Chunk]:
        """Yield the chunks again, without adding them to the sums, with at least the samples of some sites."""
        if self._cached:
            return iter(self._cached)
        if not self._derived:
            return self._again(self.chunks, sites)
        parts = (self._part(acts, sites) for acts, _ in self.chunks)
        return (self.side.chunk_again(*parts) for parts in zip(self._derived, parts, strict=True))

    def of_all(self, sites: Sequence[str] | None = None) -> Iterator[Chunk]:
        """Yield the chunks of all processes again, once they are shared; without other processes the same as ``at``."""
        return self.at(sites) if self._of_all is None else self._again(self._of_all, sites)

    def _again(self, chunks: Iterable[tuple[Acts, range]], sites: Sequence[str] | None) -> Iterator[Chunk]:
        before: Counter[int] = Counter()
        for acts, units in chunks:
            chunk = self.side.chunk(self._part(acts, sites), units, before[units.start])
            before.update(dict.fromkeys(units, chunk.count))
            yield chunk

    def share(self) -> None:
        """Give every process the chunks of all: whoever reads them again need not wait for one that failed."""
        if not self.side.sync or self._of_all is not None:
            return
        self.device = next(iter(next(iter(self.chunks))[0].values())).device
        own = [({site: samples.cpu() for site, samples in acts.items()}, units) for acts, units in self.chunks]
        parts = [chunk for chunks in gathered(own, True) for chunk in chunks]
        self._of_all = sorted(parts, key=lambda chunk: chunk[1].start)

    def _added(self) -> Iterator[Chunk]:
        """Yield the chunks while their sums are computed; keep what follows from their samples if it is small."""
        size = 0
        for acts, units in self.chunks:
            chunk = self.side.add(self._moved(acts), units)
            size += chunk.derived_bytes
            if size > CHUNK_CACHE:
                self._derived = None
            if self._derived is not None:
                self._derived.append(replace(chunk, samples={}, grams={}))
            yield chunk

    def _part(self, acts: Acts, sites: Sequence[str] | None) -> Acts:
        """Return samples at some sites where sums are computed."""
        return self._moved(acts if sites is None else {site: acts[site] for site in dict.fromkeys(sites)})

    def _moved(self, acts: Acts) -> Acts:
        """Return samples where sums are computed."""
        return acts if self.device is None else {site: values.to(self.device) for site, values in acts.items()}

    def summed(self, cache: bool | None = None) -> "ModelActivations":
        """Compute the sums, and cache the chunks for later passes; by default if they stay within `CHUNK_CACHE`."""
        cache = self.nbytes() <= CHUNK_CACHE if cache is None else cache
        sync = self.side.sync
        if sync:
            self.side.agree_on_offsets(*next(iter(self.chunks)))
        with together(sync):
            for chunk in self._added():
                if cache:
                    self._cached.append(chunk)
        with together(sync):
            self.side.close()
        return self

    def on_disk(self, path: Path, device: torch.device) -> "ModelActivations":
        """Return the same activations with their chunks mapped from a file, for sums on a device."""
        same = copy.copy(self)
        same.chunks, same.device = mapped(list(self.chunks), path), device
        same._cached, same._derived = [], None
        return same

    @cached_property
    def first_components(self) -> dict[str, float]:
        """The share of each site's variance in its first principal component."""
        return {site: first_share(self.side, site) for site in self.sites}

    @cached_property
    def intrinsic(self) -> list[dict[str, Any]]:
        """The records of the measures of this model alone; with several processes, ``share`` comes first."""
        again = self.of_all if self.plan.stored else None
        precise = None if isinstance(self.chunks, Iterator) else self._alone_in_float64
        return [record for site in self.sites for record in intrinsic_of_site(self.side, site, again, precise)]

    def _alone_in_float64(self, site: str) -> SideAgain:
        """Return the sums of float64 products at a site over the samples of all processes, and its chunks."""
        same = self.in_float64([site], of_all=True).summed(cache=False)
        return same.side, same.at if self.plan.stored else None

    def in_float64(self, sites: Iterable[str], of_all: bool = False) -> "ModelActivations":
        """Return activations at some sites for sums of float64 products.

        Args:
            sites: the sites.
            of_all: whether this process reads the shared samples of all processes by itself.
        """
        names = list(dict.fromkeys(sites))
        plan, device = replace(self.plan, max_samples=0), None if self.device is None else sum_device(self.device)
        chunks = self.chunks if self._of_all is None or not of_all else self._of_all
        return ModelActivations(plan, names, _InFloat64(chunks, names), self.side.sync and not of_all, device)

    def nbytes(self) -> int:
        """Return the size of the activations."""
        return _nbytes(self.chunks)

    def width(self, site: str) -> int:
        """Return the width of a site."""
        return next(iter(self.chunks))[0][site].shape[-1]

    def blocks(self) -> list[tuple[str, ...]]:
        """Divide the sites into blocks so that the sums of two blocks stay within `PAIR_SUMS`."""
        limit = math.isqrt(PAIR_SUMS // self.plan.bytes_per_sum)
        blocks: list[tuple[str, ...]] = []
        columns = 0
        for site in self.sites:
            width = self.width(site)
            if not blocks or columns + width > limit:
                blocks.append(())
                columns = 0
            blocks[-1] = (*blocks[-1], site)
            columns += width
        return blocks

    def block(self, sites: Sequence[str]) -> "ModelActivations":
        """Return the activations at some of the sites, without sums, on the device where these will be computed."""
        # The logits go with the first sites, unless they are one of the sites.
        names = self.plan.captured(sites) if sites[0] == self.sites[0] else sites
        chunks = [({site: acts[site].to(self.device) for site in names}, units) for acts, units in self.chunks]
        return ModelActivations(self.plan, sites, chunks)

    def kept_side_by_side(self) -> "ModelActivations":
        """Return the same activations, whose cached chunks keep their samples side by side if those are small."""
        size = sum(4 * samples.numel() for chunk in self._cached for samples in chunk.samples.values())
        same = copy.copy(self)
        if 2 * size <= SIDE_BY_SIDE:
            same._cached = [CachedChunk(**vars(chunk)) for chunk in self._cached]
        return same


@dataclass(frozen=True)
class _InFloat64:
    """Chunks of activations in float64, read as often as they are iterated.

    Attributes:
        chunks: the chunks.
        sites: sites that are read.
    """

    chunks: Iterable[tuple[Acts, range]]
    sites: Sequence[str]

    def __iter__(self) -> Iterator[tuple[Acts, range]]:
        """Read the chunks."""
        for acts, units in self.chunks:
            yield {site: acts[site].to(sum_device(acts[site].device)).double() for site in self.sites}, units


@dataclass(frozen=True)
class CachedChunk(Chunk):
    """A chunk that keeps samples side by side, because it meets the chunks of many models."""

    cache: dict[tuple[bytes, tuple[str, ...]], Tensor] = field(default_factory=dict)

    def side_by_side(self, sites: Sequence[str]) -> Tensor:
        """Return the samples of some sites side by side (units, n, columns)."""
        key = b"" if self.order is None else self.order.numpy().tobytes(), tuple(sites)
        if key not in self.cache:
            self.cache[key] = super().side_by_side(sites)
        return self.cache[key]


class SiteBlockCache:
    """Blocks of sites of many models with their sums, which are computed once as long as memory allows."""

    def __init__(self, models: dict[str, ModelActivations]) -> None:
        self.models, self.room = models, BLOCK_CACHE
        self._blocks: dict[tuple[str, tuple[str, ...]], ModelActivations] = {}

    def __call__(self, label: str, sites: tuple[str, ...]) -> ModelActivations:
        """Return the activations of a model at some sites, with their sums."""
        if (label, sites) in self._blocks:
            return self._blocks[label, sites]
        model = self.models[label]
        size = sum(4 * acts[site].numel() for acts, _ in model.chunks for site in sites)
        size += sum(model.plan.bytes_per_sum * model.width(site) ** 2 for site in sites)
        block = model.block(sites).summed(cache=size <= self.room)
        if size <= self.room:
            self.room -= size
            self._blocks[label, sites] = block
        return block


class DiskSpill:
    """Activations of models: in memory up to `IN_MEMORY` bytes in total, beyond that in memory-mapped files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.in_memory, self.files = folder, 0, 0

    def store(self, chunks: Iterable[tuple[Acts, range]]) -> Chunks:
        """Store the chunks of one model, reading them one by one."""
        stored: Chunks = []
        waiting: Chunks = []
        for chunk in chunks:
            waiting.append(chunk)
            if _nbytes(waiting) >= FILE_SIZE:
                stored += self._keep(waiting)
                waiting = []
        return stored + self._keep(waiting)

    def _keep(self, chunks: Chunks) -> Chunks:
        size = _nbytes(chunks)
        if self.in_memory + size <= IN_MEMORY:
            self.in_memory += size
            return chunks
        self.files += 1
        return mapped(chunks, self.folder / f"{self.files}.bin")


def read_chunks(
    source: nn.Module | SavedActivations,
    inputs: Inputs | None,
    sites: Sequence[str],
    plan: Plan,
    device: torch.device | None = None,
    slices: Sequence[Slice] | None = None,
) -> Iterator[tuple[dict[str, Tensor], range]]:
    """Read the samples of a model, or of saved activations, chunk by chunk.

    Args:
        source: what to run or read.
        inputs: what a model runs on.
        sites: sites that are compared.
        plan: how the probe set is cut and read.
        device: where saved activations go.
        slices: the chunks of this process; by default all of them.

    Yields:
        site -> (sequences, ..., d), and the units that these sequences form.
    """
    captured, read, slices = plan.captured(sites), plan.reader(sites), slices or plan.slices
    if isinstance(source, nn.Module):
        assert inputs is not None
        yield from capture_chunks(source, inputs, captured, slices, read, plan.separate_units, plan.probe.channels)
        return
    source.check_logits(captured)
    sequences, length = plan.probe.extent
    for batch in batches(slices, sequences_per_batch(length)):
        part = [(batch[0][0], batch[-1][1])]
        acts = {site: source.sequences(site, part, sequences, plan.probe.channels).to(device) for site in captured}
        yield from split_batch(acts, batch, captured, read, plan.separate_units)


@dataclass(frozen=True)
class SavedChunks:
    """The samples of saved activations chunk by chunk, read as often as they are iterated.

    Attributes:
        source: the activations.
        sites: sites that are compared.
        plan: how the probe set is cut and read.
        device: where they go.
    """

    source: SavedActivations
    sites: Sequence[str]
    plan: Plan
    device: torch.device | None

    def __iter__(self) -> Iterator[tuple[Acts, range]]:
        """Read the chunks."""
        return read_chunks(self.source, None, self.sites, self.plan, self.device)


def thinned(
    source: SavedActivations, sites: Sequence[str], plan: Plan, subset: Int[Tensor, " subset"]
) -> SavedActivations:
    """Read one sample from each sequence of a subset, for measures that use fewer samples than there are sequences."""
    captured = plan.captured(sites)
    source.check_logits(captured)
    count, indices, read = plan.probe.extent.sequences, subset.tolist(), plan.reader(sites)
    arrays = {}
    for site in captured:
        parts = [(index, index + 1) for index in indices]
        activation = source.sequences(site, parts, count, plan.probe.channels)
        samples = read(site, activation, indices)
        if samples.ndim > 2:
            samples = samples[:, sampled_positions(count, samples.shape[1], plan.max_samples)]
        arrays[site] = array_reader(samples)
    return SavedActivations(source.name, arrays, None)


def mapped(chunks: Chunks, path: Path) -> Chunks:
    """Return samples mapped from a file without a name, which is gone with the last of them."""
    tensors = [samples for acts, _ in chunks for samples in acts.values()]
    starts = list(accumulate((-(-samples.nbytes // ALIGNMENT) * ALIGNMENT for samples in tensors), initial=0))
    with path.open("wb") as file:
        for start, samples in zip(starts, tensors, strict=False):
            file.seek(start)
            file.write(samples.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        file.truncate(starts[-1])
    whole = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=starts[-1])
    with suppress(OSError):  # of systems that keep the names of open files
        path.unlink()
    places = iter(starts)

    def same(samples: Tensor) -> Tensor:
        start = next(places) // samples.element_size()
        return torch.empty(0, dtype=samples.dtype).set_(whole, start, samples.shape)  # pyright: ignore

    return [({site: same(samples) for site, samples in acts.items()}, units) for acts, units in chunks]


def save_chunks(chunks: Iterable[tuple[Acts, range]], path: Path, fingerprint: int = 0) -> None:
    """Write chunks of activations, and the fingerprint of their probe set, to a safetensors file, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{units.start:06d}:{len(units)}:{number}:{site}": tensor.contiguous()
        for number, (acts, units) in enumerate(chunks)
        for site, tensor in acts.items()
    }
    write_tensors(tensors | {FINGERPRINT: torch.tensor(fingerprint)}, path)


def load_chunks(paths: Sequence[Path], device: torch.device, units: set[int], fingerprint: int = 0) -> Chunks:
    """Load the chunks of some units from the files that one or more processes saved.

    Args:
        paths: files of ``save_chunks``.
        device: where the activations go.
        units: the units to load, which are consecutive.
        fingerprint: fingerprint of the probe set.

    Raises:
        ValueError: a file is of another probe set.
    """
    saved: dict[tuple[int, int, int], dict[str, Tensor]] = {}
    for path in paths:
        tensors = read_tensors(path, str(device))
        if (number := tensors.pop(FINGERPRINT, None)) is None or number.item() != fingerprint:
            raise ValueError(f"{path} holds activations on another probe set")
        for key, tensor in tensors.items():
            start, count, number, site = key.split(":", 3)
            saved.setdefault((int(start), int(number), int(count)), {})[site] = tensor
    chunks: Chunks = []
    for (start, _, count), acts in sorted(saved.items(), key=lambda item: item[0]):
        chunk = of_units(acts, range(start, start + count), units)
        chunks += [] if chunk is None else [chunk]
    return chunks


def _nbytes(chunks: Iterable[tuple[Acts, range]]) -> int:
    return sum(tensor.nbytes for acts, _ in chunks for tensor in acts.values())
