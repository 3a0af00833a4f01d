"""Stitching: a map from a site of a front model into a site of a back model, and the loss that it costs."""

from dissimilarity.stitching.across import AlignedPenalty, aligned_penalties
from dissimilarity.stitching.baselines import baselines, randomised, shuffled
from dissimilarity.stitching.connectivity import Barrier, barrier
from dissimilarity.stitching.direct import direct_penalties
from dissimilarity.stitching.entering import enter, enterable_sites
from dissimilarity.stitching.penalty import Penalty
from dissimilarity.stitching.stitch import Stitch
from dissimilarity.stitching.task import PAPER, Recipe

__all__ = [
    "AlignedPenalty",
    "Barrier",
    "PAPER",
    "Penalty",
    "Recipe",
    "Stitch",
    "aligned_penalties",
    "barrier",
    "baselines",
    "direct_penalties",
    "enter",
    "enterable_sites",
    "randomised",
    "shuffled",
]
