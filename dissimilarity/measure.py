"""What every measure declares, and the two ways to feed one.

A moment measure is a differentiable formula of ``Moments``; a sample measure compares a bounded number of rows. Each
is a ``torchmetrics.Metric`` (``update(x, y)``, ``compute()``) and each can be evaluated by the tracker on sums and
rows that all measures share.
"""

from abc import abstractmethod
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from dissimilarity.moments import Moments, add, as_rows, mean, pair_moments, reshift
from dissimilarity.sampling import keep_sampled, priorities

INVARIANCES = ("orthogonal", "isotropic_scaling", "translation", "permutation", "invertible_linear")


def problem(x: Tensor, name: str = "x", minimum: int = 1) -> str | None:
    """What keeps rows (n, p) from being compared: too few, not finite, or all the same; None if nothing."""
    if not x.is_floating_point():
        return f"{name} must hold floating-point activations, found {x.dtype}: cast it, for example with .float()"
    if len(x) < minimum:
        return f"too few samples: {name} has {len(x)}, the measure needs at least {minimum}; pass more samples"
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        return f"{bad} of {x.numel()} values of {name} are NaN or infinite; look for overflow or divergence there"
    if bool((x == x[:1]).all()):
        return f"zero variance: all samples of {name} are equal, so there is nothing to compare"
    return None


def check_pair(x: Tensor, y: Tensor, minimum: int) -> None:
    """Raises ValueError, with expected, found and what to do, unless x (n, p) and y (n, q) can be compared."""
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(
            f"expected x of shape (n, p) and y of shape (n, q), found {tuple(x.shape)} and {tuple(y.shape)}; "
            "flatten (batch, pos, d) to (batch * pos, d)"
        )
    if len(x) != len(y):
        raise ValueError(
            f"x and y must hold the same samples, found {len(x)} and {len(y)} rows; compare both models on one probe set"
        )
    for rows, name in ((x, "x"), (y, "y")):
        found = problem(rows, name, minimum)
        if found:
            raise ValueError(found)


class Measure(Metric):
    """Base of all measures. Class attributes say what a value means; tests hold every measure to them.

    Attributes:
        higher_is_more_similar: direction of the value.
        bounds: smallest and largest value on data that the measure accepts.
        is_symmetric: whether swapping x and y leaves the value alone.
        is_metric: whether the value itself obeys the triangle inequality.
        invariant_to: the transformations of either side that leave the value alone, out of ``INVARIANCES``.
        minimum_samples: rows below which the value is not defined.
        identical: the value of a representation compared with itself.
    """

    full_state_update: ClassVar[bool | None] = False
    higher_is_more_similar: ClassVar[bool]
    bounds: tuple[float, float]
    is_symmetric: ClassVar[bool]
    is_metric: bool
    invariant_to: ClassVar[frozenset[str]]
    minimum_samples: int
    identical: ClassVar[float]

    @property
    @abstractmethod
    def label(self) -> str:
        """Name in tables, keys and figures; differs for every setting that changes the value."""

    def to_dissimilarity(self, value: Any) -> Any:
        """The value turned so that 0 = the same and up = more different; works on floats, arrays and tensors."""
        return self.identical - value if self.higher_is_more_similar else value - self.identical


