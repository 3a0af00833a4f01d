"""Two models that read one text in different tokens: which positions of theirs stand for the same place in it.

Where a token of both models ends at one character of the text, both have read the same characters so far. Such a common
boundary is a sample: of each model the last token that ends there, or the mean over its tokens since the boundary
before. By default only the boundaries at ends of words count.

    alignment = align(first, second, texts)          # what each model reads, with the span of text of each token
    compare(model_a, model_b, alignment)             # as compare(model_a, model_b, tokens)
"""

import inspect
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Unit = Literal["word", "token"]
Take = Literal["last", "mean"]

SEQUENCES_LOST = 0.1
"""Most of the sequences, those with the fewest common boundaries, that are left out so that the others keep more."""


@dataclass(frozen=True)
class Tokenized:
    """Some texts in the tokens of one model.

    Attributes:
        tokens: one text a row, padded at the end.
        spans: where the text of each token starts and ends, in characters; two equal numbers for a token without text
            of its own (one that begins or ends a text, padding).
        mask: where there is a token, None where there is no padding.
    """

    tokens: Int[Tensor, "sequences length"]
    spans: Int[Tensor, "sequences length 2"]
    mask: Bool[Tensor, "sequences length"] | None = None


@dataclass(frozen=True)
class Reading:
    """What one model is given of some texts, and which of its positions stand for each unit of them.

    Attributes:
        tokens, mask: as in `Tokenized`, of the sequences that are compared.
        first, last: the tokens of each unit, both included.
        counts: which tokens have text, the others belong to no unit.
        take: whether the last token stands for a unit, or the mean over all of its tokens.
        length: tokens of the longest sequence of either model: both are run in the same batches.
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

    def part(self, of: Sequence[int]) -> "Reading":
        """The same of some of the sequences."""
        rows = list(of)
        mask = None if self.mask is None else self.mask[rows]
        here = {key: getattr(self, key)[rows] for key in ("tokens", "first", "last", "counts")}
        return replace(self, mask=mask, **here)

    def run(self, model: nn.Module, of: slice, device: torch.device) -> None:
        """Runs the model on some of the sequences; with a mask of their padding where it takes one.

        Padding stands behind the text, so that a model that reads forwards needs no mask.
        """
        tokens, masked = self.tokens[of], {}
        if self.mask is not None:
            mask = self.mask[of]
            longest = int(mask.sum(1).max())
            tokens = tokens[:, :longest]
            if "attention_mask" in inspect.signature(type(model).forward).parameters:
                masked = {"attention_mask": mask[:, :longest].long().to(device)}
        model(tokens.to(device), **masked)

    def units(self, activation: Float[Tensor, "some *pos d"], of: slice) -> Float[Tensor, "some units d"]:
        """The row of each unit, from the activations of some of the sequences.

        Raises:
            ValueError: activations without a row for each token.
        """
        if activation.ndim != 3:
            raise ValueError(
                f"expected activations (sequences, positions, d) to align, found {tuple(activation.shape)}; choose "
                "sites that have a row for each token"
            )
        first, last = self.first[of].to(activation.device), self.last[of].to(activation.device)
        if self.take == "last":
            return activation.take_along_dim(last[..., None], 1)
        place = torch.arange(activation.shape[1], device=activation.device)
        within = (first[..., None] <= place) & (place <= last[..., None])
        within &= self.counts[of, : activation.shape[1]].to(activation.device)[:, None]
        weights = within.to(activation.dtype if activation.dtype == torch.float64 else torch.float32)
        with torch.autocast(activation.device.type, enabled=False):
            return weights @ activation.to(weights) / weights.sum(-1, keepdim=True)


@dataclass(frozen=True)
class Alignment:
    """Two readings of the same texts, unit by unit.

    Attributes:
        a, b: of the two models.
        kept: which of the texts are compared.
        unit: what ends at the common boundaries that count.
        share_a, share_b: how many of the tokens with text, of all texts, end a unit that is compared.
    """

    a: Reading
    b: Reading
    kept: tuple[int, ...]
    unit: Unit
    share_a: float
    share_b: float

    @property
    def extent(self) -> tuple[int, int]:
        """How many sequences there are, and how many tokens the longer of the two models' sequences has."""
        return len(self.a), self.a.length

    @property
    def units(self) -> int:
        """Units of each sequence."""
        return self.a.last.shape[1]

    def part(self, of: Sequence[int]) -> "Alignment":
        """The same of some of the sequences that are compared; the shares stay those of all."""
        return replace(self, a=self.a.part(of), b=self.b.part(of), kept=tuple(self.kept[index] for index in of))

    def swapped(self) -> "Alignment":
        """The same, seen from the other model."""
        return Alignment(self.b, self.a, self.kept, self.unit, self.share_b, self.share_a)


