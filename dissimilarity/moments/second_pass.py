"""The second pass over stored samples: what sequences add to many values at once, reading each chunk once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from dissimilarity.moments.chunk import Chunk
from dissimilarity.moments.pair import Moments
from dissimilarity.moments.paired_samples import Part
from dissimilarity.moments.stack import Stack

Result = TypeVar("Result")
Other = TypeVar("Other")

Meeting = tuple[Chunk, Chunk | None, Chunk]
"""A chunk of x, the same as it meets y in the null (None without one), and the chunk of y."""


@dataclass(frozen=True)
class SecondPass(Generic[Result]):
    """What a value needs of the samples once the sums are known.

    Attributes:
        terms: what each sample of a part adds to each sum, (n, pairs), or each sequence, (sequences, pairs) if the name
            ends in ``_s``.
        result: returns what follows from the sums of all sequences (sequences, pairs), by name; it may take them out.
        fast: whether the products of samples may be as imprecise as error bars allow.
    """

    terms: Callable[[Part], Moments]
    result: Callable[[dict[str, Tensor]], Result]
    fast: bool = False

    def then(self, function: Callable[[Result], Other]) -> "SecondPass[Other]":
        """Return the pass with a function of its result as its result."""
        return SecondPass(self.terms, lambda sums: function(self.result(sums)), self.fast)


class Reading(NamedTuple):
    """A second pass at a site of x and some sites of y, which have one width.

    Attributes:
        site: the site of x.
        partners: the sites of y.
        second_pass: what to compute.
        in_null: whether x is rearranged as in the null.
    """

    site: str
    partners: Sequence[str]
    second_pass: SecondPass[Any]
    in_null: bool = False


@dataclass
class _Sums:
    """The sums of one reading so far, and what went wrong."""

    values: dict[str, Tensor] = field(default_factory=dict)
    error: Exception | None = None

    def add(self, reading: Reading, part: Part, count: int) -> None:
        """Add the terms of a part."""
        first = part.members.first
        for name, values in reading.second_pass.terms(part).items():
            values = values if name.endswith("_s") else part.of_sequences(values)
            if name not in self.values:
                self.values[name] = values.new_zeros(count, *values.shape[1:])
            self.values[name][first : first + len(values)] += values


def read_again(readings: Sequence[Reading], meetings: Iterable[Meeting], count: int) -> list[Any]:
    """Return the result of each reading, from one pass over the chunks; the error where one cannot be computed.

    Args:
        readings: what to compute.
        meetings: the chunks of both sides.
        count: number of sequences of the probe set.
    """
    sums = [_Sums() for _ in readings]
    for number, (x, null, y) in enumerate(meetings):
        grams = _prefer_grams(readings, (x, null, y))
        stacks: dict[tuple[int, tuple[str, ...]], Stack] = {}

        def stack(chunk: Chunk, sites: Sequence[str], stacks: dict[Any, Stack] = stacks) -> Stack:
            key = id(chunk), tuple(sites)
            if key not in stacks:
                stacks[key] = Stack(chunk, sites)
            return stacks[key]

        for reading, total in zip(readings, sums, strict=True):
            if total.error is None:
                first = null if reading.in_null else x
                assert first is not None
                sides = stack(first, [reading.site]), stack(y, reading.partners)
                part = Part.of(*sides, y.members, number, reading.in_null or reading.second_pass.fast, grams)
                try:
                    total.add(reading, part, count)
                except (ValueError, RuntimeError) as error:
                    total.error = error
    return [_result(reading, total) for reading, total in zip(readings, sums, strict=True)]


def _prefer_grams(readings: Sequence[Reading], meeting: Meeting) -> bool:
    """Return whether products of samples with each other, which serve all readings, take less work for squares.

    Not if they would take more memory than the samples.
    """
    x, null, y = meeting
    widths: dict[tuple[int, str], int] = {}
    products = 0
    for reading in readings:
        first = null if reading.in_null else x
        assert first is not None
        columns = first.samples[reading.site].shape[-1]
        others = {(id(y.grams), partner): y.samples[partner].shape[-1] for partner in reading.partners}
        widths |= {(id(first.grams), reading.site): columns, **others}
        products += columns * sum(others.values())
    fits = int(y.members.lengths.max()) <= min(widths.values(), default=0)
    return fits and y.members.prefer_grams(sum(widths.values()), products)


def _result(reading: Reading, sums: _Sums) -> Any:
    if sums.error is not None:
        return sums.error
    try:
        return reading.second_pass.result(sums.values)
    except (ValueError, RuntimeError) as error:
        return error
