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

All are taken about a shift that is fixed before the first sum (the mean of the first batch), so that a large common
offset costs no digits; every formula that reads them is invariant to that shift.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

Moments = dict[str, Tensor]

SWAPPED = {"x": "y", "xx": "yy", "a": "b", "aa": "bb", "xa": "yb"}


def sum_device(device: torch.device) -> torch.device:
    """Where float64 sums live: beside the data, or on the CPU for devices without float64 (MPS)."""
    return torch.device("cpu") if device.type == "mps" else device


@contextmanager
def full_float32() -> Iterator[None]:
    """Products in true float32, whatever a training script chose for speed (TF32 or bfloat16 products)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def as_rows(x: Tensor) -> Tensor:
    """Samples as float32 or float64 rows: (..., d) -> (n, d), half precision cast up before any sum."""
    rows = x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x[:, None]
    return rows if rows.dtype == torch.float64 else rows.float()


def squared_norms(x: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
    """Squared length of each row, summed in float64 where the device has it."""
    return torch.linalg.vector_norm(x.to(sum_device(x.device)), dim=-1, dtype=torch.float64).square()


def product(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> Float[Tensor, "p q"]:
    """x' y, multiplied in the precision of x and kept in float64."""
    with full_float32():
        return (x.T @ y.to(x)).to(sum_device(x.device)).double()


def side_moments(x: Float[Tensor, "n p"], a: Float[Tensor, " n"]) -> Moments:
    """The sums that need one side only, under its names as the first side.

    Args:
        x: shifted rows of this side.
        a: their squared norms, from ``squared_norms``.
    """
    return {
        "x": x.to(a.device).sum(0, dtype=torch.float64),
        "xx": product(x, x),
        "a": a.sum(),
        "aa": (a * a).sum(),
        "xa": product(x, a[:, None])[:, 0],
    }


def cross_moments(
    x: Float[Tensor, "n p"],
    a: Float[Tensor, " n"],
    y: Float[Tensor, "n width"],
    b: Float[Tensor, "n partners"],
) -> Moments:
    """The sums of one site with all its partners at once, from shifted rows of the same samples.

    Args:
        x, a: rows of the site and their squared norms.
        y: rows of all partners, side by side.
        b: squared norms of each partner's rows.

    Returns:
        ``xy`` (p, width), ``ab`` (partners,), ``xb`` (p, partners), ``ya`` (width,).
    """
    return {"xy": product(x, y), "ab": a @ b, "xb": product(x, b), "ya": product(y, a[:, None])[:, 0]}


def only_partner(cross: Moments) -> Moments:
    """Cross sums of a site with its single partner, in the shapes of the table above."""
    return {"xy": cross["xy"], "ab": cross["ab"][..., 0], "xb": cross["xb"][..., 0], "ya": cross["ya"]}


def join(n: Tensor, x_side: Moments, y_side: Moments, cross: Moments) -> Moments:
    """All sums of a pair from the sums of its two sides (each under first-side names) and their cross sums."""
    return {"n": n, **x_side, **{SWAPPED[key]: value for key, value in y_side.items()}, **cross}


def add(total: Moments, more: Moments) -> Moments:
    """Sums over the union of two sets of samples that were shifted alike; an empty dict stands for no samples."""
    return {key: value + more[key] for key, value in total.items()} if total else dict(more)


def pair_moments(
    x: Float[Tensor, "n p"],
    y: Float[Tensor, "n q"],
    shift_x: Float[Tensor, " p"] | None = None,
    shift_y: Float[Tensor, " q"] | None = None,
) -> Moments:
    """All sums of one pair of representations, about the given shifts (by default the means)."""
    x, y = as_rows(x), as_rows(y)
    x = x - (mean(x) if shift_x is None else shift_x).to(x)
    y = y - (mean(y) if shift_y is None else shift_y).to(y)
    a, b = squared_norms(x), squared_norms(y)
    n = torch.tensor(float(len(x)), dtype=torch.float64, device=a.device)
    return join(n, side_moments(x, a), side_moments(y, b), only_partner(cross_moments(x, a, y, b[:, None])))


def mean(x: Float[Tensor, "n p"]) -> Float[Tensor, " p"]:
    """Column means, summed in float64."""
    return x.to(sum_device(x.device)).double().mean(0)


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


def centred(m: Moments) -> tuple[Tensor, Tensor, Tensor]:
    """Centred sums of products (Xc'Xc, Yc'Yc, Xc'Yc); any leading dimensions."""

    def centre(product: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return product - s[..., :, None] * t[..., None, :] / m["n"][..., None, None]

    return centre(m["xx"], m["x"], m["x"]), centre(m["yy"], m["y"], m["y"]), centre(m["xy"], m["x"], m["y"])
