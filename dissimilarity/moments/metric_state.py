"""The state of a streaming moment measure in one vector, which processes can gather and merge.

While there are fewer samples than dimensions, the state holds the samples themselves, n (p + q) numbers, so that the
dual form can be computed; after that it holds their sums. Layout, in float64: the widths of x and y and the number of
samples held; then either the samples of x and of y, or n and the other sums of ``Moments`` and their offsets.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.moments.pair import SWAPPED, Moments, add, check_range, pair_moments
from dissimilarity.moments.products import choose_offset

_KEYS = ("n", "x", "y", "xx", "yy", "xy", "a", "b", "aa", "bb", "ab", "xa", "yb", "xb", "ya", "eps_x", "eps_y")
_SCALARS = ("n", "a", "b", "aa", "bb", "ab", "eps_x", "eps_y")
_HEAD = 3


def pack_samples(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> Float[Tensor, " packed"]:
    """Pack a batch: as its samples or, with at least as many samples as dimensions, as its sums."""
    p, q = x.shape[1], y.shape[1]
    if len(x) < max(p, q):
        head = x.new_tensor([p, q, len(x)], dtype=torch.float64)
        return torch.cat([head, x.double().flatten(), y.double().flatten()])
    offset_x, offset_y = choose_offset(x), choose_offset(y)
    return _pack(pair_moments(x, y, offset_x, offset_y), offset_x, offset_y)


def merged(parts: Sequence[Tensor] | Tensor) -> Float[Tensor, " packed"]:
    """Merge several states, a list of them or one tensor of all; their offsets may differ.

    Raises:
        ValueError: the sums over all samples leave the range of float64.
    """
    states = _split(parts)
    if len(states) == 1:
        return states[0]
    held = [part for state in states if (part := samples(state)) is not None]
    if len(held) == len(states):
        return pack_samples(torch.cat([x for x, _ in held]), torch.cat([y for _, y in held]))
    offset_x, offset_y = _offsets(next(state for state in states if samples(state) is None))
    total: Moments = {}
    for state in states:
        total = add(total, _sums_about(state, offset_x, offset_y))
    for side in (total, {first: total[second] for first, second in SWAPPED.items() if second in total}):
        check_range(side, torch.float64)
    return _pack(total, offset_x, offset_y)


def sums_of_part(part: Float[Tensor, " of_part"], whole: Float[Tensor, " of_whole"]) -> Moments:
    """Return the sums of a state about the offsets of another one, which holds sums, so that they can be subtracted."""
    return _sums_about(part, *_offsets(whole))


def _sums_about(state: Tensor, offset_x: Tensor, offset_y: Tensor) -> Moments:
    state_samples = samples(state)
    if state_samples is not None:
        return pair_moments(*state_samples, offset_x, offset_y)
    other_x, other_y = _offsets(state)
    return move_offset(sums(state), other_x - offset_x, other_y - offset_y)


def widths(parts: Sequence[Tensor] | Tensor) -> tuple[int, int]:
    """Return the widths of x and y."""
    head = parts[:2] if isinstance(parts, Tensor) else parts[0][:2]
    return int(head[0]), int(head[1])


def count(state: Float[Tensor, " packed"]) -> int:
    """Return the number of samples."""
    return int(state[2]) or int(state[_HEAD])


def samples(state: Float[Tensor, " packed"]) -> tuple[Tensor, Tensor] | None:
    """Return the samples (n, p) and (n, q) in float64, None where the state holds sums."""
    p, q, n = (int(size) for size in state[:_HEAD])
    if not n:
        return None
    x, y = state[_HEAD:].split([n * p, n * q])
    return x.view(n, p), y.view(n, q)


def sums(state: Float[Tensor, " packed"]) -> Moments:
    """Return the sums as views, where the state holds sums."""
    shapes = _shapes(state)
    _, *values, _, _ = state.split(_sizes(state))
    return {key: value.view(shapes[key]) for key, value in zip(_KEYS, values, strict=True)}


def move_offset(m: Moments, dx: Float[Tensor, " p"], dy: Float[Tensor, " q"]) -> Moments:
    """Return the sums of x_i + dx and y_i + dy from those of x_i and y_i.

    Merging two accumulations with different offsets needs it (processes that each chose one from their first batch).
    Every line expands the products of (x_i + dx), (y_i + dy) and their squared norms.
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
    moved = {"x": x, "xx": xx, "a": a, "aa": aa, "xa": xa, "y": y, "yy": yy, "b": b, "bb": bb, "yb": yb}
    return {
        **{key: m[key] for key in ("n", "eps_x", "eps_y")},
        **moved,
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


def _pack(m: Moments, offset_x: Tensor, offset_y: Tensor) -> Tensor:
    head = offset_x.new_tensor([len(offset_x), len(offset_y), 0], dtype=torch.float64)
    return torch.cat([head, *(m[key].flatten() for key in _KEYS), offset_x.double(), offset_y.double()])


def _offsets(state: Tensor) -> tuple[Tensor, Tensor]:
    *_, offset_x, offset_y = state.split(_sizes(state))
    return offset_x, offset_y


def _split(parts: Sequence[Tensor] | Tensor) -> list[Tensor]:
    remaining = parts if isinstance(parts, Tensor) else torch.cat(list(parts))
    states = []
    while len(remaining):
        size = sum(_sizes(remaining))
        states.append(remaining[:size])
        remaining = remaining[size:]
    return states


def _shapes(state: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape of each sum in the state that starts here."""
    width = {"x": int(state[0]), "y": int(state[1])}
    vectors = {key: (width[key[0]],) for key in ("x", "y", "xa", "xb", "ya", "yb")}
    matrices = {key: (width[key[0]], width[key[1]]) for key in ("xx", "yy", "xy")}
    return {**dict.fromkeys(_SCALARS, ()), **vectors, **matrices}


def _sizes(state: Tensor) -> list[int]:
    """Return the lengths of the parts of the state that starts here."""
    p, q, n = (int(size) for size in state[:_HEAD])
    if n:
        return [_HEAD, n * p, n * q]
    shapes = _shapes(state)
    return [_HEAD, *(torch.Size(shapes[key]).numel() for key in _KEYS), p, q]