class MomentMeasure(Measure):
    """A measure that follows exactly from moments, so that it streams over any number of samples."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("packed", torch.zeros(0, dtype=torch.float64), dist_reduce_fx=_merge_packed)

    @abstractmethod
    def from_moments(self, m: Moments) -> Float[Tensor, ""]:
        """The value, differentiable in the sums; independent of their shift."""

    def update(self, x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> None:
        """Adds the samples of one batch."""
        check_pair(x, y, minimum=1 if self.update_count > 1 else 2)
        packed = cast(Tensor, self.packed)
        if len(packed):
            shift_x, shift_y, total = _unpack(packed)
        else:
            shift_x, shift_y, total = mean(as_rows(x)), mean(as_rows(y)), {}
        self.packed = _pack(shift_x, shift_y, add(total, pair_moments(x, y, shift_x, shift_y)))

    def compute(self) -> Float[Tensor, ""]:
        """The value over all samples seen, on all processes."""
        packed = cast(Tensor, self.packed)
        have = int(packed[2]) if len(packed) else 0
        if have < self.minimum_samples:
            raise ValueError(
                f"too few samples for {self.label}: have {have}, need {self.minimum_samples}; update it with more"
            )
        return self.from_moments(_unpack(packed)[2])


class SampleMeasure(Measure):
    """A measure that compares rows with each other, so that it sees a bounded, seeded subsample of them.

    Args:
        samples: most rows that are compared.
        seed: which rows those are; the choice depends on it and on a row's place in the stream alone.
    """

    def __init__(self, samples: int = 1024, seed: int = 0) -> None:
        super().__init__()
        self.samples, self.seed = samples, seed
        self.seen = 0
        for name in ("x", "y", "priority"):
            self.add_state(name, [], dist_reduce_fx="cat")

    @abstractmethod
    def prepare(self, x: Float[Tensor, "n p"]) -> Any:
        """What the comparison needs of one side; computed once for a reference that does not change."""

    @abstractmethod
    def per_sample(self, x: Any, y: Any) -> Float[Tensor, " n"]:
        """One value a sample from two prepared sides; the measure's value is their mean."""

    def rearrange(self, x: Any, order: Int[Tensor, " n"]) -> Any:
        """The prepared side of rows x[order], for the null."""
        raise ValueError(f"{type(self).__name__} has no null: give it a rearrange method")

    def update(self, x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> None:
        """Adds the samples of one batch and keeps the chosen ones."""
        check_pair(x, y, minimum=1 if self.update_count > 1 else 2)
        priority = priorities(self.seen, len(x), self.seed).to(x.device)
        self.seen += len(x)
        kept = keep_sampled(self._rows(x, y, priority), self.samples)
        self.x, self.y, self.priority = ([part] for part in kept)

    def _rows(self, *more: Tensor) -> list[Tensor]:
        """The kept rows of both sides and their priorities, with a batch's appended."""
        states = cast(list[list[Tensor] | Tensor], [self.x, self.y, self.priority])
        kept = [[state] if isinstance(state, Tensor) else list(state) for state in states]
        return [torch.cat([*old, *new]) for old, new in zip(kept, [[part] for part in more] or [[]] * 3, strict=True)]

    def compute(self) -> Float[Tensor, ""]:
        """The value over the sampled rows of all samples seen, on all processes."""
        have = sum(len(part) for part in self.x) if isinstance(self.x, list) else len(cast(Tensor, self.x))
        if have < self.minimum_samples:
            raise ValueError(
                f"too few samples for {self.label}: have {have}, need {self.minimum_samples}; update it with more"
            )
        x, y, _ = keep_sampled(self._rows(), self.samples)
        return self.per_sample(self.prepare(as_rows(x)), self.prepare(as_rows(y))).mean()

    def reset(self) -> None:
        """Forgets all samples."""
        super().reset()
        self.seen = 0


_PACKED_KEYS = ("n", "x", "y", "xx", "yy", "xy", "a", "b", "aa", "bb", "ab", "xa", "yb", "xb", "ya")


def _pack(shift_x: Tensor, shift_y: Tensor, m: Moments) -> Tensor:
    """Widths, shifts and sums in one vector: one state, which processes can gather and merge."""
    widths = shift_x.new_tensor([len(shift_x), len(shift_y)], dtype=torch.float64)
    return torch.cat([widths, *(m[key].flatten() for key in _PACKED_KEYS), shift_x, shift_y])


def _unpack(packed: Tensor) -> tuple[Tensor, Tensor, Moments]:
    """The inverse of ``_pack``, as views."""
    p, q = int(packed[0]), int(packed[1])
    width = {"x": p, "y": q, "a": 1, "b": 1, "n": 1}
    shapes: dict[str, tuple[int, ...]] = {"n": (), "a": (), "b": (), "aa": (), "bb": (), "ab": (), "x": (p,), "y": (q,)}
    shapes |= {"xa": (p,), "xb": (p,), "ya": (q,), "yb": (q,)}
    shapes |= {key: (width[key[0]], width[key[1]]) for key in ("xx", "yy", "xy")}
    sizes = [2, *(torch.Size(shapes[key]).numel() for key in _PACKED_KEYS), p, q]
    _, *sums, shift_x, shift_y = packed.split(sizes)
    return shift_x, shift_y, {key: s.view(shapes[key]) for key, s in zip(_PACKED_KEYS, sums, strict=True)}


def _merge_packed(stacked: Tensor) -> Tensor:
    """One packed state from those of several processes, each of which shifted by its own first batch."""
    shift_x, shift_y, total = _unpack(stacked[0])
    for packed in stacked[1:]:
        other_x, other_y, sums = _unpack(packed)
        total = add(total, reshift(sums, other_x - shift_x, other_y - shift_y))
    return _pack(shift_x, shift_y, total)
