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


def check_rows(x: Tensor, y: Tensor) -> None:
    """Raises ValueError, with expected, found and what to do, unless x (n, p) and y (n, q) hold the same samples."""
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(
            f"expected x of shape (n, p) and y of shape (n, q), found {tuple(x.shape)} and {tuple(y.shape)}; "
            "flatten (batch, pos, d) to (batch * pos, d)"
        )
    if len(x) != len(y):
        raise ValueError(
            f"expected the same samples in x and y, found {len(x)} and {len(y)} rows; compare both on one probe set"
        )
    for rows, name in ((x, "x"), (y, "y")):
        if not rows.is_floating_point():
            raise ValueError(
                f"{name} must hold floating-point activations, found {rows.dtype}: cast it, for example with .float()"
            )
        bad = int((~torch.isfinite(rows)).sum())
        if bad:
            raise ValueError(
                f"{bad} of {rows.numel()} values of {name} are NaN or infinite; look for overflow or divergence there"
            )


def check_pair(x: Tensor, y: Tensor, minimum: int) -> None:
    """Raises ValueError unless x (n, p) and y (n, q) can be compared: ``check_rows``, enough of them, not all equal."""
    check_rows(x, y)
    check_count(len(x), minimum)
    for rows, name in ((x, "x"), (y, "y")):
        if bool((rows == rows[:1]).all()):
            raise no_variance(name)


def check_count(have: int, need: int) -> None:
    """Raises ValueError where there are too few samples."""
    if have < need:
        raise ValueError(f"too few samples: have {have}, the measure needs at least {need}; pass more samples")


def check_widths(expected: tuple[int, int], x: Tensor, y: Tensor) -> None:
    """Raises ValueError where a batch is of other widths than those before it."""
    if (x.shape[1], y.shape[1]) != expected:
        raise ValueError(
            f"expected batches of widths {expected[0]} and {expected[1]} like the first one, found {x.shape[1]} and "
            f"{y.shape[1]}; reset() the measure before another pair of representations"
        )