def align(a: Tokenized, b: Tokenized, texts: Sequence[str], unit: Unit = "word", take: Take = "last") -> Alignment:
    """The common boundaries of two models' tokens in the same texts, as many of them in every text.

    White space at the end of a token does not count, nor do tokens of white space alone. As many boundaries, evenly
    spread, are taken of each text as nine in ten of the texts have at least; the rest are left out.

    Args:
        a, b: the texts in each model's tokens.
        texts: one for each row of both.
        unit: ``word``: boundaries at ends of words; ``token``: every common boundary. In languages that do not part
            words, the latter.
        take: ``last`` token that ends at a boundary, or ``mean`` over the tokens since the boundary before.

    Raises:
        ValueError: other numbers of texts, an unknown unit or way to take it, fewer than two texts with a common
            boundary.
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
        common = [sorted(word_ends(text).intersection(found)) for found, text in zip(common, texts, strict=True)]
    units = sorted(map(len, common))[int(SEQUENCES_LOST * len(common))] if common else 0
    kept = [row for row, found in enumerate(common) if len(found) >= units > 0]
    if len(kept) < 2:
        raise ValueError(
            f"the two models' tokens have no common boundary at the end of a {unit} in most of the {len(texts)} texts; "
            "give longer sequences (probe.length), or every common boundary (align.unit=token)"
        )
    readings, shares = [], []
    for side, found in zip((a, b), ends, strict=True):
        spans = [_token_spans([found[row][end] for end in common[row]], units) for row in kept]
        counts = side.spans[..., 0] < side.spans[..., 1]
        shares.append(len(kept) * units / int(counts.sum()))
        readings.append(
            Reading(
                tokens=side.tokens[kept],
                mask=None if side.mask is None else side.mask[kept],
                first=torch.tensor([[first for first, _ in of] for of in spans]),
                last=torch.tensor([[last for _, last in of] for of in spans]),
                counts=counts[kept],
                take=take,
                length=max(a.tokens.shape[1], b.tokens.shape[1]),
            )
        )
    return Alignment(readings[0], readings[1], tuple(kept), unit, *shares)


def word_ends(text: str) -> set[int]:
    """Where words end, in characters: a run of letters, marks, digits and underscores is one."""
    inside = [character == "_" or unicodedata.category(character)[0] in "LMN" for character in text] + [False]
    return {place + 1 for place in range(len(text)) if inside[place] and not inside[place + 1]}


def _ends(spans: list[list[int]], text: str) -> dict[int, int]:
    """Where tokens end, white space aside, and the last one that does so there: several may share a character."""
    found = {}
    for index, (start, end) in enumerate(spans):
        while end > start and text[end - 1].isspace():
            end -= 1
        if end > start:
            found[end] = index
    return found


def _token_spans(lasts: list[int], units: int) -> list[tuple[int, int]]:
    """First and last token of some of the units, evenly spread, the first and the last of them among them."""
    firsts = [0, *(last + 1 for last in lasts[:-1])]
    step = (len(lasts) - 1) / max(1, units - 1)
    chosen = [round(step * index) for index in range(units)]
    return [(firsts[index], lasts[index]) for index in chosen]
