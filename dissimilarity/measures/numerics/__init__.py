"""Numerics that several measures share: whitening, centered products, distances, neighbors, ranks."""
