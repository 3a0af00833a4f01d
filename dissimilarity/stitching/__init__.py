"""Stitching: a map from a site of a front model into a site of a back model, and the loss that it costs."""

from dissimilarity.capture.enter import enter, enterable_sites
from dissimilarity.stitching.across_tokenizers import AlignedPenalty, aligned_penalties
from dissimilarity.stitching.baselines import baselines, randomized, shuffled
from dissimilarity.stitching.block_swap import front_streams, fronted
from dissimilarity.stitching.connectivity import Barrier, barrier, barrier_of, scores_between
from dissimilarity.stitching.direct import direct_penalties
from dissimilarity.stitching.penalty import Penalty
from dissimilarity.stitching.stitch import Stitch
from dissimilarity.stitching.task import PAPER, Recipe

__all__ = [
    "PAPER",
    "AlignedPenalty",
    "Barrier",
    "Penalty",
    "Recipe",
    "Stitch",
    "aligned_penalties",
    "barrier",
    "barrier_of",
    "baselines",
    "direct_penalties",
    "enter",
    "enterable_sites",
    "front_streams",
    "fronted",
    "randomized",
    "scores_between",
    "shuffled",
]
