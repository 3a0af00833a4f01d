"""Every measure as one call: ``cka(x, y)`` gives the value that its class gives for the same samples."""

from dissimilarity.measures.cka import cka
from dissimilarity.measures.mutual_knn import mutual_knn
from dissimilarity.measures.procrustes import procrustes

__all__ = ["cka", "mutual_knn", "procrustes"]
