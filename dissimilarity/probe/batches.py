"""How a probe set is run: units of whole sequences, and forward passes over a few units at a time."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from dissimilarity.probe.alignment import Reading
from dissimilarity.probe.padded_inputs import PaddedInputs
from dissimilarity.probe.running import SiteReader
from dissimilarity.probe.site_layout import Channels
from dissimilarity.probe.together import TOKENS_PER_BATCH

Slice = tuple[int, int, int]
"""A chunk of sequences: start, stop, unit."""

Inputs = Tensor | PaddedInputs | Reading
"""Inputs of a model: (sequences, ...), also with padding, or a text in its own tokens with the units by which it is
compared."""


def cut_sequences(sequences: int, n_units: int, max_per_chunk: int) -> list[Slice]:
    """Cut sequences into units of nearly equal size, and large units into chunks.

    Each chunk has at least two sequences, because the null rolls them against each other. If there are too few
    sequences for that, there are fewer units.

    Args:
        sequences: number of sequences, at least 2.
        n_units: number of units.
        max_per_chunk: maximum number of sequences per chunk, if the size of the unit allows it.

    Returns:
        (start, stop, unit) of each chunk, in order.

    Raises:
        ValueError: fewer than 2 sequences.

    >>> cut_sequences(10, n_units=2, max_per_chunk=3)
    [(0, 2, 0), (2, 5, 0), (5, 7, 1), (7, 10, 1)]
    """
    if sequences < 2:
        raise ValueError(f"expected at least 2 sequences to compare models on, found {sequences}; pass more")
    slices = []
    n_units = min(n_units, sequences // 2)
    for unit in range(n_units):
        start, stop = sequences * unit // n_units, sequences * (unit + 1) // n_units
        chunks = max(1, min((stop - start) // 2, -(-(stop - start) // max(max_per_chunk, 2))))
        for chunk in range(chunks):
            first = start + (stop - start) * chunk // chunks
            slices.append((first, start + (stop - start) * (chunk + 1) // chunks, unit))
    return slices


def extent(inputs: Inputs) -> tuple[int, int]:
    """Return the number of sequences and the tokens per sequence, which is 1 for inputs that are not tokens."""
    if isinstance(inputs, Reading):
        return len(inputs), inputs.length
    if isinstance(inputs, PaddedInputs):
        return len(inputs), 1 if inputs.inputs.is_floating_point() else int(inputs.lengths.max())
    return len(inputs), inputs[0].numel() if len(inputs) and not inputs.is_floating_point() else 1


def tokens_per_sequence(inputs: Inputs | None) -> int | None:
    """Return how many tokens, with padding, a model reads in each sequence; None for inputs that are not tokens."""
    if isinstance(inputs, Reading):
        return inputs.tokens.shape[1]
    tokens = inputs.inputs if isinstance(inputs, PaddedInputs) else inputs
    return tokens.shape[1] if tokens is not None and tokens.ndim == 2 and not tokens.is_floating_point() else None


def sequences_per_batch(length: int) -> int:
    """Return how many sequences of this many tokens run together."""
    return max(1, TOKENS_PER_BATCH // max(1, length))


def capture_chunks(
    model: nn.Module,
    inputs: Inputs,
    sites: Sequence[str],
    slices: Sequence[Slice],
    read: Callable[[str, Tensor, slice], Tensor] = lambda site, activation, sequences: activation,
    separate_units: bool = False,
    channels: Channels = None,
) -> Iterator[tuple[dict[str, Tensor], range]]:
    """Run a model on consecutive chunks, several per forward pass.

    Args:
        model: called as ``model(inputs)``, with a mask of padding if it takes one.
        inputs: (sequences, ...), tokens or other inputs; or a reading, whose units become the positions.
        sites: names of sites.
        slices: consecutive chunks from ``cut_sequences``.
        read: turns the activations (sequences, positions, d) or (sequences, d) of a site and the slice of sequences
            into the values to keep.
        separate_units: whether units come one at a time even if they have the same number of sequences.
        channels: where features are at sites whose modules do not determine it.

    Yields:
        site -> values, (sequences, ..., d), and the units that these sequences form, in equal parts.
    """
    reading = inputs if isinstance(inputs, Reading) else None
    reader = SiteReader(model, inputs.inputs if isinstance(inputs, Reading) else inputs, sites, channels)
    for batch in batches(slices, sequences_per_batch(extent(inputs)[1])):
        sequences = slice(batch[0][0], batch[-1][1])
        acts = reader.read(sequences)
        if reading is not None:
            acts = {site: reading.units(acts[site], sequences) for site in sites}
        yield from split_batch(acts, batch, sites, read, separate_units)


def of_units(
    acts: Mapping[str, Tensor], units: range, wanted: Collection[int]
) -> tuple[dict[str, Tensor], range] | None:
    """Return the part of a chunk that belongs to some consecutive units; None if there is none.

    >>> acts, units = of_units({"embed": torch.arange(8)}, range(4), {1, 2})
    >>> acts["embed"].tolist(), units
    ([2, 3, 4, 5], range(1, 3))
    """
    own = [unit for unit in units if unit in wanted]
    if not own:
        return None
    part = slice(own[0] - units.start, own[-1] + 1 - units.start)
    cut = {site: values.unflatten(0, (len(units), -1))[part].flatten(0, 1) for site, values in acts.items()}
    return cut, range(own[0], own[-1] + 1)


def split_batch(
    acts: Mapping[str, Tensor],
    batch: Sequence[Slice],
    sites: Sequence[str],
    read: Callable[[str, Tensor, slice], Tensor],
    separate_units: bool,
) -> Iterator[tuple[dict[str, Tensor], range]]:
    """Split the activations of a batch into its chunks; arguments and results are those of ``capture_chunks``."""
    first = batch[0][0]
    for start, stop, units in equal_units(batch, separate_units):
        part, sequences = slice(start - first, stop - first), slice(start, stop)
        yield {site: read(site, acts[site][part], sequences) for site in sites}, units


def equal_units(batch: Sequence[Slice], separate_units: bool) -> list[tuple[int, int, range]]:
    """Join consecutive units of equal size: one product for all of them is faster than one per unit."""
    joined: list[tuple[int, int, range]] = []
    for start, stop, unit in batch:
        first, last, units = joined[-1] if joined else (0, 0, range(0))
        if not separate_units and unit == units.stop and (stop - start) * len(units) == last - first > 0:
            joined[-1] = (first, stop, range(units.start, unit + 1))
        else:
            joined.append((start, stop, range(unit, unit + 1)))
    return joined


def batches(slices: Sequence[Slice], limit: int) -> Iterator[list[Slice]]:
    """Group consecutive chunks into batches of at most `limit` sequences, or of one chunk."""
    batch: list[Slice] = []
    for chunk in slices:
        if batch and chunk[1] - batch[0][0] > limit:
            yield batch
            batch = []
        batch.append(chunk)
    if batch:
        yield batch


def slices_of_process(slices: Sequence[Slice], rank: int, world_size: int) -> list[Slice]:
    """Return the chunks of one process out of several: consecutive whole units."""
    n_units = 1 + max(unit for _, _, unit in slices)
    return [chunk for chunk in slices if chunk[2] * world_size // n_units == rank]


def slices_of_subset(slices: Sequence[Slice], subset: Int[Tensor, " subset"]) -> list[Slice]:
    """Return the chunks of a subset of the sequences, by their places in the subset; each stays in its unit."""
    stops = torch.searchsorted(subset, torch.tensor([stop for _, stop, _ in slices])).tolist()
    starts, units = [0, *stops[:-1]], [unit for _, _, unit in slices]
    return [chunk for chunk in zip(starts, stops, units, strict=True) if chunk[0] < chunk[1]]
