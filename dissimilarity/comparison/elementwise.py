"""Compare two nearly equal models element by element: a quantized copy, another implementation, a patched block.

Measures of representations forget coordinates, and models that differ by rounding all score 1. Here activations are
subtracted, so both models must read the same tokens and have sites of the same width. What rounding alone does is
measured: the same model in float64, and with its weights rounded to the precision of the file.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dissimilarity.capture.call import call
from dissimilarity.capture.enter import logits_of
from dissimilarity.capture.forward import undisturbed
from dissimilarity.capture.hooks import device_of
from dissimilarity.capture.offloaded import in_float64, nudged, rounded
from dissimilarity.capture.site_names import site_name
from dissimilarity.capture.sites import LOGITS
from dissimilarity.capture.trial import lengths_explained
from dissimilarity.measures.kl import kl_per_sample
from dissimilarity.moments.cross import SitePair
from dissimilarity.probe.batches import sequences_per_batch
from dissimilarity.probe.running import SiteReader

NOISE_SEQUENCES = 4
"""Sequences on which the effect of rounding is measured."""
MARGIN = 4.0
"""Factor by which a difference must exceed the effect of rounding, which other sequences and processors vary."""
QUANTILE = 0.999
ROWS = 1024
"""Positions that are subtracted in float64 at one time."""


@dataclass(frozen=True)
class SiteDifference:
    """How far the activations of two models are apart at a pair of sites.

    Attributes:
        site_a: site of the first model.
        site_b: site of the second model.
        relative_error: norm of the difference over the norm of the first model's activations.
        cosine: mean cosine of the angle between the two vectors of a position.
        largest: largest absolute difference of two numbers; NaN where a number of either model is.
        noise: relative error that rounding alone makes.
    """

    site_a: str
    site_b: str
    relative_error: float
    cosine: float
    largest: float
    noise: float

    @property
    def name(self) -> str:
        """Name of the pair of sites."""
        return site_name(self.site_a, self.site_b)

    @property
    def has_numbers(self) -> bool:
        """Whether no activation is NaN or infinite."""
        return math.isfinite(self.relative_error)

    @property
    def differs(self) -> bool:
        """Whether the difference exceeds what rounding makes."""
        return not self.relative_error <= MARGIN * self.noise


@dataclass(frozen=True)
class OutputDifference:
    """How far the predictions of two models are apart, over all positions.

    Attributes:
        kl: mean divergence KL(a || b) of next-token distributions, in nats.
        kl_high: its 99.9th percentile over positions.
        largest: largest absolute difference of two logits.
    """

    kl: float
    kl_high: float
    largest: float


@dataclass(frozen=True)
class Elementwise:
    """Differences of two models.

    Attributes:
        sites: those by site, in the order of the pairs, without pairs of different widths.
        outputs: those of their predictions; None where one has none, or their vocabularies differ.
        is_whole: whether all pairs of sites are there.
    """

    sites: list[SiteDifference]
    outputs: OutputDifference | None
    is_whole: bool = True

    @property
    def is_identical(self) -> bool:
        """Whether all activations agree to the last bit; predictions may still differ."""
        return self.is_whole and all(site.largest == 0 for site in self.sites)

    @property
    def first(self) -> SiteDifference | None:
        """The first site that differs by more than rounding; None if none does."""
        return next((site for site in self.sites if site.differs), None)


def elementwise(
    a: nn.Module, b: nn.Module, tokens: Tensor, pairs: Sequence[SitePair], dtype: torch.dtype = torch.float32
) -> Elementwise:
    """Compare the activations and predictions of two models element by element.

    Args:
        a: first model.
        b: second model, of the same sizes.
        tokens: what both read, (sequences, positions).
        pairs: pairs of sites, in depth order.
        dtype: precision of the weights of the coarser of the two, for the noise.

    Examples:
        >>> model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 4))
        >>> tokens = torch.arange(8).reshape(2, 4)
        >>> elementwise(model, model, tokens, [("0", "0"), ("1", "1")]).is_identical
        True
    """
    differences = Differences()
    differences.add_models(a, b, tokens, pairs)
    return differences.result(a, b, tokens, dtype)


class Differences:
    """Differences of two models, summed over the sequences that they read."""

    def __init__(self) -> None:
        self.sums: dict[SitePair, _Sums] = {}
        self.is_whole = True
        self.divergences: list[Tensor] = []
        self.largest = 0.0

    def add_models(self, a: nn.Module, b: nn.Module, tokens: Tensor, pairs: Sequence[SitePair]) -> None:
        """Run both models, and add their activations at pairs of sites and their logits."""
        passes = (_passes(model, tokens, sites) for model, sites in zip((a, b), zip(*pairs, strict=True), strict=True))
        for one, other in zip(*passes, strict=True):
            for site_a, site_b in pairs:
                self.add((site_a, site_b), one[site_a], other[site_b])
            if LOGITS in one and LOGITS in other:
                self.add_outputs(one[LOGITS], other[LOGITS])

    def add(self, pair: SitePair, one: Tensor, other: Tensor) -> None:
        """Add the activations of both models at a pair of sites, unless their widths differ."""
        if one.shape != other.shape:
            self.is_whole = False
            return
        self.sums.setdefault(pair, _Sums()).add(one, other)

    def add_outputs(self, one: Tensor, other: Tensor) -> None:
        """Add the logits of both models, unless their vocabularies differ."""
        if one.shape != other.shape:
            return
        for logits_a, logits_b in zip(one, other, strict=True):
            p, q = (logits.double().log_softmax(-1) for logits in (logits_a, logits_b))
            self.divergences.append(kl_per_sample(p, q))
            self.largest = _larger(self.largest, _difference(logits_a, logits_b))

    def result(self, a: nn.Module, b: nn.Module, tokens: Tensor, dtype: torch.dtype) -> Elementwise:
        """Return the differences beside what rounding does to either model; arguments are those of `elementwise`."""
        few = tokens[:NOISE_SEQUENCES]
        noise_a, noise_b = (
            rounding_noise(model, few, [pair[side] for pair in self.sums], dtype) if self.sums else {}
            for side, model in enumerate((a, b))
        )
        sites = [
            SiteDifference(x, y, *part.differences(), max(noise_a[x], noise_b[y])) for (x, y), part in self.sums.items()
        ]
        if not self.divergences:
            return Elementwise(sites, None, self.is_whole)
        kl = torch.cat(self.divergences).cpu().numpy()
        outputs = OutputDifference(kl.mean().item(), np.quantile(kl, QUANTILE).item(), self.largest)
        return Elementwise(sites, outputs, self.is_whole)


def rounding_noise(model: nn.Module, tokens: Tensor, sites: Sequence[str], dtype: torch.dtype) -> dict[str, float]:
    """Return the relative error that rounding makes at each site.

    It is that of the arithmetic, against the same model in float64, or that of rounding the weights to a coarser
    precision than float32 if that is more. Where a model does not run in float64, one rounding of each weight stands
    for the arithmetic.

    Args:
        model: a model in float32.
        tokens: what it reads.
        sites: its sites.
        dtype: precision of the weights.
    """
    own = _read(model, tokens, sites)
    try:
        with in_float64(model):
            others = [_read(model, tokens, sites)]
    except (RuntimeError, ValueError):  # a model that computes parts of it in float32 whatever its weights are
        with nudged(model):
            others = [_read(model, tokens, sites)]
    if dtype not in (torch.float32, torch.float64):
        with rounded(model, dtype):
            others.append(_read(model, tokens, sites))
    noise = dict.fromkeys(sites, torch.finfo(torch.float32).eps)
    for other in others:
        for site in sites:
            sums = _Sums()
            sums.add(other[site], own[site])
            noise[site] = max(noise[site], sums.differences()[0])
    return noise


def _read(model: nn.Module, tokens: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
    """Return the activations of a few sequences."""
    with undisturbed(model):
        return SiteReader(model, tokens, list(dict.fromkeys(sites))).read(slice(None))


class _Sums:
    """Sums over positions from which the differences at a pair of sites follow."""

    def __init__(self) -> None:
        self.square, self.norm, self.cosine, self.count, self.largest = 0.0, 0.0, 0.0, 0, 0.0

    def add(self, one: Tensor, other: Tensor) -> None:
        parts = (side.flatten(0, -2).split(ROWS) for side in (one, other))
        for x, y in zip(*parts, strict=True):
            x, y = x.double(), y.double()
            difference = _difference(x, y)
            self.square += difference.square().sum().item()
            self.norm += x.square().sum().item()
            self.cosine += nn.functional.cosine_similarity(x, y, dim=-1).sum().item()
            self.count += len(x)
            self.largest = _larger(self.largest, difference)

    def differences(self) -> tuple[float, float, float]:
        """Return the relative error, the mean cosine and the largest difference."""
        tiny = torch.finfo(torch.float64).tiny
        return (self.square / max(self.norm, tiny)) ** 0.5, self.cosine / self.count, self.largest


def _difference(x: Tensor, y: Tensor) -> Tensor:
    """Return x - y; 0 where both are the same infinity, as in the logits of tokens that a model never predicts."""
    return torch.where(x == y, 0.0, x - y)


def _larger(largest: float, difference: Tensor) -> float:
    """Return the larger of a number and the largest absolute difference; NaN if either is NaN."""
    return float(np.maximum(largest, difference.abs().max().item()))


def _passes(model: nn.Module, tokens: Tensor, sites: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yield the activations of some sequences at a time, with the logits of a model that has them."""
    device = device_of(model)
    with undisturbed(model):
        with lengths_explained(model, tokens):
            has_logits = predictions_of(call(model, tokens[:1].to(device))) is not None
        names = [*dict.fromkeys(sites), *([LOGITS] if has_logits else [])]
        reader = SiteReader(model, tokens, names)
        size = sequences_per_batch(tokens.shape[1])
    for start in range(0, len(tokens), size):
        with undisturbed(model):  # not around the yield: two models take turns, and modes must end in order
            acts = reader.read(slice(start, start + size))
        yield acts


def predictions_of(output: Any) -> Tensor | None:
    """Return the logits in a model's result; None if it predicts no tokens, as the bodies of transformers."""
    if hasattr(output, "last_hidden_state") and not hasattr(output, "logits"):
        return None
    try:
        return logits_of(output)
    except ValueError:
        return None
