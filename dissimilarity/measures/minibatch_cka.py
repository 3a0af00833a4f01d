"""Debiased linear CKA in minibatches of samples."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.inference.jackknife import influence_of_left_out
from dissimilarity.measures.base.checks import (
    ArrayLike,
    Units,
    as_tensors,
    check_count,
    check_pair,
    check_samples,
    check_widths,
    unit_numbers,
    units_suffix,
)
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.measures.numerics.blocks import Blocks, block_hsic
from dissimilarity.measures.numerics.centered import centered_product, left_out_terms, members
from dissimilarity.measures.numerics.hsic import MINIMUM
from dissimilarity.moments.pair import VANISHING, out_of_range
from dissimilarity.moments.products import sum_device
from dissimilarity.probe.arguments import choice, whole

Reduction = Literal["ratio_of_means", "mean_of_ratios"]


def minibatch_cka(
    x: ArrayLike,
    y: ArrayLike,
    reduction: Reduction = "ratio_of_means",
    batch: int = 256,
    units: ArrayLike | None = None,
) -> Float[Tensor, ""]:
    """Return debiased linear CKA over minibatches of consecutive samples; see ``MinibatchCKA``.

    The ratio of the mean HSICs (Nguyen et al. 2021), or the mean of the ratios (Brown et al. 2023). Symmetric;
    invariant to orthogonal maps, isotropic scaling and translation of either side.

    Args:
        x: at least 4 samples, (n, p): a tensor, numpy array or nested list.
        y: the same samples in the other representation, (n, q).
        reduction: ``ratio_of_means`` or ``mean_of_ratios``.
        batch: samples per minibatch. An incomplete last one is left out, unless it is the only one.
        units: the sequence of each sample, if samples of one sequence depend on each other; each minibatch needs
            samples of 4. By default each sample is independent.

    Returns:
        float64 scalar in [-1, 1]; 1 = same, about 0 for independent data.

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0], [4.0, 0.0], [1.0, 3.0], [0.0, -2.0], [5.0, 1.0]]
        >>> y = [[2.0], [1.5], [3.0], [0.5], [0.0], [2.0], [1.0], [0.5]]
        >>> print(f"{minibatch_cka(x, x, batch=4):.4f} {minibatch_cka(x, y, batch=4):.4f}")
        1.0000 0.5479
    """
    choice("reduction", reduction, get_args(Reduction))
    batch = whole("batch", batch, MINIMUM, "samples of a minibatch")
    x, y = as_tensors(x, y)
    check_pair(x, y, MinibatchCKA.minimum_samples)
    sequence = unit_numbers(units, len(x))
    if sequence is not None:
        first, second = (replace(_grams(side, batch), sequence=sequence) for side in (x, y))
        return _reduced(_terms_of_sequences(first, second)[..., 0], reduction)
    sums, x, y = _add_complete(torch.zeros(5, dtype=torch.float64, device=x.device), x, y, batch)
    return _value(sums, x, y, reduction)


@dataclass(frozen=True)
class Grams:
    """One side in minibatches.

    Attributes:
        grams: the Gram matrix of each minibatch, about its mean and with zeros on its diagonal, float64.
        samples: the samples.
        sequence: the sequence of each sample, where whole sequences are the units.
    """

    grams: Float[Tensor, "batches size size"]
    samples: Float[Tensor, "n p"]
    sequence: Int[Tensor, " n"] | None = None


class MinibatchCKA(SampleMeasure):
    """Debiased linear CKA over minibatches of consecutive samples, with HSIC_1 of Song et al. (2012) in each.

    There are two estimators. ``ratio_of_means`` (Nguyen et al. 2021) is mean HSIC(K, L) / sqrt(mean HSIC(K, K)
    mean HSIC(L, L)), which tends to the value over all samples. ``mean_of_ratios`` (Brown et al. 2023) is the mean over
    minibatches of HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) and does not.

    Minibatches are cut in the order of the stream, independently of the calls of ``update``, and any number of samples
    takes constant memory. Leftover samples wait for the next update, and those of several processes are joined. An
    incomplete last minibatch is left out, unless it is the only one. The order of samples matters because it decides
    which samples share a minibatch.

    Args:
        reduction: ``ratio_of_means`` or ``mean_of_ratios``.
        batch: samples per minibatch.
        max_samples: maximum number of samples in a comparison of models.
        seed: selects those samples.
        units: what HSIC takes as independent: ``sequence`` (whole sequences, wherever they are known)
            or ``sample`` (each sample, as in the literature).
    """

    full_state_update: ClassVar[bool | None] = False
    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (-1.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: frozenset[str] = frozenset({"orthogonal", "isotropic_scaling", "translation", "permutation"})
    minimum_samples: int = 4
    identical: ClassVar[float] = 1.0
    titles: ClassVar[Mapping[str, str]] = {
        "cka_ratio_of_means": "minibatch CKA",
        "cka_mean_of_ratios": "mean of minibatch CKA",
    }
    formula: ClassVar[str] = "debiased CKA over minibatches: ratio of the mean HSICs, or mean of the ratios"
    cost: ClassVar[str] = "n batch (p + q)"
    source: ClassVar[str] = "Nguyen et al. 2021; Brown et al. 2023"

    def __init__(
        self,
        reduction: Reduction = "ratio_of_means",
        batch: int = 256,
        max_samples: int = 1024,
        seed: int = 0,
        units: Units = "sequence",
    ) -> None:
        super().__init__(max_samples, seed)
        choice("reduction", reduction, get_args(Reduction))
        choice("units", units, get_args(Units))
        self.units: Units = units
        self.by_sequence = units == "sequence"
        self.reduction: Reduction = reduction
        self.batch = whole("batch", batch, MINIMUM, "samples of a minibatch")
        # Over the complete minibatches so far: cross term, both self terms, ratios, and the number of minibatches.
        self.add_state("sums", torch.zeros(5, dtype=torch.float64), dist_reduce_fx="sum")
        self._widths: tuple[int, int] | None = None

    @property
    def label(self) -> str:
        """``cka_ratio_of_means`` or ``cka_mean_of_ratios``, with the size of the minibatches if it is not 256.

        ``_sample`` follows if samples are the units.
        """
        batch = "" if self.batch == 256 else f"_{self.batch}"
        return f"cka_{self.reduction}{batch}{units_suffix(True, self.units)}"

    def prepare(self, x: Float[Tensor, "n p"]) -> Grams:
        """Return the Gram matrices of the minibatches."""
        return _grams(x, self.batch)

    def prepare_sequences(self, x: Float[Tensor, "n p"], sequence: Int[Tensor, " n"]) -> Grams:
        """Return the Gram matrices of the minibatches, with sequences as their units."""
        return replace(self.prepare(x), sequence=sequence if self.by_sequence else None)

    def between(self, x: Grams, y: Grams, weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return the value over the minibatches."""
        if weight is not None and x.sequence is None:  # weights are those of samples in quadruples
            x = replace(x, sequence=torch.arange(len(x.samples)))
        if x.sequence is not None:
            return _reduced(_terms_of_sequences(x, y, weight=weight)[..., 0], self.reduction)
        return _reduced(_terms(x.grams, y.grams), self.reduction)

    def estimate(
        self, x: Grams, y: Grams, unit: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " units"]]:
        """Return the value, and the influences from leaving out each unit in turn.

        Minibatches with fewer than 4 remaining samples, or sequences, are left out too.
        """
        if x.sequence is not None:
            value, *without = _terms_of_sequences(x, y, unit).unbind(-1)
            values = [_left_out(terms[:, ~terms[0].isnan()], self.reduction) for terms in without]
            return _reduced(value, self.reduction), influence_of_left_out(torch.stack(values))
        batches, size = x.grams.shape[:2]
        member = members(unit.to(x.grams.device))[: batches * size].unflatten(0, (batches, size))
        parts = [left_out_terms(a, b, True, part) for a, b, part in zip(x.grams, y.grams, member, strict=True)]
        terms, n = (torch.stack(part) for part in zip(*parts, strict=True))
        terms = (terms / (n * (n - 3))[:, None]).movedim(1, 0)
        values = [_left_out(terms[:, n[:, index] >= 4, index], self.reduction) for index in range(n.shape[1])]
        return self.between(x, y), influence_of_left_out(torch.stack(values))

    def rearrange(self, x: Grams, order: Int[Tensor, " n"]) -> Grams:
        """Return the Gram matrices of the rearranged samples, which fall into other minibatches."""
        return replace(self.prepare(x.samples[order.to(x.samples.device)]), sequence=x.sequence)

    def value(self, x: ArrayLike, y: ArrayLike) -> Float[Tensor, ""]:
        """Return the value over all samples, some minibatches at a time."""
        return minibatch_cka(x, y, self.reduction, self.batch)

    def update(self, x: ArrayLike, y: ArrayLike) -> None:
        """Add the minibatches that are complete, and keep the samples left over for the next ones."""
        x, y = as_tensors(x, y)
        check_samples(x, y)
        if self._widths is not None and int(self.seen):
            check_widths(self._widths, x, y)
        self._widths = (x.shape[1], y.shape[1])
        self.seen = self.seen + len(x)
        x, y = (torch.cat([*_parts(old), new.detach()]) for old, new in ((self.x, x), (self.y, y)))
        self.sums, x, y = _add_complete(self.sums, x, y, self.batch)
        self.x, self.y = [x], [y]

    def compute(self) -> Float[Tensor, ""]:
        """Return the value over all samples seen, on all processes."""
        check_count(int(self.seen), self.minimum_samples)
        x, y = (torch.cat(_parts(state)) for state in (self.x, self.y))
        return _value(*_add_complete(self.sums, x, y, self.batch), self.reduction)


