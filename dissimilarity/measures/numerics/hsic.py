"""The unbiased HSIC of two linear kernels, with samples or with whole sequences as its independent units.

HSIC_1 of Song et al. (2012) is the mean of k_ij l_ij + k_ij l_qr - 2 k_ij l_iq over all quadruples of different samples
i, j, q, r, with K = X X' and L = Y Y'. It is unbiased for independent samples. Samples of one sequence depend on each
other, so the mean over quadruples of samples from four different *sequences* is what is unbiased then. Both are
invariant to translation of either side. Where each sequence is one sample, the two are the same formula.

With the sums of ``moments.sequences`` and sums over *different* sequences s, t, ... of n_s, n_t, ... samples,

    A = sum (sum n_q n_r) <M_s, M_t>,  B = sum (a_s . a_t) (b_q . b_r),  C = sum (n_r) a_s' M_t b_q,  M_s = X_s' Y_s,

the mean is (A + B - 2 C) / sum n_s n_t n_q n_r. Each is a sum without that restriction minus those in which sequences
coincide.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dissimilarity.moments.pair import Moments

KEYS = ("xy", "xy1", "xy2")
"""Products of x and y over all sequences, times the powers 0, 1 and 2 of their lengths."""

NUMBERS_AT_ONCE = {"cpu": 2**17, "cuda": 2**24}
"""Numbers of the sums per unit that are taken in float64 together: few enough to stay in the cache."""

MINIMUM = 4
"""Number of sequences of a quadruple."""

SELF = {
    **{"xx": "xy", "aa": "ab", "a": "a", "x": "x", "xa": "xb"},
    **{"u": "u", "xx1": "xy1", "xx2": "xy2", "gg0": "gh0", "gg1": "gh1", "gg2": "gh2", "gg_s": "gh_s"},
    **{"kk0": "kl0", "kk1": "kl1", "xk0": "xl0", "xk1": "xl1"},
}
"""The sums of one side -> those of the pair of that side with itself."""

TWINS = {"a": "b", "x": "y", "xb": "ya", "u": "v", "xl0": "yk0", "xl1": "yk1"}
"""Sums of a pair that are equal where both sides are the same."""


def with_itself(side: Moments) -> Moments:
    """Return the sums of the pair of a side, under first-side names, with itself."""
    pair = {SELF[key]: value for key, value in side.items() if key in SELF}
    twins = {twin: pair[key] for key, twin in TWINS.items() if key in pair}
    return {**{key: side[key] for key in ("n", "lengths") if key in side}, **pair, **twins}


def hsic(m: Moments) -> Float[Tensor, "*pairs"]:
    """Return HSIC of a pair from its sums, with sequences as units if there are sums over sequences."""
    if "u" not in m:
        return _of_samples(m)
    pairs = m["xy"].shape[:-2]
    flat = {key: value.reshape(-1, *value.shape[len(pairs) :]) for key, value in m.items()}
    return hsic_of_sequences(flat)[0].view(pairs)


def squares(product: Float[Tensor, "*pairs p q"]) -> Float[Tensor, "*pairs"]:
    """Return the squared Frobenius norm."""
    # vecdot takes five times as long over several matrices.
    return torch.linalg.vector_norm(product, dim=(-2, -1)).square()


def _of_samples(m: Moments) -> Float[Tensor, "*pairs"]:
    n, xy, ab, sx, sy = m["n"], m["xy"], m["ab"], m["x"], m["y"]
    trace = squares(xy) - ab
    total_k, total_l = _dot(sx, sx) - m["a"], _dot(sy, sy) - m["b"]
    chain = _dot(sx, (xy @ sy[..., None])[..., 0])
    inner = chain - _dot(sx, m["xb"]) - _dot(sy, m["ya"]) + ab
    return (trace + total_k * total_l / ((n - 1) * (n - 2)) - 2 / (n - 2) * inner) / (n * (n - 3))


def _dot(u: Float[Tensor, "*#pairs p"], v: Float[Tensor, "*#pairs p"]) -> Float[Tensor, "*_"]:
    return (u * v).sum(-1)


def hsic_of_sequences(m: Moments, units: Moments | None = None) -> Float[Tensor, "times pairs"]:
    """Return HSIC of pairs with sequences as units: over all, and then without each jackknife unit in turn.

    Args:
        m: the sums over all samples, (pairs, ...).
        units: the same sums per unit, (units, pairs, ...) or (units, 1, ...); None for the value alone.
    """
    small = [key for key in m if key[:2] in ("gh", "kl", "xl", "yk") or key == "lengths"]
    rest = {key: m[key][None] for key in small}
    if units is not None:
        rest = {key: torch.cat([whole, whole - units[key]]) for key, whole in rest.items()}
    n = rest["lengths"]
    weights = [(n > 0).double(), n] if "xy1" in m else [(n > 0).double()]
    a, b = (torch.stack([torch.einsum("tps,psd->tpd", w, m[key]) for w in weights], 2) for key in "uv")
    inner = _all_products(m, b) if units is None else _products_without(m, units, b)

    def power(key: str, e: int) -> Tensor:
        return rest.get(f"{key}{e}", rest[f"{key}0"])

    def different(f: int, g: int) -> Tensor:
        """Return the sum of n_s^f n_t^g <M_s, M_t>."""
        return _at(inner.mm, f, g) - power("gh", f + g)

    def chain(f: int, g: int, h: int) -> Tensor:
        """Return the sum of n_s^f n_t^g n_q^h a_s' M_t b_q."""
        a_f, b_h = _at(a.movedim(2, -1), f), _at(b.movedim(2, -1), h)
        value = _dot(a_f, _at(inner.mb, g, h)) - _at(inner.md, g, f + h) + 2 * power("kl", f + g + h)
        return value - _dot(a_f, power("xl", g + h)) - _dot(b_h, power("yk", f + g))

    k, l = (torch.linalg.vecdot(m[key], m[key]) * weights[0] for key in "uv")  # noqa: E741
    rows_k, rows_l = (
        (torch.einsum("psd,tpd->tps", m[key], total[:, :, 0]) * weights[0] - own)
        for key, total, own in (("u", a, k), ("v", b, l))
    )
    total_k, total_l = rows_k.sum(-1), rows_l.sum(-1)
    fours = total_k * total_l - 4 * _dot(rows_k, rows_l) + 2 * (inner.dd - _dot(k, l))
    return mean_of_quadruples(n, different, chain, fours, m["n"] / m["lengths"].sum(-1))


