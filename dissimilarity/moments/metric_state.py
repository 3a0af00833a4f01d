"""The state of a streaming moment measure in one vector, which processes can gather and merge.

While there are fewer samples than dimensions the samples themselves are kept, (n, p + q) numbers, so that the dual form
can be taken; from then on their sums. Layout, float64: widths of x and y, rows kept; then either the rows of x and of
y, or n and the other sums of ``Moments``, and the shifts about which they are taken.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.moments.pair import Moments, add, pair_moments, reshift, worthwhile_shift

_KEYS = ("n", "x", "y", "xx", "yy", "xy", "a", "b", "aa", "bb", "ab", "xa", "yb", "xb", "ya", "e", "f")
_HEAD = 3


def pack_rows(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> Float[Tensor, " packed"]:
    """A batch, as its rows or, from as many rows as dimensions on, as its sums."""
    p, q = x.shape[1], y.shape[1]
    if len(x) < max(p, q):
        head = x.new_tensor([p, q, len(x)], dtype=torch.float64)
        return torch.cat([head, x.double().flatten(), y.double().flatten()])
    return _pack_sums(x, y, worthwhile_shift(x), worthwhile_shift(y))


def merged(parts: Sequence[Tensor] | Tensor) -> Float[Tensor, " packed"]:
    """One vector of several: a list of them, or one after the other in a tensor; shifts may differ."""
    split = _split(parts)
    if len(split) == 1:
        return split[0]
    kept = [found for part in split if (found := rows(part)) is not None]
    if len(kept) == len(split):
        return pack_rows(torch.cat([x for x, _ in kept]), torch.cat([y for _, y in kept]))
    first = next(part for part in split if rows(part) is None)
    shift_x, shift_y = _shifts(first)
    total: Moments = {}
    for part in split:
        own = rows(part)
        if own is not None:
            total = add(total, pair_moments(*own, shift_x, shift_y))
        else:
            other_x, other_y = _shifts(part)
            total = add(total, reshift(sums(part), other_x - shift_x, other_y - shift_y))
    return _pack(total, shift_x, shift_y)


def widths(parts: Sequence[Tensor] | Tensor) -> tuple[int, int]:
    """Widths of x and y."""
    head = parts[:2] if isinstance(parts, Tensor) else parts[0][:2]
    return int(head[0]), int(head[1])


def count(part: Float[Tensor, " packed"]) -> int:
    """Number of samples."""
    return int(part[2]) or int(part[_HEAD])


def rows(part: Float[Tensor, " packed"]) -> tuple[Tensor, Tensor] | None:
    """The samples (n, p) and (n, q), float64, where they are kept."""
    p, q, n = (int(size) for size in part[:_HEAD])
    if not n:
        return None
    x, y = part[_HEAD:].split([n * p, n * q])
    return x.view(n, p), y.view(n, q)


def sums(part: Float[Tensor, " packed"]) -> Moments:
    """The sums, as views, where the samples are not kept."""
    shapes = _shapes(part)
    _, *found, _, _ = part.split(_sizes(part))
    return {key: s.view(shapes[key]) for key, s in zip(_KEYS, found, strict=True)}


def _pack_sums(x: Tensor, y: Tensor, shift_x: Tensor, shift_y: Tensor) -> Tensor:
    return _pack(pair_moments(x, y, shift_x, shift_y), shift_x, shift_y)


def _pack(m: Moments, shift_x: Tensor, shift_y: Tensor) -> Tensor:
    head = shift_x.new_tensor([len(shift_x), len(shift_y), 0], dtype=torch.float64)
    return torch.cat([head, *(m[key].flatten() for key in _KEYS), shift_x.double(), shift_y.double()])


def _shifts(part: Tensor) -> tuple[Tensor, Tensor]:
    *_, shift_x, shift_y = part.split(_sizes(part))
    return shift_x, shift_y


def _split(parts: Sequence[Tensor] | Tensor) -> list[Tensor]:
    rest = parts if isinstance(parts, Tensor) else torch.cat(list(parts))
    found = []
    while len(rest):
        size = sum(_sizes(rest))
        found.append(rest[:size])
        rest = rest[size:]
    return found


def _shapes(part: Tensor) -> dict[str, tuple[int, ...]]:
    """Shape of each sum in the vector that starts here."""
    width = {"x": int(part[0]), "y": int(part[1])}
    scalars = {key: () for key in ("n", "a", "b", "aa", "bb", "ab", "e", "f")}
    vectors = {key: (width[key[0]],) for key in ("x", "y", "xa", "xb", "ya", "yb")}
    return {**scalars, **vectors, **{key: (width[key[0]], width[key[1]]) for key in ("xx", "yy", "xy")}}


def _sizes(part: Tensor) -> list[int]:
    """Lengths of the parts of the vector that starts here."""
    p, q, n = (int(size) for size in part[:_HEAD])
    if n:
        return [_HEAD, n * p, n * q]
    shapes = _shapes(part)
    return [_HEAD, *(torch.Size(shapes[key]).numel() for key in _KEYS), p, q]
