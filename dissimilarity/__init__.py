"""Comparing neural networks from the inside: measures, capture, error bars and nulls, curves over training.

x (n, p) and y (n, q) hold the same n samples; widths may differ. Values are the literature's (CKA 1 = same, Procrustes
0 = same); ``to_dissimilarity`` turns each so that 0 = same and up = more different.
"""

from dissimilarity.capture import capture
from dissimilarity.compare import compare
from dissimilarity.measures.cka import CKA
from dissimilarity.measures.mutual_knn import MutualKNN
from dissimilarity.measures.procrustes import Procrustes

__all__ = ["CKA", "MutualKNN", "Procrustes", "capture", "compare"]
