"""Comparison of models: their activations on a probe set, the one loop over two of them, and the resulting tables."""