def _parts(state: object) -> list[Tensor]:
    """Return the parts of a list state, which is one tensor once it was gathered from several processes."""
    return [state] if isinstance(state, Tensor) else list(cast(list[Tensor], state))


def _grams(x: Float[Tensor, "n p"], batch: int) -> Grams:
    size = min(batch, len(x))
    batches = x.detach()[: len(x) // size * size].to(sum_device(x.device)).double().unflatten(0, (-1, size))
    batches = batches - batches.mean(1, keepdim=True)
    grams = batches @ batches.mT
    own = grams.diagonal(dim1=1, dim2=2)
    squares = own.square().sum(1)
    finite = own.sum(1).square().isfinite()  # no less than any sum over squares of the matrix
    if not bool((finite & ((squares >= VANISHING) | ~batches.flatten(1).any(1))).all()):
        raise out_of_range(grams.dtype)
    own.zero_()
    return Grams(grams, x)


def _add_complete(
    sums: Float[Tensor, "5"], x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], batch: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums with the complete minibatches of some samples added, and the samples left over."""
    complete = len(x) // batch * batch
    for a, b in zip(x[:complete].split(16 * batch), y[:complete].split(16 * batch), strict=True):
        if len(a):
            sums = sums + _sums(a, b, batch).to(sums.device)
    return sums, x[complete:].clone(), y[complete:].clone()


def _sums(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], batch: int) -> Float[Tensor, "5"]:
    """Return over complete minibatches the sums of the terms and of the ratios, and how many minibatches there are."""
    terms = _terms(_grams(x, batch).grams, _grams(y, batch).grams)
    cross, self_x, self_y = terms
    ratio = _quotient(cross, self_x, torch.where((self_x > 0) & (self_y > 0), self_y, float("nan")))
    return torch.stack([*terms.sum(1), ratio.sum(), ratio.new_tensor(len(ratio))])


def _value(
    sums: Float[Tensor, "5"], x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], reduction: Reduction
) -> Float[Tensor, ""]:
    """Return the value from the sums, or over the samples left over if there is no complete minibatch."""
    if not int(sums[4]):
        check_pair(x, y, MinibatchCKA.minimum_samples)
        return _reduced(_terms(_grams(x, len(x)).grams, _grams(y, len(y)).grams), reduction)
    if reduction == "mean_of_ratios":
        if bool(sums[3].isnan()):
            raise _undefined("of a minibatch")
        return sums[3] / sums[4]
    return _ratio(sums[:3])


def _reduced(terms: Float[Tensor, "3 batches"], reduction: Reduction) -> Float[Tensor, ""]:
    return _ratio(terms).mean() if reduction == "mean_of_ratios" else _ratio(terms.mean(1))


def _left_out(terms: Float[Tensor, "3 batches"], reduction: Reduction) -> Float[Tensor, ""]:
    """Return the value without a unit; NaN where it is undefined, so that the value has no error bar."""
    cross, self_x, self_y = terms if reduction == "mean_of_ratios" else terms.mean(1)
    defined = (self_x > 0) & (self_y > 0)
    return _quotient(cross, self_x, torch.where(defined, self_y, torch.nan)).mean()


def _ratio(terms: Tensor) -> Tensor:
    cross, self_x, self_y = terms
    for self_term, name in ((self_x, "x"), (self_y, "y")):
        if not bool((self_term > 0).all()):
            count = f" in {int((self_term <= 0).sum())} of {self_term.numel()} minibatches" * self_term.ndim
            raise _undefined(f"of {name}{count}")
    return _quotient(cross, self_x, self_y)


def _quotient(cross: Tensor, self_x: Tensor, self_y: Tensor) -> Tensor:
    """Return cross / sqrt(self_x self_y), also where the product of the two leaves the range of float64."""
    product = self_x * self_y
    normal = product.isfinite() & (product >= torch.finfo(product.dtype).tiny)
    return cross / torch.where(normal, product.sqrt(), self_x.sqrt() * self_y.sqrt())


def _undefined(owner: str) -> ValueError:
    return ValueError(
        f"the unbiased self term {owner} is not positive, so there is nothing to divide by: the samples are equal, or "
        "all orthogonal to each other; raise batch or pass other samples"
    )


def _terms(x: Float[Tensor, "batches n n"], y: Float[Tensor, "batches n n"]) -> Float[Tensor, "3 batches"]:
    """Return HSIC_1 of x with y, x with x and y with y in each minibatch; 0 where it is no larger than rounding."""
    n = x.new_tensor(x.shape[1])

    def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
        a, b, trace = k.sum(2), l.sum(2), (k * l).sum((1, 2))
        product = centered_product(n, trace, (a * b).sum(1), a.sum(1), b.sum(1), unbiased=True)
        return torch.where(product.abs() > 1e-14 * trace.abs(), product, 0.0) / (n * (n - 3))

    return torch.stack([hsic(x, y), hsic(x, x), hsic(y, y)])


def _terms_of_sequences(
    x: Grams, y: Grams, unit: Int[Tensor, " n"] | None = None, weight: Float[Tensor, " n"] | None = None
) -> Float[Tensor, "3 batches times"]:
    """Return the terms of ``_terms`` with sequences as units, those of the first side, and without each unit in turn.

    Raises:
        ValueError: a minibatch has samples of fewer than four sequences.
    """
    assert x.sequence is not None
    size = x.grams.shape[1]
    sequence, left_out = x.sequence.to(x.grams.device), None if unit is None else members(unit.to(x.grams.device))
    terms = []
    for number, grams in enumerate(zip(x.grams, y.grams, strict=True)):
        part = slice(number * size, (number + 1) * size)
        have = len(sequence[part].unique())
        if have < MINIMUM:
            raise ValueError(
                f"too few sequences: a minibatch of {size} samples has samples of {have}, the measure needs at least "
                f"{MINIMUM}; raise batch, or leave out units (of a measure: "
                "units='sample') to take samples for independent"
            )
        a, b = (Blocks.of(gram, sequence[part], None if weight is None else weight[part]) for gram in grams)
        without = None if left_out is None else left_out[part]
        terms.append(torch.stack([block_hsic(u, v, without) for u, v in ((a, b), (a, a), (b, b))]))
    return torch.stack(terms, 1)