def no_variance(name: str) -> ValueError:
    """The error for samples that are all the same."""
    return ValueError(f"zero variance: all samples of {name} are equal, so there is nothing to compare")


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
        # One vector of sums, or none before the first batch: torchmetrics gathers those of all processes into one.
        self.add_state("packed", [], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)

    @abstractmethod
    def from_moments(self, m: Moments) -> Float[Tensor, ""]:
        """The value, differentiable in the sums; independent of their shift."""

    def update(self, x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> None:
        """Adds the samples of one batch."""
        check_rows(x, y)
        if not len(x):
            return
        if self.packed:
            shift_x, shift_y, total = _merged(self.packed)
            check_widths((len(shift_x), len(shift_y)), x, y)
        else:
            shift_x, shift_y, total = mean(as_rows(x)), mean(as_rows(y)), {}
        self.packed = [_pack(shift_x, shift_y, add(total, pair_moments(x, y, shift_x, shift_y)))]

    def compute(self) -> Float[Tensor, ""]:
        """The value over all samples seen, on all processes."""
        total = _merged(self.packed)[2] if len(self.packed) else {}
        check_count(int(total["n"]) if total else 0, self.minimum_samples)
        for name, s, a in (("x", total["x"], total["a"]), ("y", total["y"], total["b"])):
            # Relative to the second moment about the first batch's mean, which float64 rows may miss by a rounding.
            if bool(a - s @ s / total["n"] <= 1e-12 * a):
                raise no_variance(name)
        return self.from_moments(total)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Merges as torchmetrics does (``forward``, ``merge_state``), but keeps one vector of sums, not one a batch."""
        super()._reduce_states(incoming_state)
        if len(self.packed):
            self.packed = [_pack(*_merged(self.packed))]


class SampleMeasure(Measure):
    """A measure that compares rows with each other, so that it sees a bounded, seeded subsample of them.

    Args:
        samples: most rows that are compared.
        seed: which rows those are; the choice depends on it and on a row's place in its process's stream alone.
    """

    full_state_update: ClassVar[bool | None] = True

    def __init__(self, samples: int = 1024, seed: int = 0) -> None:
        super().__init__()
        self.samples, self.seed = samples, seed
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")
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
        check_rows(x, y)
        if self.x:
            check_widths((cast(list[Tensor], self.x)[0].shape[1], cast(list[Tensor], self.y)[0].shape[1]), x, y)
        priority = priorities(int(self.seen), len(x), self.seed).to(x.device)
        self.seen = self.seen + len(x)
        kept = keep_sampled(self._rows(x, y, priority), self.samples)
        self.x, self.y, self.priority = ([part] for part in kept)

    def _rows(self, *more: Tensor) -> list[Tensor]:
        """The kept rows of both sides and their priorities, with a batch's appended."""
        states = cast(list[list[Tensor] | Tensor], [self.x, self.y, self.priority])
        kept = [[state] if isinstance(state, Tensor) else list(state) for state in states]
        return [torch.cat([*old, *new]) for old, new in zip(kept, [[part] for part in more] or [[]] * 3, strict=True)]

    def compute(self) -> Float[Tensor, ""]:
        """The value over the sampled rows of all samples seen, on all processes."""
        check_count(int(self.seen), self.minimum_samples)
        x, y, _ = keep_sampled(self._rows(), self.samples)
        check_pair(x, y, self.minimum_samples)
        return self.per_sample(self.prepare(as_rows(x)), self.prepare(as_rows(y))).mean()


_PACKED_KEYS = ("n", "x", "y", "xx", "yy", "xy", "a", "b", "aa", "bb", "ab", "xa", "yb", "xb", "ya")


def _pack(shift_x: Tensor, shift_y: Tensor, m: Moments) -> Tensor:
    """Widths, shifts and sums in one vector: one state, which processes can gather and merge."""
    widths = shift_x.new_tensor([len(shift_x), len(shift_y)], dtype=torch.float64)
    return torch.cat([widths, *(m[key].flatten() for key in _PACKED_KEYS), shift_x, shift_y])


def _shapes(packed: Tensor) -> dict[str, tuple[int, ...]]:
    """Shape of each sum in the packed vector that starts here."""
    width = {"x": int(packed[0]), "y": int(packed[1])}
    scalars = {key: () for key in ("n", "a", "b", "aa", "bb", "ab")}
    vectors = {key: (width[key[0]],) for key in ("x", "y", "xa", "xb", "ya", "yb")}
    return {**scalars, **vectors, **{key: (width[key[0]], width[key[1]]) for key in ("xx", "yy", "xy")}}


def _sizes(packed: Tensor) -> list[int]:
    """Lengths of the parts of the packed vector that starts here."""
    shapes = _shapes(packed)
    return [2, *(torch.Size(shapes[key]).numel() for key in _PACKED_KEYS), *shapes["x"], *shapes["y"]]


def _unpack(packed: Tensor) -> tuple[Tensor, Tensor, Moments]:
    """The inverse of ``_pack``, as views."""
    shapes = _shapes(packed)
    _, *sums, shift_x, shift_y = packed.split(_sizes(packed))
    return shift_x, shift_y, {key: s.view(shapes[key]) for key, s in zip(_PACKED_KEYS, sums, strict=True)}


def _merged(packed: Any) -> tuple[Tensor, Tensor, Moments]:
    """Shifts and sums of one or more packed vectors: a list, or one after the other in a tensor; shifts may differ."""
    rest = packed if isinstance(packed, Tensor) else torch.cat(list(packed))
    parts = []
    while len(rest):
        size = sum(_sizes(rest))
        parts.append(_unpack(rest[:size]))
        rest = rest[size:]
    shift_x, shift_y, total = parts[0]
    for other_x, other_y, sums in parts[1:]:
        total = add(total, reshift(sums, other_x - shift_x, other_y - shift_y))
    return shift_x, shift_y, total