def mean_of_quadruples(
    n: Float[Tensor, "*times sequences"],
    different: Callable[[int, int], Tensor],
    chain: Callable[[int, int, int], Tensor],
    fours: Float[Tensor, "*times"],
    mean: Tensor,
) -> Float[Tensor, "*times"]:
    """Return the mean over quadruples of samples of different sequences; NaN with fewer than four sequences.

    Args:
        n: lengths of the sequences in units of their mean; 0 for those that are left out.
        different: powers f, g -> sum of n_s^f n_t^g <M_s, M_t> over different sequences.
        chain: powers f, g, h -> sum of n_s^f n_t^g n_q^h a_s' M_t b_q over different sequences.
        fours: sum of (a_s . a_t) (b_q . b_r) over different sequences.
        mean: number of samples in a mean length.
    """
    value = quadruple_mean([(n**e).sum(-1) for e in (1, 2, 3, 4)], different, chain, fours, mean)
    return torch.where((n > 0).sum(-1) < MINIMUM, torch.nan, value)


def quadruple_mean(
    n: Sequence[Tensor],
    different: Callable[[int, int], Tensor],
    chain: Callable[[int, int, int], Tensor],
    fours: Tensor,
    mean: Tensor,
) -> Tensor:
    """Return ``mean_of_quadruples`` from the sums of the powers 1 to 4 of the lengths."""
    n1, n2, n3, n4 = n
    pairs = (n1**2 - n2) * different(0, 0) - 4 * n1 * different(0, 1) + 4 * different(0, 2) + 2 * different(1, 1)
    triples = n1 * chain(0, 0, 0) - chain(1, 0, 0) - chain(0, 1, 0) - chain(0, 0, 1)
    quadruples = n1**4 - 6 * n1**2 * n2 + 3 * n2**2 + 8 * n1 * n3 - 6 * n4
    return (pairs / mean**2 + fours / mean**4 - 2 * triples / mean**3) / quadruples


def _at(values: Tensor, *powers: int) -> Tensor:
    """Return the values at some powers of the lengths; all are the same where lengths are equal."""
    return values[(..., *(min(e, size - 1) for e, size in zip(powers, values.shape[-len(powers) :], strict=True)))]


@dataclass(frozen=True)
class _Products:
    """Inner products over the sequences that remain each time; the last two indices are powers of lengths.

    Attributes:
        mm: <M_f, M_g>, M_f = sum n_s^f M_s.
        md: <M_f, D_g>, D_g = sum n_s^g a_s b_s'.
        mb: M_f b_g, b_g = sum n_s^g b_s.
        dd: <D_0, D_0>.
    """

    mm: Float[Tensor, "times pairs powers powers"]
    md: Float[Tensor, "times pairs powers weights"]
    mb: Float[Tensor, "times pairs p powers weights"]
    dd: Float[Tensor, "times pairs"]


def _all_products(m: Moments, b: Float[Tensor, "times pairs weights q"]) -> _Products:
    """Return the products over all sequences, once."""
    products = [m[key] for key in KEYS if key in m]
    mm = torch.stack([torch.stack([_inner(first, other) for other in products], -1) for first in products], -2)
    md = torch.stack([_along(m, product) for product in products], 1) @ _lengths(m, b.shape[2]).mT
    return _Products(mm[None], md[None], _times_sums(products, b), _along_sums(m["u"], m["v"]).sum(-1)[None])


