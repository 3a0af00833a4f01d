"""Arguments of the trackers that no training could have are refused, with what is legal."""

import pytest
import torch

from dissimilarity import CKA
from dissimilarity.lightning import DissimilarityTracker, StitchingTracker


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": -5}, "expected every >= 1, a number of steps, found -5"),
        ({"heatmap_every": 0}, "expected heatmap_every >= 1"),
        ({"budget": 5.0}, "expected 0 < budget <= 1"),
        ({"budget": float("nan")}, "expected 0 < budget <= 1"),
    ],
)
def test_dissimilarity_tracker_refuses(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        DissimilarityTracker(["init"], [CKA()], torch.zeros(8, 4, dtype=torch.long), tmp_path, **arguments)


@pytest.mark.parametrize(("argument", "value"), [("every", 0), ("budget", 0.0)])
def test_stitching_tracker_refuses(argument, value, tmp_path):
    with pytest.raises(ValueError, match=f"expected .*{argument}"):
        StitchingTracker(["init"], lambda n: torch.zeros(n, 4, dtype=torch.long), tmp_path, **{argument: value})
