"""Streaming second moments: matrix products, the sums of one model, the sums over pairs of sites of two."""
