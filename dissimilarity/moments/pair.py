"""Sums over samples from which a whole group of measures follows exactly.

Linear CKA, Procrustes and the CCA family need only second moments, never the samples themselves, and debiased CKA needs
a few fourth-order sums as well. Sums stream over batches, merge across units, processes and machines by addition, and
take O(p q) memory whatever the number of samples.

``Moments`` is a dict of float64 tensors over the same samples (x_i, y_i; a_i = |x_i|^2, b_i = |y_i|^2):

| key | sum over samples of | shape |
| --- | --- | --- |
| ``n`` | 1 | () |
| ``x``, ``y`` | x_i, y_i | (p,), (q,) |
| ``xx``, ``yy``, ``xy`` | x_i x_i', y_i y_i', x_i y_i' | (p, p), (q, q), (p, q) |
| ``a``, ``b`` | a_i, b_i | () |
| ``aa``, ``bb``, ``ab`` | a_i^2, b_i^2, a_i b_i | () |
| ``xa``, ``xb`` | x_i a_i, x_i b_i | (p,) |
| ``ya``, ``yb`` | y_i a_i, y_i b_i | (q,) |
| ``eps_x``, ``eps_y`` | unit roundoff of the sample's dtype, for x and y | () |

``eps_x / n`` says how precise the sums of x are (1.2e-7 for float32 samples); decisions about ranks read it.

``dissimilarity.moments.sequences`` has the sums that estimators with whole sequences as units need beside these, and
``dissimilarity.moments.halves`` those over halves of the units.

An offset is subtracted from all samples before the first sum (the mean of the first batch), so that a large common mean
costs no digits. Every formula that reads the sums is invariant to that offset.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dissimilarity.moments.halves import HALF
from dissimilarity.moments.products import (
    as_samples,
    choose_offset,
    column_means,
    find_outlier_rows,
    products,
    remove_offset,
    rounded_where_many,
    squared_norms,
    weighted_sums,
    zero_outliers,
)

Moments = dict[str, Tensor]

SWAPPED = {
    **{"x": "y", "xx": "yy", "a": "b", "aa": "bb", "xa": "yb", "eps_x": "eps_y"},
    **{"u": "v", "xx1": "yy1", "xx2": "yy2", "gg0": "hh0", "gg1": "hh1", "gg2": "hh2", "gg_s": "hh_s"},
    **{"kk0": "ll0", "kk1": "ll1", "xk0": "yl0", "xk1": "yl1"},
    **{first + HALF: second + HALF for first, second in (("x", "y"), ("xx", "yy"), ("a", "b"), ("eps_x", "eps_y"))},
}
"""The sums of one side under first-side names -> the same sums under second-side names."""

SMALL = 2**16
"""Sides with up to this many values are taken in float64, where that costs nothing."""


def side_moments(
    x: Float[Tensor, "units n p"],
    a: Float[Tensor, "units n"],
    outlier_rows: Bool[Tensor, "units n"],
    k: Float[Tensor, "units n powers"] | None = None,
) -> tuple[Moments, Moments]:
    """Compute the sums of one side, under first-side names: over all samples, and per unit.

    Args:
        x: samples of this side without their offset.
        a: their squared norms.
        outlier_rows: which of them are multiplied in float64.
        k: the weights of the sums ``xk`` and ``kk`` of ``moments.sequences``, if these are needed.
    """
    xx, xx_units = products(x, None, outlier_rows)
    weights = a[..., None] if k is None else torch.cat([a[..., None], k], -1)
    # Each kind of weight gets memory of its own, which processes can add up.
    xa, xa_units = (sums.movedim(-1, 0).contiguous() for sums in weighted_sums(x, weights, outlier_rows))
    units = {
        "x": x.sum(1).to(a.device).double(),
        "xx": xx_units,
        "a": a.sum(1),
        "aa": a.square().sum(1),
        "eps_x": a.new_full((len(a),), a.shape[1] * torch.finfo(x.dtype).eps),
        "xa": xa_units[0],
    }
    sums = {"xx": xx, "xa": xa[0]}
    for e in range(weights.shape[-1] - 1):
        units |= {f"xk{e}": xa_units[1 + e], f"kk{e}": (weights[..., 1] * weights[..., 1 + e]).sum(1)}
        sums |= {f"xk{e}": xa[1 + e]}
    return {**{key: value.sum(0) for key, value in units.items() if key not in sums}, **sums}, units


VANISHING = 1e-280
"""Sum of fourth powers below which digits are lost in float64."""


def in_range(side: Moments) -> bool:
    """Return whether the sums of one side are right: float32 products overflow above 1e12 and vanish below 1e-19.

    Sums in float64 are squared once more and then summed over samples: they vanish below 1e-75 and overflow above 1e72.
    """
    # No entry of xx exceeds its diagonal, and the trace checks the diagonal without a pass over the whole matrix. The
    # factor of 1e6 leaves room for sums over as many samples.
    finite = all(
        bool(torch.isfinite(values).all()) for values in (side["x"], (1e6 * side["a"]) ** 2, side["aa"], side["xa"])
    )
    vanishes = bool(side["aa"] < VANISHING) and bool((side["a"] > 0) | side["x"].any())  # squares may all be 0
    return finite and not vanishes and bool((side["xx"].trace() - side["a"]).abs() <= 1e-3 * side["a"])


def check_range(side: Moments, dtype: torch.dtype) -> None:
    """Raise ValueError unless the sums of one side, from samples in some precision, are right."""
    if not in_range(side):
        raise out_of_range(dtype)


def out_of_range(dtype: torch.dtype) -> ValueError:
    """Return the error for samples in some precision whose products leave its range."""
    instead = "" if dtype == torch.float64 else ", or use .double()"
    return ValueError(f"values are too large or too small for their products; scale them to about 1{instead}")


def cross_moments(
    xs: Iterable[Float[Tensor, "units n _"]],
    a: Float[Tensor, "units n sites"],
    ys: Sequence[Float[Tensor, "units n _"]],
    b: Float[Tensor, "units n partners"],
    outlier_rows: Bool[Tensor, "units n"],
    fast: bool = False,
) -> Iterator[tuple[str, int, int, Tensor, Tensor]]:
    """Compute the sums of several sites with all their partners, part by part.

    Args:
        xs: samples of all sites, each part several sites side by side: one wide product is faster than many.
        a: squared norms per site; where sums over sequences are needed, then the weights k of their sums per site, by
            powers.
        ys: samples of all partners, in parts like ``xs``.
        b: squared norms per partner, and l like k.
        outlier_rows: which samples are outliers on any side.
        fast: whether the sums serve a null, so that ``xy`` may be that of rounded samples.

    Yields:
        key, index of the part of x, index of the part of y, the sum over all samples, and the sums per unit:
        ``xy`` for each two parts, ``xb`` (columns, partners) for each part of x, ``ya`` (columns, sites) for each part
        of y, and ``ab`` (sites, partners).
    """
    for row, x in enumerate(xs):
        regular = zero_outliers(x, outlier_rows)
        yield "xb", row, 0, *weighted_sums(x, b, outlier_rows, regular)
        factor = rounded_where_many(regular) if fast else regular
        for column, y in enumerate(ys):
            yield "xy", row, column, *products(x, y, outlier_rows, factor)
    for column, y in enumerate(ys):
        yield "ya", 0, column, *weighted_sums(y, a, outlier_rows)
    per_unit = a.mT @ b
    yield "ab", 0, 0, per_unit.sum(0), per_unit


def one_pair(
    cross: Moments, rows: slice, site: int, columns: slice, partner: int, sites: int, partners: int
) -> Moments:
    """Select the cross sums of one site and one partner, in the shapes of the tables.

    Args:
        cross: sums of ``cross_moments``, and others of the same places.
        rows: the columns of the site.
        site: which of the sites.
        columns: the columns of the partner.
        partner: which of the partners.
        sites: number of sites.
        partners: number of partners.
    """
    pair = {key: value[..., rows, columns] for key, value in cross.items() if key.startswith("xy")}
    pair |= {key: value[..., site, partner] for key, value in cross.items() if key.startswith("gh")}
    for e in range(-1, cross["xb"].shape[-1] // partners - 1) if "xb" in cross else ():
        k, l = site + (1 + e) * sites, partner + (1 + e) * partners  # noqa: E741
        names = ("ab", "xb", "ya") if e < 0 else (f"kl{e}", f"xl{e}", f"yk{e}")
        values = (
            cross["ab"][..., site if e < 0 else site + sites, l],
            cross["xb"][..., rows, l],
            cross["ya"][..., columns, k],
        )
        pair |= dict(zip(names, values, strict=True))
    return pair


def join(counts: Moments, x_side: Moments, y_side: Moments, cross: Moments) -> Moments:
    """Join the sums of two sides (both under first-side names) and their cross sums into all sums of the pair.

    Args:
        counts: ``n``, and ``lengths`` where there are sums over sequences.
        x_side: the sums of the first side.
        y_side: the sums of the second side.
        cross: the cross sums.
    """
    return {**counts, **x_side, **{SWAPPED[key]: value for key, value in y_side.items()}, **cross}


def add(total: Moments, addend: Moments) -> Moments:
    """Add the sums of two sets of samples with the same offsets; an empty dict stands for no samples."""
    return {key: value + addend[key] for key, value in total.items()} if total else dict(addend)


@dataclass(frozen=True)
class PreparedSide:
    """One side of a pair, with everything that does not depend on the other side.

    Attributes:
        samples: samples without their offset, (1, n, p).
        norms: their squared norms, (1, n).
        outlier_rows: which of them are outliers, (1, n).
        sums: the sums of this side, under first-side names.
    """

    samples: Tensor
    norms: Tensor
    outlier_rows: Tensor
    sums: Moments


def prepare_side(x: Float[Tensor, "n p"], offset: Float[Tensor, " p"] | None = None) -> PreparedSide:
    """Prepare a side about an offset, by default ``choose_offset(x)``.

    Raises:
        ValueError: values too large or too small for float32 products.
    """
    x = x.double() if x.numel() <= SMALL else x
    samples = remove_offset(x, choose_offset(x) if offset is None else offset)[None]
    norms = squared_norms(samples)
    outlier_rows = find_outlier_rows(norms).to(samples.device)
    sums = {key: value.double() for key, value in side_moments(samples, norms, outlier_rows)[0].items()}
    check_range(sums, x.dtype)
    return PreparedSide(samples, norms, outlier_rows, sums)


def moments_of_sides(x: PreparedSide, y: PreparedSide) -> Moments:
    """Compute all sums of a pair of prepared sides."""
    if x.samples.shape[1] != y.samples.shape[1]:
        raise ValueError(
            f"expected the same samples on both sides, found {x.samples.shape[1]} and {y.samples.shape[1]}; "
            "prepare both on one probe set"
        )
    n = torch.tensor(float(x.samples.shape[1]), dtype=torch.float64, device=x.norms.device)
    norms_x, norms_y = x.norms[..., None], y.norms[..., None]
    parts = cross_moments([x.samples], norms_x, [y.samples], norms_y, x.outlier_rows | y.outlier_rows)
    cross = {key: total.double() for key, _, _, total, _ in parts}
    return join({"n": n}, x.sums, y.sums, one_pair(cross, slice(None), 0, slice(None), 0, 1, 1))


def moments_of(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], dual: bool = True) -> Moments:
    """Return the moments of two sides of the same samples.

    Args:
        x: samples in one representation.
        y: the same samples in the other.
        dual: whether to write a side with fewer samples than dimensions in coordinates of its own span, (n, n) instead
            of (n, p). The value of a measure that is invariant to rotation and translation stays the same.
    """
    return moments_of_sides(moment_side(x, dual), moment_side(y, dual))


def moment_side(x: Float[Tensor, "n p"], dual: bool) -> PreparedSide:
    """Return one side of ``moments_of``."""
    return prepare_side(span_coordinates(x) if dual and len(x) < x.shape[1] else x)


def pair_moments(
    x: Float[Tensor, "n p"],
    y: Float[Tensor, "n q"],
    offset_x: Float[Tensor, " p"] | None = None,
    offset_y: Float[Tensor, " q"] | None = None,
) -> Moments:
    """Compute all sums of one pair of representations about the given offsets (by default ``choose_offset``).

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> pair_moments(x, 2 * x)["xy"].tolist()
    [[4.0, 2.0], [2.0, 4.0]]
    """
    return moments_of_sides(prepare_side(as_samples(x), offset_x), prepare_side(as_samples(y), offset_y))


def span_coordinates(x: Float[Tensor, "n p"]) -> Float[Tensor, "n rank"]:
    """Write centered samples, n < p, in orthonormal coordinates of their span; all angles stay."""
    return torch.linalg.qr((x - column_means(x).to(x)).T, mode="r").R.T


def centered(m: Moments) -> tuple[Tensor, Tensor, Tensor]:
    """Return the centered products (Xc'Xc, Yc'Yc, Xc'Yc); any leading dimensions."""
    return _center(m, "xx", "x", "x"), _center(m, "yy", "y", "y"), centered_cross(m)


def centered_self(side: Moments) -> Tensor:
    """Return Xc'Xc of one side alone; any leading dimensions."""
    return _center(side, "xx", "x", "x")


def centered_cross(m: Moments) -> Tensor:
    """Return Xc'Yc alone; any leading dimensions."""
    return _center(m, "xy", "x", "y")


def centered_squares(m: Moments) -> tuple[Tensor, Tensor]:
    """Return |Xc|_F^2 and |Yc|_F^2 without reading the products; any leading dimensions."""
    return tuple(m[a] - torch.linalg.vecdot(m[s], m[s]) / m["n"] for a, s in (("a", "x"), ("b", "y")))


def _center(m: Moments, product: str, first: str, second: str) -> Tensor:
    return m[product] - m[first][..., :, None] * m[second][..., None, :] / m["n"][..., None, None]


def traces(product: Float[Tensor, "*pairs p p"]) -> Float[Tensor, "*pairs"]:
    """Return the sum of the diagonal."""
    return product.diagonal(dim1=-2, dim2=-1).sum(-1)
