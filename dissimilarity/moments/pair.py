"""Sums over samples from which a whole group of measures follows exactly.

Linear CKA, Procrustes and the CCA family never need the samples themselves, only second moments, and debiased CKA
needs a few fourth-order sums beside them. Sums stream over batches, merge across groups, processes and machines by
addition, and take O(p q) memory whatever the number of samples.

A ``Moments`` is a plain dict of float64 tensors over the same samples (rows x_i, y_i; a_i = |x_i|^2, b_i = |y_i|^2):

| key | sum over samples of | shape |
| --- | --- | --- |
| ``n`` | 1 | () |
| ``x``, ``y`` | x_i, y_i | (p,), (q,) |
| ``xx``, ``yy``, ``xy`` | x_i x_i', y_i y_i', x_i y_i' | (p, p), (q, q), (p, q) |
| ``a``, ``b`` | a_i, b_i | () |
| ``aa``, ``bb``, ``ab`` | a_i^2, b_i^2, a_i b_i | () |
| ``xa``, ``xb`` | x_i a_i, x_i b_i | (p,) |
| ``ya``, ``yb`` | y_i a_i, y_i b_i | (q,) |
| ``e``, ``f`` | unit roundoff of the row's type, for x and y | () |

``e / n`` says how far the sums of x can be trusted (1.2e-7 of float32 rows): what decides on ranks reads it.

All are taken about a shift that is fixed before the first sum (the mean of the first batch), so that a large common
offset costs no digits; every formula that reads them is invariant to that shift.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Moments = dict[str, Tensor]

HEAVY = 16.0
"""How many times the median squared norm sets a row apart from the float32 products."""

SWAPPED = {"x": "y", "xx": "yy", "a": "b", "aa": "bb", "xa": "yb", "e": "f"}


def sum_device(device: torch.device) -> torch.device:
    """Where float64 sums live: beside the data, or on the CPU for devices without float64 (MPS)."""
    return torch.device("cpu") if device.type == "mps" else device


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Products in true float32, whatever a training script chose for speed (TF32, bfloat16, autocast)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def as_rows(x: Tensor) -> Tensor:
    """Samples as float32 or float64 rows: (..., d) -> (n, d), half precision cast up before any sum."""
    rows = x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x[:, None]
    return rows if rows.dtype == torch.float64 else rows.float()


def squared_norms(x: Float[Tensor, "groups n p"]) -> Float[Tensor, "groups n"]:
    """Squared length of each row, summed in float64 where the device has it."""
    device = sum_device(x.device)
    # Some hundred rows at a time stay in the processor's cache; all at once would take 20 times as long.
    at_once = x.shape[1] if x.is_cuda else 2**17 // max(1, len(x) * x.shape[-1])
    parts = (part.to(device).double() for part in x.split(max(1, at_once), 1))
    return torch.cat([torch.linalg.vecdot(part, part) for part in parts], 1)


def heavy(norms: Float[Tensor, "groups n"]) -> Bool[Tensor, "groups n"]:
    """Rows that outweigh the others, by their squared norms.

    A single massive activation leaves more rounding in a float32 product than all other rows add to it, and debiased
    HSIC takes just that row's part away again: one token of a thousand times the others' length would cost CKA 1e-3.
    """
    return norms > HEAVY * norms.median()


def products(
    x: Float[Tensor, "groups n p"],
    y: Float[Tensor, "groups n q"] | None,
    apart: Bool[Tensor, "groups n"],
    light: Float[Tensor, "groups n p"] | None = None,
) -> tuple[Float[Tensor, "p q"], Float[Tensor, "groups p q"]]:
    """x' y over all rows, and for each group; x' x where y is None.

    Rows are multiplied in the precision of x, but in float64 those that are set apart. What is added up here is so in
    float64; a product comes as it is, for a copy of a large one costs time.

    Args:
        x, y: rows.
        apart: those to be set apart.
        light: ``without(x, apart)``, where it is at hand.
    """
    device = sum_device(x.device)
    light = without(x, apart) if light is None else light
    exact = light is x
    with full_float32(x.device):
        by_group = (gram(light) if y is None else product(light, y.to(x))).to(device)
    y = x if y is None else y
    single = len(by_group) == 1 and exact
    total = by_group[0] if single else summed(by_group)
    if not exact:
        for group in apart.any(1).nonzero()[:, 0]:
            rows = apart[group]
            more = x[group, rows].to(device).double().T @ y[group, rows].to(device).double()
            total += more
            by_group[group] += more
    return total, by_group


def without(x: Float[Tensor, "groups n p"], apart: Bool[Tensor, "groups n"]) -> Float[Tensor, "groups n p"]:
    """The rows with zeros in place of those that are set apart; the same tensor where float32 rounding is no matter."""
    return x if x.dtype == torch.float64 or not bool(apart.any()) else x.masked_fill(apart[..., None], 0)


def summed(parts: Float[Tensor, "groups p q"]) -> Float[Tensor, "p q"]:
    """Their sum in float64, one by one: torch's sum over a first dimension in another type takes ten times that."""
    total = parts[0].to(torch.float64, copy=True)
    for part in parts[1:]:
        accumulate(total, part)
    return total


