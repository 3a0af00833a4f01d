"""Alignment of two models that tokenize the same text differently: which of their positions correspond.

Where tokens of both models end at the same character, both models have read the same characters so far. Such a common
boundary is a sample: for each model the last token that ends there, or the mean over its tokens since the previous
boundary. By default only boundaries at ends of words count.

    alignment = align(first, second, texts)          # what each model reads, with the span of text of each token
    compare(model_a, model_b, alignment)             # in place of compare(model_a, model_b, tokens)
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dissimilarity.capture.call import call
from dissimilarity.capture.trial import lengths_explained
from dissimilarity.probe.padded_inputs import PaddedInputs

Unit = Literal["word", "token"]
Take = Literal["last", "mean"]

SEQUENCES_LOST = 0.1
"""Share of the sequences, those with the fewest common boundaries, that is left out so that the others keep more."""


@dataclass(frozen=True)
class Tokenized:
    """Texts in the tokens of one model.

    Attributes:
        tokens: one text per row, padded at the end.
        spans: start and end of each token's text, in characters; two equal numbers for a token without text (the start
            or end of a text, padding).
        mask: which positions hold a token; None without padding.
    """

    tokens: Int[Tensor, "sequences length"]
    spans: Int[Tensor, "sequences length 2"]
    mask: Bool[Tensor, "sequences length"] | None = None


@dataclass(frozen=True)
class Reading:
    """The inputs of one model for the texts, and the positions that stand for each of their units.

    Attributes:
        tokens, mask: as in `Tokenized`, for the sequences that are compared.
        first, last: first and last token of each unit.
        counts: which tokens have text; the others belong to no unit.
        take: whether a unit is its last token, or the mean over its tokens.
        length: tokens of the longest sequence of either model, because both run in the same batches.
    """

    tokens: Int[Tensor, "sequences length"]
    mask: Bool[Tensor, "sequences length"] | None
    first: Int[Tensor, "sequences units"]
    last: Int[Tensor, "sequences units"]
    counts: Bool[Tensor, "sequences length"]
    take: Take
    length: int

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def inputs(self) -> Tensor | PaddedInputs:
        """The tokens, with their mask if there is one."""
        return self.tokens if self.mask is None else PaddedInputs(self.tokens, self.mask)

    def part(self, sequences: Sequence[int]) -> "Reading":
        """Return the reading of some of the sequences."""
        index = list(sequences)
        mask = None if self.mask is None else self.mask[index]
        return replace(
            self, mask=mask, **{key: getattr(self, key)[index] for key in ("tokens", "first", "last", "counts")}
        )

    def run(self, model: nn.Module, sequences: slice, device: torch.device) -> None:
        """Run the model on some of the sequences, with a mask of their padding if it takes one."""
        tokens, mask = self.rows(sequences)
        with lengths_explained(model, tokens):
            call(model, tokens.to(device), mask)

    def rows(self, sequences: slice) -> tuple[Tensor, Tensor | None]:
        """Return the tokens of some of the sequences, up to the longest of them, and which of them are real."""
        if isinstance(self.inputs, Tensor):
            return self.tokens[sequences], None
        return self.inputs.rows(torch.arange(len(self))[sequences])

    def units(self, activation: Float[Tensor, "part *pos d"], sequences: slice) -> Float[Tensor, "part units d"]:
        """Return the sample of each unit, from the activations of some of the sequences.

        Raises:
            ValueError: activations without one sample per token.
        """
        if activation.ndim != 3:
            raise ValueError(
                f"expected activations (sequences, positions, d) to align, found {tuple(activation.shape)}; choose "
                "sites that have one sample per token"
            )
        first, last = (places[sequences].to(activation.device) for places in (self.first, self.last))
        if self.take == "last":
            return activation.take_along_dim(last[..., None], 1)
        place = torch.arange(activation.shape[1], device=activation.device)
        within = (first[..., None] <= place) & (place <= last[..., None])
        within &= self.counts[sequences, : activation.shape[1]].to(activation.device)[:, None]
        weights = within.to(activation.dtype if activation.dtype == torch.float64 else torch.float32)
        with torch.autocast(activation.device.type, enabled=False):
            return weights @ activation.to(weights) / weights.sum(-1, keepdim=True)


@dataclass(frozen=True)
class Alignment:
    """Two readings of the same texts, unit by unit.

    Attributes:
        a, b: the readings of the two models.
        rows: indices of the texts that are compared.
        unit: what ends at the common boundaries that count.
        share_a, share_b: share of the tokens with text, over all texts, that end a unit that is compared.
    """

    a: Reading
    b: Reading
    rows: tuple[int, ...]
    unit: Unit
    share_a: float
    share_b: float

    @property
    def extent(self) -> tuple[int, int]:
        """Number of sequences, and tokens per sequence of the model that has more."""
        return len(self.a), self.a.length

    @property
    def units(self) -> int:
        """Units per sequence."""
        return self.a.last.shape[1]

    def part(self, sequences: Sequence[int]) -> "Alignment":
        """Return the alignment of some of the sequences; the shares stay those of all texts."""
        indices = tuple(self.rows[index] for index in sequences)
        return replace(self, a=self.a.part(sequences), b=self.b.part(sequences), rows=indices)

    def swapped(self) -> "Alignment":
        """Return the alignment with the two models exchanged."""
        return Alignment(self.b, self.a, self.rows, self.unit, self.share_b, self.share_a)


def align(a: Tokenized, b: Tokenized, texts: Sequence[str], unit: Unit = "word", take: Take = "last") -> Alignment:
    """Find the common boundaries of two models' tokens in the same texts, the same number in every text.

    White space at the end of a token does not count, nor do tokens of white space alone. Every text contributes the
    number of boundaries that nine in ten texts with any reach, evenly spread; texts with fewer are left out.

    Args:
        a: the texts in the first model's tokens.
        b: the texts in the second model's tokens.
        texts: one per row of both.
        unit: ``word``: boundaries at ends of words; ``token``: every common boundary, which suits languages that do not
            separate words.
        take: ``last`` token that ends at a boundary, or ``mean`` over the tokens since the previous boundary.

    Raises:
        ValueError: different numbers of texts, an unknown unit or take, no common boundary in half of the texts or in
            all but one.

    >>> a = Tokenized(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[[0, 3], [3, 5]]] * 2))
    >>> b = Tokenized(torch.tensor([[7], [8]]), torch.tensor([[[0, 5]]] * 2))
    >>> align(a, b, ["to be", "or no"]).a.last.tolist()
    [[1], [1]]
    """
    if unit not in get_args(Unit) or take not in get_args(Take):
        raise ValueError(f"expected a unit of word or token and take last or mean, found {unit!r} and {take!r}")
    if not len(texts) == len(a.tokens) == len(b.tokens):
        raise ValueError(
            f"expected the same texts on both sides, found {len(texts)} texts, {len(a.tokens)} and {len(b.tokens)} rows"
        )
    ends = [[_ends(side.spans[row].tolist(), text) for row, text in enumerate(texts)] for side in (a, b)]
    common = [sorted(ends_a.keys() & ends_b.keys()) for ends_a, ends_b in zip(*ends, strict=True)]
    if unit == "word":
        common = [sorted(word_ends(text).intersection(places)) for places, text in zip(common, texts, strict=True)]
    counts = sorted(filter(None, map(len, common)))
    units = counts[int(SEQUENCES_LOST * len(counts))] if 2 * len(counts) > len(common) else 0
    rows = [row for row, places in enumerate(common) if len(places) >= units > 0]
    if len(rows) < 2:
        without = len(texts) - len(counts)
        raise ValueError(
            f"the two models' tokens have no common boundary at the end of a {unit} in {without} of the {len(texts)} "
            "texts; pass longer texts, or take every common boundary (unit='token')"
        )
    readings, shares = [], []
    for side, side_ends in zip((a, b), ends, strict=True):
        spans = [_token_spans([side_ends[row][end] for end in common[row]], units) for row in rows]
        counts = side.spans[..., 0] < side.spans[..., 1]
        shares.append(len(rows) * units / int(counts.sum()))
        readings.append(
            Reading(
                tokens=side.tokens[rows],
                mask=None if side.mask is None else side.mask[rows],
                first=torch.tensor([[first for first, _ in text_spans] for text_spans in spans]),
                last=torch.tensor([[last for _, last in text_spans] for text_spans in spans]),
                counts=counts[rows],
                take=take,
                length=max(a.tokens.shape[1], b.tokens.shape[1]),
            )
        )
    return Alignment(readings[0], readings[1], tuple(rows), unit, *shares)


def word_ends(text: str) -> set[int]:
    """Return where words end, in characters: a word is a run of letters, marks, digits and underscores.

    >>> sorted(word_ends("to be, or"))
    [2, 5, 9]
    """
    inside = [character == "_" or unicodedata.category(character)[0] in "LMN" for character in text] + [False]
    return {place + 1 for place in range(len(text)) if inside[place] and not inside[place + 1]}


def _ends(spans: list[list[int]], text: str) -> dict[int, int]:
    """Map each place where a token ends, ignoring white space, to the last token that ends there."""
    ends = {}
    for index, (start, end) in enumerate(spans):
        while end > start and text[end - 1].isspace():
            end -= 1
        if end > start:
            ends[end] = index
    return ends


def _token_spans(lasts: list[int], units: int) -> list[tuple[int, int]]:
    """Return the first and last token of this many units, evenly spread, including the first and the last unit."""
    firsts = [0, *(last + 1 for last in lasts[:-1])]
    step = (len(lasts) - 1) / max(1, units - 1)
    places = [round(step * index) for index in range(units)]
    return [(firsts[place], lasts[place]) for place in places]
