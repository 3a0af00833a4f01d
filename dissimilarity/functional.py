"""Every measure as one call: ``cka(x, y)`` gives the value that its class gives for the same samples."""

from dissimilarity.measures.angular_cka import angular_cka, product_distance
from dissimilarity.measures.bures import bures
from dissimilarity.measures.cca import cca
from dissimilarity.measures.cka import cka
from dissimilarity.measures.gulp import gulp
from dissimilarity.measures.linear_regression import linear_regression
from dissimilarity.measures.mutual_knn import mutual_knn
from dissimilarity.measures.permutation_procrustes import permutation_procrustes
from dissimilarity.measures.procrustes import procrustes
from dissimilarity.measures.pwcca import pwcca
from dissimilarity.measures.svcca import svcca

__all__ = [
    "angular_cka",
    "bures",
    "cca",
    "cka",
    "gulp",
    "linear_regression",
    "mutual_knn",
    "permutation_procrustes",
    "procrustes",
    "product_distance",
    "pwcca",
    "svcca",
]