def accumulate(total: Tensor, more: Tensor) -> None:
    """Adds in place, a few rows at a time: torch first makes a copy of what is of another type than the total."""
    rows = max(1, 2**18 // max(1, total[:1].numel())) if total.ndim else 0
    for part, addend in zip(total.split(rows), more.split(rows), strict=True) if rows else [(total, more)]:
        part += addend


def weighted_sums(
    x: Float[Tensor, "groups n p"],
    weights: Float[Tensor, "groups n k"],
    apart: Bool[Tensor, "groups n"],
    light: Float[Tensor, "groups n p"] | None = None,
) -> tuple[Float[Tensor, "p k"], Float[Tensor, "groups p k"]]:
    """x' w as ``products`` gives it, the weights brought to 1 on average, lest float32 overflow or vanish."""
    size = weights.mean((0, 1))
    size = torch.where(size > 0, size, 1.0)
    total, by_group = products(x, weights / size, apart, light)
    return total * size, by_group * size


def product(x: Float[Tensor, "groups n p"], y: Float[Tensor, "groups n q"]) -> Float[Tensor, "groups p q"]:
    """x' y of each group."""
    if y.shape[-1] < x.shape[-1] // 8:  # the few columns of weights take up to ten times as long as second factor
        return (y.mT @ x).mT
    return (x[0].T @ y[0])[None] if len(x) == 1 else x.mT @ y


def gram(x: Float[Tensor, "groups n p"]) -> Float[Tensor, "groups p p"]:
    """x' x of each group; of one with wide rows only the blocks on and above the diagonal: 5/8 of the work."""
    width = x.shape[-1]
    if len(x) > 1 or width < 256:
        return product(x, x)
    whole = x.new_empty(1, width, width)
    for start in range(0, width, block := -(-width // 4)):
        stop = min(start + block, width)
        whole[:, start:stop, start:] = product(x[..., start:stop], x[..., start:])
        whole[:, stop:, start:stop] = whole[:, start:stop, stop:].mT
    return whole


def side_moments(
    x: Float[Tensor, "groups n p"], a: Float[Tensor, "groups n"], apart: Bool[Tensor, "groups n"]
) -> tuple[Moments, Moments]:
    """The sums that need one side only, under its names as the first side: over all rows, and per group.

    Args:
        x: shifted rows of this side.
        a: their squared norms, from ``squared_norms``.
        apart: the rows among them to be multiplied in float64, from ``heavy``.
    """
    xx, xx_groups = products(x, None, apart)
    xa, xa_groups = weighted_sums(x, a[..., None], apart)
    groups = {
        "x": x.sum(1).to(a.device).double(),
        "xx": xx_groups,
        "a": a.sum(1),
        "aa": a.square().sum(1),
        "e": a.new_full((len(a),), a.shape[1] * torch.finfo(x.dtype).eps),
        "xa": xa_groups[..., 0],
    }
    totals = {key: groups[key].sum(0) for key in ("x", "a", "aa", "e")}
    return {**totals, "xx": xx, "xa": xa[:, 0]}, groups


def in_range(side: Moments) -> bool:
    """Whether sums of one side are what they say: float32 products overflow above 1e12, and vanish below 1e-19."""
    # No entry of xx exceeds its diagonal, and that is as good as its sum: no pass over the whole matrix.
    finite = all(bool(torch.isfinite(side[key]).all()) for key in ("x", "a", "aa", "xa"))
    return finite and bool((side["xx"].trace() - side["a"]).abs() <= 1e-3 * side["a"])


def cross_moments(
    xs: Iterable[Float[Tensor, "groups n _"]],
    a: Float[Tensor, "groups n sites"],
    ys: Sequence[Float[Tensor, "groups n _"]],
    b: Float[Tensor, "groups n partners"],
    apart: Bool[Tensor, "groups n"],
) -> Iterator[tuple[str, int, int, Tensor, Tensor]]:
    """The sums of several sites with all their partners, part by part, from shifted rows of the same samples.

    Args:
        xs: rows of all sites, some sites side by side at a time: one wide product is faster than many.
        ys: rows of all partners, likewise.
        a, b: squared norms of each site's, and of each partner's, rows.
        apart: the rows that are heavy on any side.

    Yields:
        key, index of x's part, index of y's part, the sum over all rows, and that per group (groups, ...):
        ``xy`` of each two parts, ``xb`` (columns, partners) of each part of x, ``ya`` (columns, sites) of each of y,
        and ``ab`` (sites, partners).
    """
    for row, x in enumerate(xs):
        light = without(x, apart)
        yield "xb", row, 0, *weighted_sums(x, b, apart, light)
        for column, y in enumerate(ys):
            yield "xy", row, column, *products(x, y, apart, light)
    for column, y in enumerate(ys):
        yield "ya", 0, column, *weighted_sums(y, a, apart)
    by_group = a.mT @ b
    yield "ab", 0, 0, by_group.sum(0), by_group


def one_pair(cross: Moments, rows: slice, site: int, columns: slice, partner: int) -> Moments:
    """The cross sums of one site and one partner out of those of all, in the shapes of the table above."""
    return {
        "xy": cross["xy"][..., rows, columns],
        "ab": cross["ab"][..., site, partner],
        "xb": cross["xb"][..., rows, partner],
        "ya": cross["ya"][..., columns, site],
    }


def join(n: Tensor, x_side: Moments, y_side: Moments, cross: Moments) -> Moments:
    """All sums of a pair from the sums of its two sides (each under first-side names) and their cross sums."""
    return {"n": n, **x_side, **{SWAPPED[key]: value for key, value in y_side.items()}, **cross}


def add(total: Moments, more: Moments) -> Moments:
    """Sums over the union of two sets of samples that were shifted alike; an empty dict stands for no samples."""
    return {key: value + more[key] for key, value in total.items()} if total else dict(more)


@dataclass(frozen=True)
class Rows:
    """One side of a pair: what is computed once where the side does not change.

    Attributes:
        rows: rows about a shift, (1, n, p).
        norms: their squared lengths, (1, n).
        apart: which of them are heavy, (1, n).
        sums: their own sums, under first-side names.
    """

    rows: Tensor
    norms: Tensor
    apart: Tensor
    sums: Moments


SMALL = 2**16
"""Numbers of a side whose products are taken in float64 in any case, where that costs nothing."""


def prepared_rows(x: Float[Tensor, "n p"], shift: Float[Tensor, " p"] | None = None) -> Rows:
    """A side about the given shift, by default about ``worthwhile_shift``.

    Raises:
        ValueError: values too large or too small for float32 products.
    """
    x = x.double() if x.numel() <= SMALL else x
    rows = shifted(x, worthwhile_shift(x) if shift is None else shift)[None]
    norms = squared_norms(rows)
    apart = heavy(norms).to(rows.device)
    sums = {key: value.double() for key, value in side_moments(rows, norms, apart)[0].items()}
    if not in_range(sums):
        raise ValueError("values are too large or too small for float32 sums; pass them as .double()")
    return Rows(rows, norms, apart, sums)


def between_rows(x: Rows, y: Rows) -> Moments:
    """All sums of a pair of two sides."""
    if x.rows.shape[1] != y.rows.shape[1]:
        raise ValueError(
            f"expected the same samples on both sides, found {x.rows.shape[1]} and {y.rows.shape[1]} rows; "
            "prepare both on one probe set"
        )
    n = torch.tensor(float(x.rows.shape[1]), dtype=torch.float64, device=x.norms.device)
    norms_x, norms_y = x.norms[..., None], y.norms[..., None]
    parts = cross_moments([x.rows], norms_x, [y.rows], norms_y, x.apart | y.apart)
    cross = {key: total.double() for key, _, _, total, _ in parts}
    one = one_pair(cross, slice(None), 0, slice(None), 0)
    return join(n, x.sums, y.sums, one)


def pair_moments(
    x: Float[Tensor, "n p"],
    y: Float[Tensor, "n q"],
    shift_x: Float[Tensor, " p"] | None = None,
    shift_y: Float[Tensor, " q"] | None = None,
) -> Moments:
    """All sums of one pair of representations, about the given shifts (by default ``worthwhile_shift``)."""
    return between_rows(prepared_rows(as_rows(x), shift_x), prepared_rows(as_rows(y), shift_y))


def own_coordinates(x: Float[Tensor, "n p"]) -> Float[Tensor, "n rank"]:
    """The rows about their mean, n < p of them, in orthonormal coordinates of their own span: all angles are kept."""
    centered_rows = x - mean(x).to(x)
    return torch.linalg.qr(centered_rows.T, mode="r").R.T


def worthwhile_shift(x: Float[Tensor, "n p"]) -> Float[Tensor, " p"]:
    """The mean of the rows where it would cost digits, else zero, which costs no pass over the rows: some tell."""
    few = x[:: max(1, len(x) // 256)].to(sum_device(x.device)).double()
    guess = few.mean(0)
    return mean(x) if bool(2 * guess @ guess > few.square().sum(1).mean()) else torch.zeros_like(guess)


def shifted(x: Float[Tensor, "*n p"], shift: Float[Tensor, " p"]) -> Float[Tensor, "*n p"]:
    """The rows about a shift; the rows themselves about none."""
    return x - shift.to(x) if bool(shift.any()) else x


def mean(x: Float[Tensor, "n p"]) -> Float[Tensor, " p"]:
    """Column means, float64: a shift, which need not be the exact mean."""
    return x.mean(0).to(sum_device(x.device)).double()


def reshift(m: Moments, dx: Float[Tensor, " p"], dy: Float[Tensor, " q"]) -> Moments:
    """The same sums about another shift: rows x_i + dx and y_i + dy instead of x_i and y_i.

    Needed only where two accumulations with shifts of their own are merged (processes that each saw a first batch).
    Every line is the expansion of the products of (x_i + dx), (y_i + dy) and their squared norms.
    """

    def one_side(s: Tensor, ss: Tensor, a: Tensor, aa: Tensor, sa: Tensor, d: Tensor) -> tuple[Tensor, ...]:
        d2, ds, n = d @ d, d @ s, m["n"]
        return (
            s + n * d,
            ss + torch.outer(s, d) + torch.outer(d, s) + n * torch.outer(d, d),
            a + 2 * ds + n * d2,
            aa + 4 * (d @ sa) + 2 * d2 * a + 4 * (d @ ss @ d) + 4 * d2 * ds + n * d2 * d2,
            sa + 2 * (ss @ d) + d2 * s + d * (a + 2 * ds + n * d2),
        )

    x, xx, a, aa, xa = one_side(m["x"], m["xx"], m["a"], m["aa"], m["xa"], dx)
    y, yy, b, bb, yb = one_side(m["y"], m["yy"], m["b"], m["bb"], m["yb"], dy)
    dx2, dy2, n = dx @ dx, dy @ dy, m["n"]
    return {
        "n": n,
        "x": x,
        "xx": xx,
        "a": a,
        "aa": aa,
        "xa": xa,
        "y": y,
        "yy": yy,
        "b": b,
        "bb": bb,
        "yb": yb,
        "e": m["e"],
        "f": m["f"],
        "xy": m["xy"] + torch.outer(m["x"], dy) + torch.outer(dx, m["y"]) + n * torch.outer(dx, dy),
        "ab": m["ab"]
        + 2 * (dy @ m["ya"])
        + dy2 * m["a"]
        + 2 * (dx @ m["xb"])
        + 4 * (dx @ m["xy"] @ dy)
        + 2 * dy2 * (dx @ m["x"])
        + dx2 * b,
        "xb": m["xb"] + 2 * (m["xy"] @ dy) + dy2 * m["x"] + dx * b,
        "ya": m["ya"] + 2 * (dx @ m["xy"]) + dx2 * m["y"] + dy * a,
    }


def centered(m: Moments) -> tuple[Tensor, Tensor, Tensor]:
    """Centered sums of products (Xc'Xc, Yc'Yc, Xc'Yc); any leading dimensions."""
    return _center(m, "xx", "x", "x"), _center(m, "yy", "y", "y"), centered_cross(m)


def centered_cross(m: Moments) -> Tensor:
    """Xc'Yc alone; any leading dimensions."""
    return _center(m, "xy", "x", "y")


def centered_squares(m: Moments) -> tuple[Tensor, Tensor]:
    """|Xc|_F^2 and |Yc|_F^2, without a look at the products; any leading dimensions."""
    return tuple(m[a] - torch.linalg.vecdot(m[s], m[s]) / m["n"] for a, s in (("a", "x"), ("b", "y")))


def _center(m: Moments, product: str, first: str, second: str) -> Tensor:
    return m[product] - m[first][..., :, None] * m[second][..., None, :] / m["n"][..., None, None]


def traces(product: Float[Tensor, "*pairs p p"]) -> Float[Tensor, "*pairs"]:
    """Sum of the diagonal."""
    return product.diagonal(dim1=-2, dim2=-1).sum(-1)
