"""Comparing neural networks from the inside: measures, capture, error bars and nulls, curves over training.

x (n, p) and y (n, q) hold the same n samples; widths may differ. Values are the literature's (CKA 1 = same, Procrustes
0 = same); ``to_dissimilarity`` turns each so that 0 = same and up = more different.
"""

from dissimilarity.capture.hooks import capture
from dissimilarity.comparison.compare import compare
from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.comparison.saved import save_activations
from dissimilarity.measures.angular_cka import AngularCKA
from dissimilarity.measures.bures import Bures
from dissimilarity.measures.cca import CCA
from dissimilarity.measures.cka import CKA
from dissimilarity.measures.disagreement import Disagreement
from dissimilarity.measures.distance_correlation import DistanceCorrelation
from dissimilarity.measures.gulp import GULP
from dissimilarity.measures.jaccard_knn import JaccardKNN
from dissimilarity.measures.jsd import JSD
from dissimilarity.measures.kl import KL
from dissimilarity.measures.linear_regression import LinearRegression
from dissimilarity.measures.minibatch_cka import MinibatchCKA
from dissimilarity.measures.mutual_knn import MutualKNN
from dissimilarity.measures.permutation_procrustes import PermutationProcrustes
from dissimilarity.measures.procrustes import Procrustes
from dissimilarity.measures.pwcca import PWCCA
from dissimilarity.measures.rbf_cka import RBFCKA
from dissimilarity.measures.rsa import RSA
from dissimilarity.measures.svcca import SVCCA
from dissimilarity.probe.probe_set import ProbeSet
from dissimilarity.stitching.stitch import Stitch

__all__ = [
    "AngularCKA",
    "Bures",
    "CCA",
    "CKA",
    "Disagreement",
    "DistanceCorrelation",
    "GULP",
    "JSD",
    "JaccardKNN",
    "KL",
    "LinearRegression",
    "MinibatchCKA",
    "MutualKNN",
    "PWCCA",
    "PermutationProcrustes",
    "ProbeSet",
    "Procrustes",
    "RBFCKA",
    "RSA",
    "SVCCA",
    "Stitch",
    "capture",
    "compare",
    "compare_many",
    "save_activations",
]