def _products_without(m: Moments, units: Moments, b: Float[Tensor, "times pairs weights q"]) -> _Products:
    """Return the products of all, and without each unit in turn from those of its sums with the sums of all.

    One pass over the sums per unit serves all products: sums without a unit are never formed.
    """
    whole, u, v, lengths = _all_products(m, b[:1]), m["u"], m["v"], _lengths(m, b.shape[2])
    products = [m[key] for key in KEYS if key in m]
    powers, weights = len(products), b.shape[2]
    large = torch.stack([*products, *((u * weight[..., None]).mT @ v for weight in lengths.unbind(1))], 1).flatten(2)
    along, along_sums = torch.stack([_along(m, product) for product in products], 1), _along_sums(u, v)
    members, is_member = _members(units["lengths"])
    u, v = (sums[:, members].movedim(1, 0) * is_member[:, None, :, None] for sums in (u, v))
    lengths, along = (values[:, :, members].movedim(2, 0) * is_member[:, None, None] for values in (lengths, along))
    dd = 2 * (along_sums[:, members].movedim(1, 0) * is_member[:, None]).sum(-1) - _along_sums(u, v).sum(-1)
    right = torch.cat([b[1:], v], 2)
    at_once = max(1, NUMBERS_AT_ONCE["cuda" if large.is_cuda else "cpu"] // large[:, :powers].numel())
    space = large.new_empty(len(large), min(at_once, len(members)), powers, *products[0].shape[1:])
    mm, md, mb = [], [], []
    for part in torch.arange(len(members)).split(at_once):
        at = slice(int(part[0]), int(part[-1]) + 1)
        space = space[:, : len(part)]
        for f, key in enumerate(KEYS[:powers]):
            space[:, :, f] = units[key][at].movedim(0, 1)
        flat = space.flatten(3)
        # Units as rows of one product: with units as a batch, torch would copy the other factor for each.
        inner = (flat.flatten(1, 2) @ large.mT).unflatten(1, flat.shape[1:3]).movedim(1, 0)
        cross, cross_sums = inner.split([powers, weights], -1)
        sums = (space @ right[at, :, None].mT.movedim(0, 1)).movedim(1, 0)
        m_b, m_v = sums.split([weights, members.shape[1]], -1)
        apart = along[at] - (u[at].mT[:, :, None] * m_v).sum(-2)
        mm.append(cross + cross.mT - (flat @ flat.mT).movedim(1, 0))
        md.append(cross_sums + apart @ lengths[at].mT)
        mb.append(m_b.movedim(2, 3))
    whole_mb = _times_sums(products, b)
    return _Products(
        torch.cat([whole.mm, whole.mm - torch.cat(mm)]),
        torch.cat([whole.md, whole.md - torch.cat(md)]),
        torch.cat([whole_mb[:1], whole_mb[1:] - torch.cat(mb)]),
        torch.cat([whole.dd, whole.dd - dd]),
    )


def _members(
    lengths: Float[Tensor, "units pairs sequences"],
) -> tuple[Int[Tensor, "units most"], Bool[Tensor, "units most"]]:
    """Return the places of the sequences of each unit, up to the number in the largest, and which are there."""
    is_member = lengths[:, 0] > 0
    most = int(is_member.sum(1).max())
    places = (~is_member).byte().argsort(dim=1, stable=True)[:, :most]
    return places, is_member.gather(1, places)


def _times_sums(
    products: list[Float[Tensor, "pairs p q"]], b: Float[Tensor, "times pairs weights q"]
) -> Float[Tensor, "times pairs p powers weights"]:
    """Return M_f b_g each time."""
    return torch.stack([torch.einsum("pde,tpge->tpdg", product, b) for product in products], -2)


def _lengths(m: Moments, powers: int) -> Float[Tensor, "pairs powers sequences"]:
    """Return the powers of the lengths of sequences."""
    return torch.stack([m["lengths"] ** e for e in range(powers)], 1)


def _inner(u: Float[Tensor, "pairs p q"], v: Float[Tensor, "pairs p q"]) -> Float[Tensor, " pairs"]:
    """Return the inner product of two matrices."""
    return squares(u) if u is v else (u.flatten(1)[:, None] @ v.flatten(1)[..., None])[:, 0, 0]


def _along(m: Moments, product: Float[Tensor, "pairs p q"]) -> Float[Tensor, "pairs sequences"]:
    """Return a_s' M b_s of each sequence s."""
    return _dot(m["u"] @ product, m["v"])


def _along_sums(u: Float[Tensor, "*pairs n p"], v: Float[Tensor, "*pairs n q"]) -> Float[Tensor, "*pairs n"]:
    """Return a_s' D b_s of each sequence, D = sum a_s b_s', by whichever of n x n and p x q products is less work."""
    n, p, q = u.shape[-2], u.shape[-1], v.shape[-1]
    return ((u @ u.mT) * (v @ v.mT)).sum(-1) if n * (p + q) <= p * q else _dot(u @ (u.mT @ v), v)
