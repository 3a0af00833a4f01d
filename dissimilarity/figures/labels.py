"""Where labels of points go, so that none is printed over another label or over a point."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Inches = NDArray[np.float64]
MARK = 0.045
"""Half of the side of a point."""
GAP = 0.02
ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)


def place_labels(points: Inches, sizes: Inches, box: Inches) -> Inches:
    """Return the center of a label for each point: as near to it as there is space, NaN if there is none.

    Args:
        points: (n, 2), in inches from the lower left corner of a box.
        sizes: width and height of each label, (n, 2).
        box: width and height of the box that labels stay in.

    Examples:
        >>> place_labels(np.array([[1.0, 1.0]]), np.array([[0.4, 0.1]]), np.array([2.0, 2.0])).round(3).tolist()
        [[1.265, 1.0]]
    """
    centers = np.full(points.shape, np.nan)
    taken, halves = [points], [np.full(points.shape, MARK)]
    for index in np.argsort(_crowding(points)):
        half = sizes[index] / 2
        others, reach = np.concatenate(taken), np.concatenate(halves) + half + GAP
        for spots in _spots(points[index], half, float(np.hypot(*box))):
            inside = ((spots >= half) & (spots <= box - half)).all(-1)
            free = spots[inside & (np.abs(spots[:, None] - others) >= reach).any(-1).all(-1)]
            if len(free):
                centers[index] = free[0]
                taken.append(free[:1])
                halves.append(half[None])
                break
    return centers


def _spots(point: Inches, half: Inches, farthest: float) -> Iterator[Inches]:
    """Yield where the center of a label may be, on one ring after the other, to the right before to the left."""
    beside = half + MARK + GAP + 1e-6
    around = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
    # On the rectangle around the point that a label touches, then farther and farther away.
    touching = around / np.maximum(np.abs(around / beside).max(1, keepdims=True), 1e-9)
    for distance in np.arange(0, farthest, 0.06):
        yield point + touching + distance * around


def _crowding(points: Inches) -> NDArray[np.float64]:
    """Return how far the nearest other point is from each: those in a crowd are labeled first."""
    distances = np.hypot(*(points[:, None] - points).transpose(2, 0, 1))
    np.fill_diagonal(distances, np.inf)
    return distances.min(1) if len(points) > 1 else np.zeros(len(points))
