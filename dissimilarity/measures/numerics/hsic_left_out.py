"""HSIC without each sequence in turn, exactly, from a second pass over the samples.

No sum without a sequence is formed. What a sequence z adds to the terms of ``numerics.hsic`` is linear in its M_z with
the sums of all others, so inner products of M_z suffice: <M_z, M> and <M_z, D> by one product of the samples with a
matrix, |M_z|^2, and a few numbers per sample: x_i . a, y_i . b, k_i and l_i.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.numerics.hsic import KEYS, MINIMUM, quadruple_mean, squares
from dissimilarity.moments.bilinear import Matrices
from dissimilarity.moments.pair import Moments
from dissimilarity.moments.paired_samples import Part
from dissimilarity.moments.second_pass import SecondPass


def hsic_left_out(m: Moments, debiased: bool = True) -> SecondPass[Float[Tensor, "times pairs"]]:
    """Return HSIC of pairs over all samples, and then without each sequence in turn.

    Args:
        m: the sums over all samples, (pairs, ...); with sums over sequences, these are the units of HSIC.
        debiased: whether to return the unbiased HSIC, or |Xc'Yc|^2.
    """
    return _of_sequences(m) if debiased and "u" in m else _of_samples(m, debiased)


def _of_sequences(m: Moments) -> SecondPass[Float[Tensor, "times pairs"]]:
    products, u, v = [m[key] for key in KEYS if key in m], m["u"], m["v"]
    weights = [torch.ones_like(m["lengths"]), m["lengths"]][: 2 if len(products) > 1 else 1]
    a, b = ([torch.einsum("ps,psd->pd", weight, side) for weight in weights] for side in (u, v))
    diagonals = [(u * weight[..., None]).mT @ v for weight in weights]
    lengths = _from_zero(m["lengths"].mT)
    power_sums = [(m["lengths"] ** e).sum(-1) - lengths**e for e in (1, 2, 3, 4)]
    mean = m["n"] / m["lengths"].sum(-1)
    none = torch.zeros_like(power_sums[0])

    def power(key: str, e: int) -> Tensor:
        return m.get(f"{key}{e}", m[f"{key}0"])

    def along(side: Tensor, vector: Tensor) -> Float[Tensor, "times pairs"]:
        return _from_zero((side @ vector[..., None])[..., 0].mT)

    def mixed(slope: float, other: float) -> Tensor:
        """Return the mean of quadruples of constant terms, which says how much of each the mean has."""
        return quadruple_mean(power_sums, lambda f, g: none + slope, lambda f, g, h: none + other, none, mean)[1]

    if len(products) > 1:
        matrices = {f"mm{g}": product for g, product in enumerate(products)}
        matrices |= {f"md{g}": diagonal for g, diagonal in enumerate(diagonals)}
    else:
        # Where lengths are equal, no coefficient depends on the sequence, and one product serves both terms.
        of_products, of_diagonals = (share[:, None, None] for share in (-2 * mixed(1.0, 0.0), mixed(0.0, 1.0)))
        matrices = {"both": of_products * products[0] + of_diagonals * diagonals[0]}

    prepared = {name: Matrices(matrix) for name, matrix in matrices.items()}

    def terms(part: Part) -> Moments:
        k, l = (side.own_weights(part.members) for side in (part.x, part.y))  # noqa: E741
        x, y = (
            [side.along(vector, f"sums of all, lengths to the power {e}") for e, vector in enumerate(vectors)]
            for side, vectors in ((part.x, a), (part.y, b))
        )
        values = {name: part.bilinear(matrix) for name, matrix in prepared.items()}
        values |= {f"kb{h}": k * y_h for h, y_h in enumerate(y)} | {f"al{f}": x_f * l for f, x_f in enumerate(x)}
        values |= {f"ab{f}{h}": x[f] * y[h] for f, h in ((0, 0), (1, 0), (0, 1)) if max(f, h) < len(a)}
        values["kl"] = k * l
        return values if "gh_s" in m else values | {"gh_s": part.squares()}

    def result(sums: Moments) -> Float[Tensor, "times pairs"]:
        own = {name: _from_zero(sums.pop(name)) for name in [*sums]}
        own.setdefault("gh_s", _from_zero(m["gh_s"].mT) if "gh_s" in m else none)
        along_products = [_from_zero(((u @ product) * v).sum(-1).mT) for product in products]

        def inner(name: str, e: int) -> Tensor:
            return own.get(f"{name}{e}", none)

        def different(f: int, g: int) -> Tensor:
            whole = _inner(_at(products, f), _at(products, g)) - power("gh", f + g)
            one = lengths**f * (inner("mm", g) - lengths**g * own["gh_s"])
            return whole - one - lengths**g * (inner("mm", f) - lengths**f * own["gh_s"])

        def chain(f: int, g: int, h: int) -> Tensor:
            a_f, b_h, product = _at(a, f), _at(b, h), _at(products, g)
            n_f, n_g, n_h = lengths**f, lengths**g, lengths**h
            m_b, a_m = (product @ b_h[..., None])[..., 0], (a_f[:, None] @ product)[:, 0]
            whole = (a_m * b_h).sum(-1) - _inner(product, _at(diagonals, f + h)) + 2 * power("kl", f + g + h)
            whole = whole - (a_f * power("xl", g + h)).sum(-1) - (b_h * power("yk", f + g)).sum(-1)
            if len(a) == 1:
                f = h = 0
            kb, al, ab, kl = own[f"kb{h}"], own[f"al{f}"], own[f"ab{f}{h}"], own["kl"]
            middle = n_g * (ab - n_f * kb - n_h * al + 2 * n_f * n_h * kl - inner("md", f + h))
            both = _at(along_products, g)
            first = along(u, m_b - power("xl", g + h)) - n_h * both - n_g * kb + 2 * n_g * n_h * kl
            last = along(v, a_m - power("yk", f + g)) - n_f * both - n_g * al + 2 * n_g * n_f * kl
            return whole - middle - n_f * first - n_h * last

        value = quadruple_mean(power_sums, different, chain, _fours_left_out(u, v, a[0], b[0], diagonals[0]), mean)
        if "both" in own:
            value = value + own["both"]
        remaining = u.shape[1] - (torch.arange(len(value), device=value.device) > 0).long()
        return torch.where((remaining < MINIMUM)[:, None], torch.nan, value)

    return SecondPass(terms, result)


def _fours_left_out(
    u: Float[Tensor, "pairs sequences p"],
    v: Float[Tensor, "pairs sequences q"],
    a: Float[Tensor, "pairs p"],
    b: Float[Tensor, "pairs q"],
    diagonal: Float[Tensor, "pairs p q"],
) -> Float[Tensor, "times pairs"]:
    """Return the sum of (a_s . a_t) (b_q . b_r) over different sequences, and the same without each."""
    k, l = (torch.linalg.vecdot(side, side) for side in (u, v))  # noqa: E741
    rows_k, rows_l = (u @ a[..., None])[..., 0] - k, (v @ b[..., None])[..., 0] - l
    both = ((u @ diagonal) * v).sum(-1) - k * l
    mixed = (v * (rows_k[..., None] * v).sum(1, keepdim=True)).sum(-1) - rows_k * l
    mixed = mixed + (u * (rows_l[..., None] * u).sum(1, keepdim=True)).sum(-1) - rows_l * k
    total_k, total_l = (rows.sum(-1) - 2 * _from_zero(rows.mT) for rows in (rows_k, rows_l))
    rows = (rows_k * rows_l).sum(-1) - _from_zero((rows_k * rows_l + mixed - both).mT)
    return total_k * total_l - 4 * rows + 2 * (both.sum(-1) - 2 * _from_zero(both.mT))


def _of_samples(m: Moments, debiased: bool) -> SecondPass[Float[Tensor, "times pairs"]]:
    """Return HSIC with samples as units, or |Xc'Yc|^2."""
    product, sx, sy = m["xy"], m["x"], m["y"]
    c, d = (product @ sy[..., None])[..., 0], (sx[:, None] @ product)[:, 0]
    if debiased:  # without the pairs of a sample with itself, which would cost digits where one outweighs all others
        c, d = c - m["xb"], d - m["ya"]
    prepared = Matrices(product)

    def terms(part: Part) -> Moments:
        sides = part.x, part.y
        own_x, own_y = (side.own_sums(part.members) for side in sides)
        k, l = (side.own_weights(part.members) for side in sides)  # noqa: E741
        a, b = (side.norms() for side in sides)
        x, y = (side.along(vector, "sum of all samples") for side, vector in zip(sides, (sx, sy), strict=True))
        values = {"n": torch.ones_like(b), "a": a.expand_as(b), "b": b, "ab": a * b, "xs": x, "ys": y}
        values |= {"mm": part.bilinear(prepared), "xc": part.x.along(c), "yd": part.y.along(d)}
        values |= {"own": (x - k) * (y - l)}
        if debiased:
            values |= {"xc": values["xc"] - (x - k) * b, "yd": values["yd"] - (y - l) * a}
        squares_x, squares_y = own_x.square().sum(-1), own_y.square().sum(-1)
        both = torch.einsum("spd,pde,spe->sp", own_x.expand(-1, len(product), -1), product, own_y)
        return values | {"gh_s": part.squares(), "kx_s": squares_x.expand_as(both), "ky_s": squares_y, "both_s": both}

    def result(sums: Moments) -> Float[Tensor, "times pairs"]:
        own = {name: _from_zero(sums.pop(name)) for name in [*sums]}
        n, a, b, ab = (m[key] - own[key] for key in ("n", "a", "b", "ab"))
        trace = squares(product) - 2 * own["mm"] + own["gh_s"]
        total_x, total_y = (
            _dot(s, s) - 2 * own[key] + own[square] for s, key, square in ((sx, "xs", "kx_s"), (sy, "ys", "ky_s"))
        )
        chain = _dot(sx, c) - own["xc"] - own["yd"] + own["both_s"] - own["own"]
        if not debiased:
            return trace - 2 * chain / n + total_x * total_y / n**2
        chain = chain - _dot(sy, m["ya"]) + ab
        total_k, total_l = total_x - a, total_y - b
        return (trace - ab + total_k * total_l / ((n - 1) * (n - 2)) - 2 / (n - 2) * chain) / (n * (n - 3))

    return SecondPass(terms, result)


def _from_zero(values: Float[Tensor, "sequences pairs"]) -> Float[Tensor, "times pairs"]:
    """Return what is left out each time: first nothing."""
    return torch.cat([torch.zeros_like(values[:1]), values])


def _dot(u: Float[Tensor, "pairs p"], v: Float[Tensor, "pairs p"]) -> Float[Tensor, " pairs"]:
    return (u * v).sum(-1)


def _inner(u: Float[Tensor, "pairs p q"], v: Float[Tensor, "pairs p q"]) -> Float[Tensor, " pairs"]:
    return squares(u) if u is v else (u * v).sum((-2, -1))


def _at(values: Sequence[Tensor], power: int) -> Tensor:
    """Return the value at a power of the lengths; all are the same where lengths are equal."""
    return values[min(power, len(values) - 1)]
