"""Linear centered kernel alignment, exact over any number of samples."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.inference.influence import sample_influence
from dissimilarity.inference.jackknife import influence_of_left_out, left_out, with_slopes
from dissimilarity.measures.base.checks import (
    ArrayLike,
    Units,
    paired_samples,
    unit_numbers,
    units_suffix,
)
from dissimilarity.measures.base.moment_measure import Estimate, MomentMeasure
from dissimilarity.measures.numerics.centered import check_sequences
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.measures.numerics.hsic import hsic, hsic_of_sequences, squares, with_itself
from dissimilarity.measures.numerics.hsic_left_out import hsic_left_out
from dissimilarity.measures.numerics.rearranged_hsic import PairKernel, rearranged_hsic
from dissimilarity.moments.cross import moments_of_sequences
from dissimilarity.moments.pair import SWAPPED, Moments, centered_cross, moments_of
from dissimilarity.moments.paired_samples import PairedSamples
from dissimilarity.moments.products import APART, has_fast_bfloat16
from dissimilarity.moments.second_pass import SecondPass
from dissimilarity.probe.arguments import choice, flag


def cka(x: ArrayLike, y: ArrayLike, debiased: bool = True, units: ArrayLike | None = None) -> Float[Tensor, ""]:
    """Return linear CKA of two representations of the same samples; see ``CKA``.

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = x x', L = y y' (Kornblith et al. 2019). Symmetric; invariant to
    orthogonal maps, isotropic scaling and translation of either side.

    Args:
        x: at least 4 samples, (n, p): a tensor, numpy array or nested list.
        y: the same samples in the other representation, (n, q).
        debiased: whether to use the unbiased HSIC instead of the biased one.
        units: the sequence of each sample, if samples of one sequence depend on each other, for the unbiased HSIC; by
            default each sample is independent.

    Returns:
        float64 scalar; 1 = same. Debiased: in [-1, 1], about 0 for independent data. Biased: in [0, 1], rises with
        p / n.

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0], [4.0, 0.0]]
        >>> y = [[2.0], [1.5], [3.0], [0.5], [0.0]]
        >>> print(f"{cka(x, x):.4f} {cka(x, y):.4f}")
        1.0000 0.6648
    """
    flag("debiased", debiased)
    x, y = paired_samples(x, y, CKA.minimum_samples)
    numbers = unit_numbers(units, len(x)) if debiased else None
    if numbers is None:
        return cka_from_moments(moments_of(x, y), debiased)
    check_sequences(1 + int(numbers.max()))
    return cka_from_moments(moments_of_sequences(x, y, numbers), debiased)


def cka_from_moments(m: Moments, debiased: bool) -> Float[Tensor, "*pairs"]:
    """Return CKA from sums; NaN where an unbiased self term is not positive."""
    sides = (
        {"n": m["n"], **{key: m[name] for key, name in names if name in m}}
        for names in (((key, key) for key in (*SWAPPED, "lengths")), (*SWAPPED.items(), ("lengths", "lengths")))
    )
    return cka_from_terms(m, debiased, *(_self_term(side, debiased) for side in sides))


def cka_from_terms(m: Moments, debiased: bool, self_x: Tensor, self_y: Tensor) -> Float[Tensor, "*pairs"]:
    """Return CKA from sums and the terms of both sides with themselves."""
    value = _cosine(_cross_term(m, debiased), self_x, self_y, "u" in m)
    return torch.where(value.isnan(), value, exact_where_same(m, value, CKA.identical))


class CKA(MomentMeasure):
    """Linear CKA (Kornblith et al. 2019), by default with the unbiased HSIC_1 of Song et al. (2012).

    Biased: |Xc'Yc|_F^2 / (|Xc'Xc|_F |Yc'Yc|_F) with Xc = column-centered X.

    Debiased: with K~ = K with zero diagonal, HSIC_1(K, L) = [tr(K~L~) + 1'K~1 1'L~1 / ((n-1)(n-2)) -
    2 / (n-2) 1'K~L~1] / (n (n-3)). No Gram matrix is formed: tr(K~L~) = |X'Y|_F^2 - sum ab,
    1'K~1 = |sum x|^2 - sum a, 1'K~L~1 = s_x' X'Y s_y - s_x' X'b - s_y' Y'a + sum ab, all sums over samples.

    With whole sequences as units, every pair of samples of one sequence is left out and not only that of a sample with
    itself: HSIC is the mean of k_ij l_ij + k_ij l_qr - 2 k_ij l_iq over quadruples of samples of different sequences.
    Samples of a sequence depend on each other, and HSIC_1 is unbiased for independent samples alone. Where each
    sequence is one sample, both are the same. As a metric (``update``), each sample is independent.

    The value is NaN where an unbiased self term is not positive: the centered samples of one side are all alike or all
    orthogonal to each other, or few sequences do not tell them apart. With sequences as units it may leave its bounds
    by the error of the estimate.

    Args:
        debiased: whether to use the unbiased HSIC instead of the biased one.
        units: what the unbiased HSIC takes as independent: ``sequence`` (whole sequences, wherever they are known)
            or ``sample`` (each sample, as in the literature).
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (-1.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = frozenset(
        {"orthogonal", "isotropic_scaling", "translation", "permutation"}
    )
    minimum_samples: int = 4
    identical: ClassVar[float] = 1.0
    titles: ClassVar[Mapping[str, str]] = {"cka": "CKA"}
    formula: ClassVar[str] = "HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K = X X', L = Y Y'"
    cost: ClassVar[str] = "n (p q + p^2 + q^2)"
    source: ClassVar[str] = "Kornblith et al. 2019; unbiased HSIC: Song et al. 2012"

    def __init__(self, debiased: bool = True, units: Units = "sequence") -> None:
        super().__init__()
        choice("units", units, get_args(Units))
        self.debiased = flag("debiased", debiased)
        self.units: Units = units
        self.bounds = (-1.0 if debiased else 0.0, 1.0)

    @property
    def label(self) -> str:
        """``cka``, ``cka_sample`` or ``cka_biased``."""
        return "cka" + units_suffix(self.debiased, self.units)

    @property
    def by_sequence(self) -> bool:
        """Whether whole sequences are the units."""
        return self.debiased and self.units == "sequence"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """Return CKA from sums."""
        return cka_from_moments(self._read(m), self.debiased)

    def from_terms(self, m: Moments, x: Sequence[Tensor], y: Sequence[Tensor]) -> Float[Tensor, "*pairs"]:
        """Return CKA from sums and the self terms of both sides."""
        return cka_from_terms(self._read(m), self.debiased, *(torch.stack([*terms], 1)[0] for terms in (x, y)))

    @property
    def reads_kernels(self) -> bool:
        """Whether whole sequences are the units, so that kernels of pairs of sequences are enough."""
        return self.by_sequence

    def of_kernels(
        self, x: PairKernel, y: PairKernel, order: Int[Tensor, "nulls sequences"], x_terms: Any, y_terms: Any
    ) -> Float[Tensor, " nulls"]:
        """Return CKA with sequence order[k, s] of x in the place of sequence s."""
        return _cosine(rearranged_hsic(x, y, order), x_terms[0], y_terms[0], wide=True)

    def self_terms(self, totals: Moments, units: Moments) -> Float[Tensor, " times"]:
        """Return the term of a side with itself: over all samples, and then without each unit in turn."""
        totals, units = self._read(totals), self._read(units)
        if "u" in totals and units:
            m, m_units = ({key: value[None] for key, value in with_itself(totals).items()}, with_itself(units))
            terms = hsic_of_sequences(m, {key: value[:, None] for key, value in m_units.items()})[:, 0]
            return _positive(terms, totals)
        whole = _self_term(totals, self.debiased)[None]
        if not units:
            return whole
        side = {key: totals[key] for key in ("n", "x", "xx", "a", "aa", "xa")}
        return torch.cat([whole, left_out(lambda m: _self_term(m, self.debiased), side, units)])

    def estimate(
        self, totals: Moments, units: Moments, x: Sequence[Tensor], y: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "*pairs"], Float[Tensor, " units *pairs"]]:
        """Return CKA from sums, and the influences from leaving out each unit in turn."""
        value, left_out_values = self.left_out(totals, units, x, y)
        return value, influence_of_left_out(left_out_values)

    def left_out(
        self, totals: Moments, units: Moments, x: Sequence[Tensor], y: Sequence[Tensor]
    ) -> tuple[Float[Tensor, " pairs"], Float[Tensor, "units pairs"]]:
        """Return CKA, and CKA without each unit in turn; the arguments are those of ``estimate``."""
        totals, units = self._read(totals), self._read(units)
        if "u" in totals:
            cross = hsic_of_sequences(totals, units)
        else:
            both = {key: totals[key] for key in ("n", "x", "y", "xy", "a", "b", "ab", "xb", "ya")}
            without = left_out(lambda m: _cross_term(m, self.debiased), both, units)
            cross = torch.cat([_cross_term(totals, self.debiased)[None], without])
        return self._cosines(totals, cross, x, y)

    def terms_again(self, totals: Moments) -> SecondPass[Float[Tensor, " times"]]:
        """Return the term of a side with itself: over all samples, and then without each sequence in turn."""
        side = self._read(totals)
        m = {key: value[None] for key, value in (with_itself(side)).items()}
        terms = hsic_left_out(m, self.debiased).then(lambda terms: terms[:, 0])
        return terms.then(lambda terms: _positive(terms, side)) if self.debiased else terms

    def estimate_again(self, totals: Moments, x: Sequence[Tensor], y: Sequence[Tensor]) -> SecondPass[Estimate]:
        """Return CKA from sums, and the influences from leaving out each sequence in turn."""
        return self.left_out_again(totals, x, y).then(lambda values: (values[0], influence_of_left_out(values[1])))

    def sample_influence(self, totals: Moments, samples: PairedSamples) -> Float[Tensor, "samples pairs"]:
        """Return the derivative of CKA with respect to the weight of each sample.

        A pair of samples counts with the product of their weights, so a weight of two stands for a sample that occurs
        twice without being paired with itself.
        """
        return _by_weights(self._read(totals), samples, self.debiased)

    def left_out_again(self, totals: Moments, x: Sequence[Tensor], y: Sequence[Tensor]) -> SecondPass[Estimate]:
        """Return CKA, and CKA without each sequence in turn; the arguments are those of ``estimate_again``."""
        totals = self._read(totals)
        fast = has_fast_bfloat16(totals["n"].device.type) and self._are_apart(totals, x, y)
        left_out = replace(hsic_left_out(totals, self.debiased), fast=fast)
        return left_out.then(lambda cross: self._cosines(totals, cross, x, y))

    def _are_apart(self, totals: Moments, x: Sequence[Tensor], y: Sequence[Tensor]) -> bool:
        """Return whether CKA of all pairs is below `APART`, from their biased cross terms."""
        cross = squares(centered_cross(totals)) / (totals["n"] ** 2 if self.debiased else 1.0)
        self_x, self_y = (torch.stack([term[0] for term in terms]) for terms in (x, y))
        return bool((cross < APART * (self_x * self_y).sqrt()).all())

    def _cosines(
        self, totals: Moments, cross: Float[Tensor, "times pairs"], x: Sequence[Tensor], y: Sequence[Tensor]
    ) -> tuple[Float[Tensor, " pairs"], Float[Tensor, "units pairs"]]:
        """Return CKA over all samples, and each time without some of them, from the cross terms and the self terms."""
        values = _cosine(cross, torch.stack([*x], 1), torch.stack([*y], 1), "u" in totals)
        values = torch.where(values.isnan(), values, exact_where_same(totals, values, self.identical))
        return values[0], values[1:]

    def _read(self, m: Moments) -> Moments:
        """Return the sums that this estimator reads: those over sequences only where they are its units."""
        return m if self.by_sequence else {key: value for key, value in m.items() if key not in ("u", "v")}


def _cross_term(m: Moments, debiased: bool) -> Float[Tensor, "*pairs"]:
    return hsic(m) if debiased else squares(centered_cross(m))


def _self_term(m: Moments, debiased: bool) -> Float[Tensor, "*pairs"]:
    """Return the term of a side, under first-side names, with itself; NaN where it is not positive."""
    if not debiased:
        return squares(centered_cross({"n": m["n"], "x": m["x"], "y": m["x"], "xy": m["xx"]}))
    return _positive(hsic(with_itself(m)), m)


def _positive(term: Float[Tensor, "*times"], m: Moments) -> Float[Tensor, "*times"]:
    """Return an unbiased self term; NaN where it is no larger than rounding."""
    n = m["lengths"].sum(-1) if "u" in m else m["n"]
    return torch.where(term > 1e-14 / (n * (n - 3)) * squares(m["xx"]), term, torch.nan)


def _cosine(
    cross: Float[Tensor, "*#pairs"], self_x: Float[Tensor, "*#pairs"], self_y: Float[Tensor, "*#pairs"], wide: bool
) -> Float[Tensor, "*_"]:
    """Return the cosine of two kernels; NaN where only rounding is left to compare.

    With samples as units, HSIC_1 is an inner product of U-centered kernels, so a cross term above the self terms
    contradicts Cauchy-Schwarz and can only be rounding. With sequences as units (``wide``) it is none, and a value may
    be slightly beyond 1.
    """
    size = self_x.sqrt() * self_y.sqrt()  # the product of both may be beyond the range of float64
    return torch.where(wide | (cross.abs() <= (1 + 5e-6) * size), cross, torch.nan) / size


def _by_weights(totals: Moments, samples: PairedSamples, debiased: bool) -> Float[Tensor, "samples pairs"]:
    """Return the derivative of CKA with respect to the weight of each sample.

    The weights of samples are those of their sequences too, so the sums with powers of lengths are needed even where
    lengths are equal. With samples as units, each of them is a sequence.
    """

    def formula(m: Moments) -> Float[Tensor, " pairs"]:
        return cka_from_moments(m, debiased)

    if not debiased:
        return sample_influence(with_slopes(formula, totals)[1], samples.parts())
    single = "u" not in totals
    if single:
        totals = {key: value for key, value in totals.items() if not key[-1].isdigit()}
        stacks = [(part.x, part.y) for part in samples.parts()]
        x, y = (
            torch.cat([torch.stack(side.samples) for side in sides], 1).double() for sides in zip(*stacks, strict=True)
        )
        pairs = len(totals["n"])
        twins = {"gg": "aa", "hh": "bb", "gh": "ab", "kk": "aa", "ll": "bb", "kl": "ab"}
        twins |= {"xk": "xa", "xl": "xb", "yl": "yb", "yk": "ya"}
        totals = {**totals, **{f"{key}0": totals[twin] for key, twin in twins.items()}}
        totals |= {
            "u": x.expand(pairs, -1, -1),
            "v": y,
            "lengths": x.new_ones(pairs, x.shape[1]),
        }
    for key in ("xx", "yy", "xy"):
        totals = {**totals, **{f"{key}{e}": totals.get(f"{key}{e}", totals[key]) for e in (1, 2)}}
    for key in ("gg", "hh", "gh", "kk", "ll", "kl", "xk", "xl", "yl", "yk"):
        totals |= {f"{key}{e}": totals.get(f"{key}{e}", totals[f"{key}0"]) for e in (1, 2)}
    return sample_influence(with_slopes(formula, totals)[1], samples.parts(single))
