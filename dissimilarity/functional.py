"""Every measure as a function: ``cka(x, y)`` returns the value that its class returns for the same samples.

x (n, p) and y (n, q) hold the same n samples, as tensors, numpy arrays or nested lists. ``rankme``,
``participation_ratio``, ``alpha_req`` and ``first_component_share`` measure one representation alone.
"""

from dissimilarity.measures.angular_cka import angular_cka, product_distance
from dissimilarity.measures.bures import bures
from dissimilarity.measures.cca import cca
from dissimilarity.measures.cka import cka
from dissimilarity.measures.disagreement import disagreement
from dissimilarity.measures.distance_correlation import distance_correlation
from dissimilarity.measures.gulp import gulp
from dissimilarity.measures.intrinsic import alpha_req, first_component_share, participation_ratio, rankme
from dissimilarity.measures.jaccard_knn import jaccard_knn
from dissimilarity.measures.jsd import jsd
from dissimilarity.measures.kl import kl
from dissimilarity.measures.linear_regression import linear_regression
from dissimilarity.measures.minibatch_cka import minibatch_cka
from dissimilarity.measures.mutual_knn import mutual_knn
from dissimilarity.measures.permutation_procrustes import permutation_procrustes
from dissimilarity.measures.procrustes import procrustes
from dissimilarity.measures.pwcca import pwcca
from dissimilarity.measures.rbf_cka import rbf_cka
from dissimilarity.measures.rsa import rsa
from dissimilarity.measures.svcca import svcca

__all__ = [
    "alpha_req",
    "angular_cka",
    "bures",
    "cca",
    "cka",
    "disagreement",
    "distance_correlation",
    "first_component_share",
    "gulp",
    "jaccard_knn",
    "jsd",
    "kl",
    "linear_regression",
    "minibatch_cka",
    "mutual_knn",
    "participation_ratio",
    "permutation_procrustes",
    "procrustes",
    "product_distance",
    "pwcca",
    "rankme",
    "rbf_cka",
    "rsa",
    "svcca",
]
